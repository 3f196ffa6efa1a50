"""The loss terms against closed forms, numpy, torch's own losses and torchvision's VGG-19."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn
from torchvision.models import vgg19

from extensions.losses import gradient_loss, landmark_flow_loss, ssim_loss
from finetune_e2e import Finetuning
from losses.adversarial import discriminator_loss, feature_matching_loss, generator_loss
from losses.face import FaceLosses, FaceObjective
from losses.heatmap import HeatmapLosses, heatmap_terms
from losses.mutual_information import donsker_varadhan, mutual_information_loss
from losses.perceptual import PerceptualLoss, gram
from losses.reconstruction import hidden_weight, l1_loss, mouth_weight
from losses.semantic import frame_distance
from losses.sync import contrastive_loss, shifted_loss, sync_classification_loss, sync_loss
from losses.temporal import temporal_loss
from media.crop import CropForm
from media.errors import InputError
from models.face_synthesizer import FaceSynthesizerConfig
from models.temporal import deformation
from train_face import FaceTraining
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# Guidance prediction


def semantic(heatmaps, true_heatmaps, landmarks, true_landmarks):
    """Eq. 3, as training sums it."""
    batch = {"heatmaps": true_heatmaps, "keypoints": true_landmarks}
    return sum(heatmap_terms(heatmaps, landmarks, batch, HeatmapLosses(temporal=0)).values())


def test_semantic_loss_is_the_mean_norm_of_a_frame(generator):
    heatmaps, true_heatmaps = torch.rand(2, 2, 3, 1, 8, 6, generator=generator)
    landmarks, true_landmarks = torch.rand(2, 2, 3, 57, 2, generator=generator)
    expected = np.mean(
        [
            np.linalg.norm((heatmaps - true_heatmaps)[b, t].numpy())
            + np.linalg.norm((landmarks - true_landmarks)[b, t].numpy())
            for b in range(2)
            for t in range(3)
        ]
    )
    assert float(semantic(heatmaps, true_heatmaps, landmarks, true_landmarks)) == pytest.approx(expected, rel=1e-6)


def test_temporal_loss_ignores_a_constant_offset_and_sees_motion():
    true = torch.rand(2, 5, 57, 2)
    assert float(temporal_loss(true + 0.3, true)) == pytest.approx(0, abs=1e-5)
    drift = torch.arange(5.0).view(1, 5, 1, 1) * torch.tensor([0.03, 0.04])  # each point moves 0.05 a frame further
    assert float(temporal_loss(true + drift, true)) == pytest.approx(0.05 * math.sqrt(57), rel=1e-5)


def test_temporal_loss_of_a_single_frame_is_zero():
    landmarks = torch.rand(2, 1, 57, 2, requires_grad=True)
    loss = temporal_loss(landmarks, torch.rand(2, 1, 57, 2))
    loss.backward()
    assert loss == 0
    assert landmarks.grad is not None and not landmarks.grad.any()


def test_norms_have_a_finite_gradient_where_prediction_and_target_agree():
    heatmaps = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    landmarks = torch.rand(1, 2, 57, 2, requires_grad=True)
    loss = semantic(heatmaps, heatmaps.detach(), landmarks, landmarks.detach())
    (loss + temporal_loss(landmarks, landmarks.detach())).backward()
    for predicted in (heatmaps, landmarks):
        assert predicted.grad is not None and not predicted.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_heatmaps_are_summed_in_float32(dtype):
    prediction = torch.full((1, 1, 1, 512, 512), 1.0, dtype=dtype)  # 262144 squares: more than float16 can hold
    assert float(frame_distance(prediction, torch.zeros_like(prediction))) == 512


# Pixel terms


def test_pixel_terms_against_numpy(generator):
    faces, true = torch.rand(2, 2, 1, 3, 8, 8, generator=generator)
    weight = torch.rand(2, 1, 1, 8, 8, generator=generator)
    d, w = (faces - true).numpy(), np.broadcast_to(weight.numpy(), faces.shape)
    assert float(l1_loss(faces, true)) == pytest.approx(np.abs(d).mean(), rel=1e-6)
    assert float(l1_loss(faces, true, weight)) == pytest.approx(np.average(np.abs(d), weights=w), rel=1e-5)
    down, across = np.abs(np.diff(d, axis=-2)), np.abs(np.diff(d, axis=-1))
    expected = np.average(down, weights=w[..., 1:, :]) / 2 + np.average(across, weights=w[..., :, 1:]) / 2
    assert float(gradient_loss(faces, true, weight)) == pytest.approx(expected, rel=1e-5)


def test_gradient_loss_forgives_brightness_and_sees_blur(generator):
    true = torch.rand(1, 1, 3, 16, 16, generator=generator)
    assert float(gradient_loss(true + 0.2, true)) == pytest.approx(0, abs=1e-6)
    blurred = F.avg_pool2d(true[0], 3, stride=1, padding=1)[None]
    assert float(gradient_loss(blurred, true)) > float(l1_loss(blurred, true))


def test_ssim_loss_is_what_the_formula_s_map_lacks_of_1(generator):
    """Wang et al. 2004, eq. 13, with SciPy's Gaussian of radius 5."""
    true = torch.rand(1, 2, 3, 24, 24, generator=generator)
    faces = (true + 0.1 * torch.randn(true.shape, generator=generator)).clamp(0, 1)
    weight = torch.zeros(24, 24)
    weight[8:16, 4:20] = 1

    def mean(image):
        return gaussian_filter(image, 1.5, truncate=10 / 3, axes=(-2, -1), mode="mirror")

    x, y = faces.double().numpy(), true.double().numpy()
    variance_x, variance_y = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    luminance = (2 * mean(x) * mean(y) + 0.01**2) / (mean(x) ** 2 + mean(y) ** 2 + 0.01**2)
    similarity = luminance * (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
    assert float(ssim_loss(true, true)) == pytest.approx(0, abs=1e-6)
    assert float(ssim_loss(faces, true)) == pytest.approx(1 - similarity.mean(), abs=1e-5)
    assert float(ssim_loss(faces, true, weight)) == pytest.approx(1 - similarity[..., 8:16, 4:20].mean(), abs=1e-5)


def test_hidden_weight_looks_at_what_the_network_generates():
    true = torch.zeros(1, 1, 3, 8, 8)
    faces = true.clone()
    faces[..., :4, :] = 1  # wrong in the upper half alone
    assert l1_loss(faces, true, hidden_weight(CropForm.square(8))) == 0
    assert l1_loss(faces, true) == 0.5


def test_mouth_weight_covers_the_lips_alone():
    landmarks = torch.full((1, 1, 57, 2), 0.1)  # the jaw's points do not widen the box
    landmarks[..., 17:, 0] = torch.linspace(0.4, 0.6, 40)
    landmarks[..., 17:, 1] = torch.linspace(0.7, 0.8, 40)
    weight = mouth_weight(landmarks, CropForm.square(100), inside=5.0)
    rows, columns = (weight[0, 0, 0] == 5).nonzero(as_tuple=True)
    assert weight.shape == (1, 1, 1, 100, 100)
    assert (rows.min(), rows.max()) == (62, 87)
    assert (columns.min(), columns.max()) == (32, 67)
    assert weight.min() == 1
    narrow = mouth_weight(landmarks, CropForm(height=100, width=50), inside=5.0)
    assert torch.equal(narrow, weight[..., ::2])  # 100 columns in 50


# Adversarial terms


def test_adversarial_terms_are_least_squares_summed_over_scales():
    scores = [torch.tensor([[0.5]]), torch.tensor([[0.0, 2.0]])]
    features = [[torch.zeros(1), s] for s in scores]
    generated = 0.25 + (1 + 1) / 2
    assert float(generator_loss(features)) == pytest.approx(generated)
    zero = [[torch.zeros(1), torch.zeros_like(s)] for s in scores]
    assert float(discriminator_loss(features, zero)) == pytest.approx(generated / 2)
    assert float(discriminator_loss(zero, features)) == pytest.approx((1 + 1 + 0.25 + 2) / 2)


def test_feature_matching_weighs_each_layer_and_leaves_the_scores_out():
    generated = [[torch.full((1, 2), 0.1 * (i + 1)) for i in range(4)] + [torch.ones(1)] for _ in range(2)]
    real = [[torch.zeros(1, 2, requires_grad=True) for _ in range(4)] + [torch.zeros(1)] for _ in range(2)]
    for scale in generated:
        for feature in scale:
            feature.requires_grad_()
    loss = feature_matching_loss(generated, real)
    assert loss.item() == pytest.approx(2 * (2.5 / 2) * (4 / 4) * (0.1 + 0.2 + 0.3 + 0.4))
    loss.backward()
    assert all(feature.grad is None for scale in real for feature in scale)
    assert generated[0][4].grad is None


# Lip sync


def test_sync_terms_are_the_binary_cross_entropy_of_the_cosine(generator):
    sound, faces = torch.rand(2, 6, 16, generator=generator)  # not negative, as after the expert's ReLU
    cosines = torch.tensor(
        [
            np.dot(s, f) / np.linalg.norm(s) / np.linalg.norm(f)
            for s, f in zip(sound.numpy(), faces.numpy(), strict=True)
        ]
    )
    ones = torch.ones(6)
    torch.testing.assert_close(sync_loss(sound, faces), F.binary_cross_entropy(cosines, ones))
    in_sync = torch.tensor([1.0, 0, 0, 1, 1, 0])
    torch.testing.assert_close(
        sync_classification_loss(sound, faces, in_sync), F.binary_cross_entropy(cosines, in_sync)
    )


def test_sync_loss_pulls_opposite_embeddings_together():
    sound = torch.tensor([[1.0, 0.2]])
    faces = torch.tensor([[-1.0, 0.1]], requires_grad=True)
    first = sync_loss(sound, faces)
    first.backward()
    assert first.isfinite()
    assert faces.grad is not None and 0 < faces.grad.abs().max() <= 100
    assert sync_loss(sound, faces - 0.01 * faces.grad) < first


def test_sync_loss_of_zero_embeddings_is_finite():
    faces = torch.zeros(1, 4, requires_grad=True)
    loss = sync_loss(torch.zeros(1, 4), faces)
    loss.backward()
    assert loss.isfinite()
    assert faces.grad is not None and faces.grad.isfinite().all()


def test_contrastive_loss_against_numpy(generator):
    sound, faces = torch.randn(2, 5, 8, generator=generator)
    s = sound.numpy() / np.linalg.norm(sound, axis=1, keepdims=True)
    f = faces.numpy() / np.linalg.norm(faces, axis=1, keepdims=True)
    scores = np.exp(f @ s.T / 0.2)
    expected = (
        -np.mean([np.log(scores[i, i] / scores[i].sum()) + np.log(scores[i, i] / scores[:, i].sum()) for i in range(5)])
        / 2
    )
    assert float(contrastive_loss(sound, faces, 0.2)) == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(sound, faces, 0.2) == contrastive_loss(faces, sound, 0.2)


def test_contrastive_loss_is_zero_for_a_perfect_match_and_log_b_for_no_information():
    assert float(contrastive_loss(torch.eye(4), torch.eye(4), 0.01)) == pytest.approx(0, abs=1e-6)
    assert float(contrastive_loss(torch.ones(4, 3), torch.ones(4, 3))) == pytest.approx(math.log(4))


def test_contrastive_temperature_can_be_learned():
    temperature = torch.tensor(0.1, requires_grad=True)
    contrastive_loss(torch.randn(4, 3), torch.randn(4, 3), temperature).backward()
    assert temperature.grad is not None and temperature.grad.abs() > 0


def test_shifted_loss_tells_the_sound_among_its_own_clips_only(generator):
    sound, faces = torch.randn(2, 5, 8, generator=generator)
    others = torch.randn(5, 3, 8, generator=generator)
    rows = [F.cosine_similarity(torch.cat([sound[i : i + 1], others[i]]), faces[i], dim=1) / 0.2 for i in range(5)]
    expected = -np.mean([scipy.special.log_softmax(row.numpy())[0] for row in rows])
    assert float(shifted_loss(sound, faces, others, 0.2)) == pytest.approx(expected, rel=1e-5)
    assert float(shifted_loss(torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 6, 3))) == pytest.approx(math.log(7))


# Flow


def test_landmark_flow_loss_is_the_pixels_by_which_landmarks_are_read_beside_the_references():
    size = 32
    points = 0.25 + torch.rand(2, 3, 131, 2) / 2
    # Two references: moved by (3, -4) pixels, and not at all.
    moved = torch.tensor([[3.0, -4.0], [0.0, 0.0]]) / size
    references = points[:, :1] + moved[:, None]  # those of the first frame
    unmoved = deformation(torch.zeros(2 * 1 * 2, 2, size, size), "centres").view(2, 1, 2, 2, size, size)
    loss = landmark_flow_loss(unmoved, points[:, :1], references)
    assert float(loss) == pytest.approx(5 / 2, rel=1e-4)
    flow = torch.zeros(2, 1, 2, 2, size, size)
    flow[:, :, 0, 0], flow[:, :, 0, 1] = 3, -4
    right = deformation(flow.flatten(0, 2), "centres").view_as(flow)
    assert float(landmark_flow_loss(right, points[:, :1], references)) == pytest.approx(0, abs=1e-4)
    frames = landmark_flow_loss(right.expand(-1, 3, -1, -1, -1, -1), points, references)  # each frame by itself
    apart = (points - points[:, :1])[:, :, None].norm(dim=-1).mean() * size
    assert float(frames) == pytest.approx(float(apart), rel=1e-3)


# Mutual information


def test_bound_on_correlated_gaussians_approaches_the_closed_form():
    """x, y standard normal with correlation rho: I(x; y) = -log(1 - rho^2) / 2."""
    torch.manual_seed(0)
    rho = 0.8
    statistics = nn.Sequential(nn.Linear(2, 32), nn.ELU(), nn.Linear(32, 32), nn.ELU(), nn.Linear(32, 1))
    adam = torch.optim.Adam(statistics.parameters(), 5e-3)

    def pairs(count):
        x, noise = torch.randn(2, count, 1)
        y = rho * x + math.sqrt(1 - rho**2) * noise
        return torch.cat([x, y], dim=1), torch.cat([x, y.roll(1, 0)], dim=1)

    for _ in range(400):
        joint, marginal = pairs(512)
        loss = mutual_information_loss((statistics(joint), statistics(marginal)))
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        joint, marginal = pairs(50000)
        bound = float(donsker_varadhan(statistics(joint), statistics(marginal)))
    assert bound == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.04)


def test_bound_is_finite_for_large_scores_and_the_mean_over_scales():
    joint, marginal = torch.tensor([1000.0, 1002.0]), torch.tensor([999.0, 999.0])
    assert float(donsker_varadhan(joint, marginal)) == pytest.approx(2)
    zero = torch.zeros(2)
    assert float(mutual_information_loss((joint, marginal), (zero, zero))) == pytest.approx(-1)


# Perceptual


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Stand-in weights in torchvision's names and shapes, without the classifier."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = vgg19(weights=None, init_weights=False)
    state = {}
    for name, parameter in network.features.named_parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        value = (
            torch.randn(parameter.shape) * math.sqrt(2 / fan_in)
            if parameter.dim() > 1
            else torch.zeros(parameter.shape)
        )
        state[f"features.{name}"] = value
    path = tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def perceptual(vgg_file):
    return PerceptualLoss(vgg_file, gram_weight=250.0)


def reference_features(state, images):
    """relu1_1 .. relu5_1 through torchvision's own `features`, read off by forward hooks."""
    with torch.device("meta"):
        features = vgg19(weights=None, init_weights=False).features[:30].eval()
    state = {name.removeprefix("features."): value for name, value in state.items()}
    features.load_state_dict(state, strict=False, assign=True)
    caught = []
    for index in (1, 6, 11, 20, 29):
        features[index].register_forward_hook(lambda module, args, output: caught.append(output.detach().clone()))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    return caught


def test_perceptual_loss_against_torchvision(vgg_file, perceptual, generator):
    faces, true = torch.rand(2, 2, 3, 32, 32, generator=generator)
    state = torch.load(vgg_file, weights_only=True)
    expected = 0.0
    for scale in (1, 0.5):
        a, b = (F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False) for x in (faces, true))
        for p, g in zip(reference_features(state, a), reference_features(state, b), strict=True):
            p, g = p.double().numpy(), g.double().numpy()
            expected += np.abs(p - g).mean()
            if scale == 1:
                n, c, h, w = p.shape
                p, g = p.reshape(n, c, -1), g.reshape(n, c, -1)
                difference = (np.einsum("ncx,ndx->ncd", p, p) - np.einsum("ncx,ndx->ncd", g, g)) / (c * h * w)
                expected += 250 * np.abs(difference).mean()
    assert float(perceptual(faces, true)) == pytest.approx(expected, rel=1e-4)
    assert float(perceptual(faces[:, None], true[:, None])) == pytest.approx(expected, rel=1e-4)  # (B, T, 3, H, W)


@pytest.fixture(scope="module")
def exact(vgg_file):
    """`PerceptualLoss` in float64 with other options, on one set of weights."""
    loss = PerceptualLoss(vgg_file, gram_weight=250.0).double()

    def compute(faces, true, gram_weight=0.0, inputs="imagenet", scales=2):
        loss.gram_weight, loss.inputs, loss.scales = gram_weight, inputs, scales
        return float(loss(faces, true))

    return compute


@pytest.fixture(scope="module")
def plain_features(vgg_file):
    """torchvision's VGG-19 in float64, without a normalisation: images to relu1_1 .. relu5_1."""
    with torch.device("meta"):
        layers = vgg19(weights=None, init_weights=False).features[:30]
    state = {name.removeprefix("features."): value for name, value in torch.load(vgg_file, weights_only=True).items()}
    layers.load_state_dict(state, strict=False, assign=True)
    layers.double().requires_grad_(False)

    def features(x):
        maps = []
        for index, layer in enumerate(layers):
            x = layer(x)
            if index in (1, 6, 11, 20, 29):
                maps.append(x.clone())  # the next layer works in place
        return maps

    return features


def test_perceptual_inputs_are_imagenets_or_the_authors(exact, plain_features, generator):
    """The authors' module takes BGR in [0, 1] for RGB in [-1, 1], which halves the term."""
    faces, true = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64, generator=generator)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[:, :, None, None]
    found, expected = {}, {}
    for inputs in ("imagenet", "released"):
        features, style = 0.0, 0.0
        for scale in (1, 2):
            x, y = (F.avg_pool2d(images, scale) for images in (faces, true))
            if inputs == "released":
                x, y = ((images[:, [2, 1, 0]] + 1) / 2 for images in (x, y))
            for a, b in zip(plain_features((x - mean) / std), plain_features((y - mean) / std), strict=True):
                features += float((a - b).abs().mean())
                if scale == 1:
                    a, b = a[0].flatten(1), b[0].flatten(1)
                    style += float((a @ a.T - b @ b.T).abs().mean()) / a.numel()
        expected[inputs] = np.array([features, 250 * style])
        both, first = (exact(faces, true, weight, inputs) for weight in (250.0, 0.0))
        found[inputs] = np.array([first, both - first])
        np.testing.assert_allclose(found[inputs], expected[inputs], rtol=1e-6)
    ratio = found["imagenet"] / found["released"]
    np.testing.assert_allclose(ratio, expected["imagenet"] / expected["released"], rtol=1e-6)
    assert 1.8 < ratio[0] < 2.3


def test_perceptual_scales_halve_the_images_and_the_gram_term_sees_the_first(exact, generator):
    faces, true = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64, generator=generator)
    whole, half = exact(faces, true, scales=1), exact(F.avg_pool2d(faces, 2), F.avg_pool2d(true, 2), scales=1)
    assert exact(faces, true, scales=2) == pytest.approx(whole + half, rel=1e-9)
    style = exact(faces, true, 100.0, scales=1) - whole
    assert style > 0 and exact(faces, true, 50.0, scales=2) == pytest.approx(whole + half + style / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perceptual_input": "bgr"}, "perceptual_input=bgr is unknown; use imagenet or released"),
        ({"perceptual_scales": 0}, "perceptual_scales=0 must be 1 or more"),
        ({"perceptual_scales": 5}, "perceptual_scales=5 leaves 8 of 128 pixels, VGG-19 needs 16; use fewer scales"),
        ({"gram": -1.0}, "gram=-1.0 must not be negative"),
    ],
)
def test_what_the_perceptual_loss_cannot_be_is_one_line(options, words):
    weights = FaceLosses(gan=0, feature=0, sync=0, mutual_information=0, **options)
    with pytest.raises(InputError, match=words):
        FaceObjective(weights, FaceSynthesizerConfig(), 1, "")


def test_the_objective_takes_the_perceptual_loss_that_the_config_names(vgg_file, monkeypatch):
    monkeypatch.setattr("losses.perceptual.fetch.require", lambda *names: vgg_file)

    def options(weights: FaceLosses) -> tuple:
        alone = dataclasses.replace(weights, gan=0, feature=0, sync=0, mutual_information=0)
        loss = FaceObjective(alone, FaceSynthesizerConfig(), 1, "").perceptual
        assert loss is not None
        return loss.inputs, loss.gram_weight, loss.scales

    face = read_config(FaceTraining, ROOT / "configs/stsa_face.yaml").losses
    tuned = read_config(Finetuning, ROOT / "configs/stsa_e2e.yaml").losses
    assert face.perceptual == tuned.perceptual == 4 and tuned.perceptual_input == "released"
    assert options(face) == ("released", 250.0, 2)
    assert options(FaceLosses()) == ("imagenet", 250.0, 2)  # of configs that say nothing
    assert options(FaceLosses(perceptual_input="released", gram=0.0, perceptual_scales=3)) == ("released", 0.0, 3)


def test_perceptual_loss_trains_the_faces_and_never_vgg(perceptual):
    faces = torch.rand(1, 3, 32, 32, requires_grad=True)
    true = torch.rand(1, 3, 32, 32, requires_grad=True)
    perceptual(faces, true).backward()
    assert faces.grad is not None and faces.grad.abs().sum() > 0
    assert true.grad is None
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())
    assert perceptual(true, true) == 0


def test_loading_vgg_leaves_the_random_state_alone(vgg_file):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    PerceptualLoss(vgg_file, gram_weight=250.0)
    assert torch.equal(state, torch.get_rng_state())


def test_vgg_is_never_replaced_by_random_features(tmp_path, monkeypatch):
    monkeypatch.setattr("checkpoints.fetch.DOWNLOADS", tmp_path)
    with pytest.raises(InputError, match=r"vgg19-dcbb9e9d\.pth.*python -m checkpoints\.fetch vgg19"):
        PerceptualLoss(gram_weight=250.0)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, other)
    with pytest.raises(InputError, match=r"other\.pth.*features\.0\.bias"):
        PerceptualLoss(other, gram_weight=250.0)


def test_gram_matrices_keep_float32_under_autocast(generator):
    features = torch.rand(1, 4, 8, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        matrix = gram(features)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix, gram(features))


# All of them


def test_ssim_loss_is_as_exact_under_autocast(generator):
    """Half precision leaves nothing of the difference of squares that SSIM consists of."""
    true = torch.rand(1, 1, 3, 32, 32, generator=generator)
    faces = (true + 0.01 * torch.randn(true.shape, generator=generator)).requires_grad_()
    expected = ssim_loss(faces, true)
    gradient = torch.autograd.grad(expected, faces)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = ssim_loss(faces, true)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-3)
    torch.testing.assert_close(torch.autograd.grad(loss, faces)[0], gradient, rtol=1e-2, atol=1e-6)


def test_gradients_in_float64():
    torch.manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, dtype=torch.float64, requires_grad=True)

    weight = torch.rand(4, 4, dtype=torch.float64)
    fixed = [rand(1, 2, 3, 4, 4).detach(), rand(1, 3, 5, 2).detach(), rand(3, 6).detach()]
    check = torch.autograd.gradcheck
    assert check(lambda x: frame_distance(x, fixed[0]), rand(1, 2, 3, 4, 4))
    assert check(lambda x: temporal_loss(x, fixed[1]), rand(1, 3, 5, 2))
    assert check(lambda x: l1_loss(x, fixed[0], weight) + gradient_loss(x, fixed[0], weight), rand(1, 2, 3, 4, 4))
    assert check(lambda x: sync_loss(x - 0.5, fixed[2] - 0.5), rand(3, 6))
    assert check(lambda x, t: contrastive_loss(x, fixed[2], t), (rand(3, 6), rand(())))
    assert check(lambda j, m: mutual_information_loss((j, m)), (rand(4), rand(4)))
    assert check(lambda x: gram(x), rand(1, 2, 3, 3))
    points, references = 0.2 + 0.6 * rand(1, 1, 5, 2).detach(), rand(1, 2, 5, 2).detach()
    assert check(lambda x: landmark_flow_loss(x, points, references), rand(1, 1, 2, 2, 8, 8))
    assert check(lambda x: discriminator_loss([[x]], [[x * 2]]) + generator_loss([[x]]), rand(1, 1, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_float32_and_finite(dtype, generator):
    def rand(*shape):
        return torch.rand(*shape, generator=generator).to(dtype)

    features = [[rand(1, 2, 3, 3), rand(1, 1, 3, 3)]]
    losses = [
        semantic(rand(1, 2, 1, 4, 4), rand(1, 2, 1, 4, 4), rand(1, 2, 57, 2), rand(1, 2, 57, 2)),
        temporal_loss(rand(1, 2, 57, 2), rand(1, 2, 57, 2)),
        l1_loss(rand(1, 1, 3, 4, 4), rand(1, 1, 3, 4, 4), rand(4, 4)),
        gradient_loss(rand(1, 1, 3, 4, 4), rand(1, 1, 3, 4, 4)),
        generator_loss(features),
        discriminator_loss(features, features),
        feature_matching_loss(features, [[rand(1, 2, 3, 3), rand(1, 1, 3, 3)]]),
        sync_loss(rand(2, 4), rand(2, 4)),
        contrastive_loss(rand(2, 4), rand(2, 4)),
        mutual_information_loss((rand(4), rand(4))),
        landmark_flow_loss(rand(1, 1, 2, 2, 8, 8), rand(1, 1, 5, 2), rand(1, 2, 5, 2)),
    ]
    assert all(loss.dtype == torch.float32 and loss.isfinite() and loss.dim() == 0 for loss in losses)
