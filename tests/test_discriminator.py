"""The patch discriminator: its form, and that it can be trained and fooled."""

import pytest
import torch
from torch import nn

from losses.adversarial import discriminator_loss, generator_loss
from models.discriminator import DiscriminatorConfig, PatchDiscriminator

SMALL = DiscriminatorConfig(width=0.125)


def test_form_of_the_published_discriminator():
    """pix2pixHD's: 64, 128, 256 channels of stride 2, 512 of stride 1, a score; twice, on the image and its half."""
    discriminator = PatchDiscriminator()
    features = discriminator(torch.rand(1, 3, 128, 128))
    assert [[tuple(f.shape[1:]) for f in scale] for scale in features] == [
        [(64, 65, 65), (128, 33, 33), (256, 17, 17), (512, 18, 18), (1, 19, 19)],
        [(64, 33, 33), (128, 17, 17), (256, 9, 9), (512, 10, 10), (1, 11, 11)],
    ]
    per_scale = sum(i * o * 16 + o for i, o in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1)))
    assert sum(p.numel() for p in discriminator.parameters()) == 2 * per_scale


def test_frames_of_a_window_are_judged_like_single_images():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(SMALL).double()
    window = torch.rand(2, 3, 3, 64, 64, dtype=torch.float64)
    together, alone = discriminator(window), discriminator(window[1, 2:])
    torch.testing.assert_close(together[1][-1][-1:], alone[1][-1])


def test_second_scale_sees_the_pooled_image():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(SMALL).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    half = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)(image)
    expected = half
    for layer in discriminator.networks[1].children():
        expected = layer(expected)
    torch.testing.assert_close(discriminator(image)[1][-1], expected)


def test_it_learns_to_tell_two_textures_apart():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(DiscriminatorConfig(width=0.125, scales=1))
    adam = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.999))

    def batch():
        noise = torch.rand(4, 3, 32, 32)
        return noise, nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)

    for _ in range(40):
        sharp, smooth = batch()
        loss = discriminator_loss(discriminator(sharp), discriminator(smooth))
        adam.zero_grad()
        loss.backward()
        adam.step()
    sharp, smooth = batch()
    real, generated = discriminator(sharp)[0][-1].mean(), discriminator(smooth)[0][-1].mean()
    assert real - generated > 0.5


def test_generator_loss_reaches_the_images():
    images = torch.rand(1, 2, 3, 64, 64, requires_grad=True)
    discriminator = PatchDiscriminator(SMALL).requires_grad_(False)
    generator_loss(discriminator(images)).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())


def test_five_frames_may_be_judged_together():
    discriminator = PatchDiscriminator(DiscriminatorConfig(together=5, width=0.125, scales=1, layers=2)).double()
    images = torch.rand(2, 5, 3, 32, 32, dtype=torch.float64)
    single, window = discriminator(images)
    assert len(single) == len(window) == 4
    assert single[-1].shape[:2] == (10, 1) and window[-1].shape[:2] == (2, 1)
    again, turned = discriminator(images.flip(1))  # single frames have no order, a window does
    torch.testing.assert_close(again[-1].unflatten(0, (2, 5)).flip(1).flatten(0, 1), single[-1])
    assert not torch.allclose(turned[-1], window[-1])


def test_bfloat16_autocast_keeps_the_losses_finite():
    discriminator = PatchDiscriminator(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        features = discriminator(torch.rand(1, 3, 64, 64))
        loss = generator_loss(features)
    assert features[0][-1].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_a_wrong_config_is_refused():
    with pytest.raises(ValueError, match="scales is 0; it must be positive"):
        PatchDiscriminator(DiscriminatorConfig(scales=0))
