"""The face synthesizer computes the released network's faces, and trains from scratch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from networks import built
from parity_cases import parity_case, released_state_dict

from media.errors import InputError
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig, released_state
from models.modulation import SpadeNorm, folded_convolutions
from models.spatial import AdaAT, affine_grid, blend_channels
from models.temporal import deformation, warp_and_sum


def arguments(inputs, window, frame):
    """One frame of a case as the network's arguments: RGB images, one heatmap channel."""
    one = {name: value[window : window + 1] for name, value in inputs.items()}
    frame = slice(frame, frame + 1)
    return (
        one["frame"][:, frame].flip(2),
        one["heatmap"][:, frame, :1],
        one["reference_image"].flip(2),
        one["reference_heatmap"][:, :, :1],
        one["face_audio"][:, frame],
    )


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(("window", "frame"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_released_weights_give_the_released_networks_faces(window, frame):
    state, inputs, expected = parity_case("stsa_face")
    inputs, faces = arguments(inputs, window, frame), expected["faces"][window, frame].flip(0)
    network = FaceSynthesizer(FaceSynthesizerConfig.released()).eval()
    network.load_state_dict(released_state(state))
    rounded = network(*(value.float() for value in inputs))[0, 0]
    exact = network.double()(*inputs)[0, 0]
    torch.testing.assert_close(exact, faces, atol=1e-5, rtol=0)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 5e-4  # random weights magnify the rounding, to 5e-5


def small(**options):
    torch.manual_seed(0)
    return built("face_synthesizer", **{"width": 0.125, **options})


def window(batch=1, frames=2):
    torch.manual_seed(1)
    return [
        torch.rand(batch, frames, 3, 128, 128),
        torch.rand(batch, frames, 1, 128, 128) ** 8,
        torch.rand(batch, 5, 3, 128, 128),
        torch.rand(batch, 5, 1, 128, 128) ** 8,
        torch.randn(batch, frames, 80, 16),
    ]


def test_released_state_drops_what_it_does_not_need_and_names_what_is_wrong():
    tensors = {f"module.{name}": tensor for name, tensor in released_state_dict("stsa_face").items()}
    needed = "module.spatial_module.adaAT.1.scale.0.weight"
    without_unused = {name: tensor for name, tensor in tensors.items() if not name.startswith("module.perceptual")}
    assert released_state(without_unused).keys() == released_state(tensors).keys()
    with pytest.raises(ValueError, match=r"spatial_module\.adaAT\.1\.scale\.0\.weight is missing"):
        released_state({name: tensor for name, tensor in tensors.items() if name != needed})
    with pytest.raises(ValueError, match=r"adaAT\.1\.scale\.0\.weight has shape \(3, 4\)"):
        released_state(tensors | {needed: torch.zeros(3, 4)})


def test_channel_blending_is_the_released_networks_sampling_in_three_dimensions():
    torch.manual_seed(0)
    adaat = AdaAT(6, 4, "channel_blending")
    for head in (adaat.scale, adaat.rotation, adaat.translation):
        torch.nn.init.normal_(head.weight, std=0.3)
    features, code = torch.randn(2, 6, 10, 12), torch.randn(2, 8)
    with torch.no_grad():
        plane = adaat.grid(code, 10, 12).view(2, 6, 10, 12, 2)
        depth = torch.linspace(-1, 1, 6).view(1, 6, 1, 1, 1).expand(2, 6, 10, 12, 1)
        expected = F.grid_sample(features[:, None], torch.cat([plane, depth], dim=-1), align_corners=False)[:, 0]
        assert torch.allclose(adaat(adaat.blend(features), code), expected, atol=1e-5)


def test_the_grid_scales_rotates_and_moves():
    grid = affine_grid(torch.tensor([2.0]), torch.tensor([math.pi / 2]), torch.tensor([[0.5, -0.25]]), 3, 5)
    assert torch.allclose(grid[0, 1, 4], torch.tensor([0.5, 1.75]), atol=1e-5)  # (1, 0) -> 2 (0, 1) + t
    assert torch.allclose(grid[0, 0, 2], torch.tensor([2.5, -0.25]), atol=1e-5)  # (0, -1) -> 2 (1, 0) + t


def test_folded_convolutions_are_exact_at_the_border_too():
    torch.manual_seed(0)
    norm = SpadeNorm(channels=3, condition_channels=1, hidden=32, relu=False)
    assert norm.folds
    condition = torch.rand(2, 1, 9, 11)
    with torch.no_grad():
        folded = folded_convolutions(condition, norm.shared, norm.gamma_beta)
        assert torch.allclose(folded, norm.gamma_beta(norm.shared(condition)), atol=1e-5)


@torch.no_grad()
def test_spade_has_a_relu_between_its_convolutions_in_the_papers_form():
    condition, size = torch.rand(2, 1, 9, 11), (9, 11)
    plain, paper = (SpadeNorm(channels=3, condition_channels=1, hidden=32, relu=relu) for relu in (False, True))
    paper.load_state_dict(plain.state_dict())
    expected = paper.gamma_beta(F.relu(paper.shared(condition)))
    assert torch.equal(torch.cat(paper.modulation(condition, size), dim=1), expected)
    assert not torch.allclose(torch.cat(plain.modulation(condition, size), dim=1), expected, atol=1e-3)
    for options, relu in (
        ({}, True),
        ({"spade_relu": False}, False),
        ({"form": "released"}, False),
        ({"form": "released", "spade_relu": True}, True),
    ):
        norms = [module for module in small(**options).modules() if isinstance(module, SpadeNorm)]
        assert len(norms) == 12 and all(norm.relu is relu for norm in norms)


def test_references_are_warped_by_flow_in_pixels_and_weighted():
    torch.manual_seed(0)
    features = torch.rand(1, 2, 3, 16, 16)
    flows = torch.zeros(2, 2, 16, 16)
    flows[0, 0], flows[1, 1] = 2.0, -3.0  # the first reads 2 to the right, the second 3 above
    weights = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    result = warp_and_sum(features, deformation(flows, "corners"), weights)

    def read(image, x, y):  # the released grid spreads its corners to -1 and 1: pixel i reads i W/(W-1) - 1/2
        points = torch.tensor([[[[2 * x / 15 - 1, 2 * y / 15 - 1]]]])
        return F.grid_sample(image[None], points, align_corners=False)[0, :, 0, 0]

    expected = (0.2 * read(features[0, 0], 6 + 2, 8) + 0.6 * read(features[0, 1], 6, 8 - 3)) / (0.8 + 1e-5)
    assert torch.allclose(result[0, :, 8, 6], expected, atol=1e-5)


def test_on_a_grid_of_centres_no_flow_moves_nothing_at_any_scale():
    torch.manual_seed(0)
    weights = torch.full((2, 1, 16, 16), 0.5)
    still, flow = torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16)
    flow[:, 0] = 2.0
    for size in (16, 8, 4):
        features = torch.rand(1, 1, 3, size, size).expand(-1, 2, -1, -1, -1)
        unmoved = warp_and_sum(features, deformation(still, "centres"), weights)
        assert torch.allclose(unmoved, features[:, 0], atol=1e-4)
        assert not torch.allclose(warp_and_sum(features, deformation(still, "corners"), weights), unmoved, atol=1e-2)
    moved = warp_and_sum(features := torch.rand(1, 2, 3, 16, 16), deformation(flow, "centres"), weights)
    assert torch.allclose(moved[..., :-2], features.mean(dim=1)[..., 2:], atol=1e-4)


@pytest.mark.parametrize(("form", "second_green"), [("paper", 4), ("released", 6)])
def test_references_are_stacked_image_by_image_or_colour_by_colour(form, second_green):
    network = small(form=form)
    images = torch.rand(1, 5, 3, 128, 128)
    seen = []
    network.spatial.references.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.encode_references(images, torch.rand(1, 5, 1, 128, 128))
    assert torch.equal(seen[0][0, second_green], images[0, 1, 1])


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_channels_are_blended_in_half_precision_too(dtype, error):
    features = torch.randn(1, 256, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = blend_channels(features.double())
    torch.testing.assert_close(blend_channels(features.to(dtype)).double(), expected, atol=error, rtol=0)


def test_training_starts_from_unmoved_references():
    features = torch.rand(1, 4, 8, 8)
    assert torch.allclose(AdaAT(4, 4, "plain")(features, torch.randn(1, 8)), features, atol=1e-5)
    network = small()
    with torch.no_grad():
        flows, logits = network.temporal.flow_predictor(
            torch.rand(5, 16, 64, 64), torch.rand(1, 1, 128, 128), torch.randn(1, 16)
        )
    assert flows.abs().max() == 0 and logits.abs().max() == 0


@pytest.fixture(scope="module")
def synthesizer():
    return small().eval()


def test_the_lower_half_of_the_frames_is_hidden_and_the_upper_is_not(synthesizer):
    inputs = window(frames=1)
    with torch.inference_mode():
        faces = synthesizer(*inputs)
        inputs[0][..., 64:, :] = 0.5
        assert torch.equal(synthesizer(*inputs), faces)
        inputs[0][..., 63, :] = 0.5
        assert not torch.equal(synthesizer(*inputs), faces)
    assert faces.shape == (1, 1, 3, 128, 128) and faces.min() >= 0 and faces.max() <= 1


@pytest.mark.slow
def test_frames_rendered_one_by_one_are_the_windows_frames(synthesizer):
    synthesizer = copy.deepcopy(synthesizer).double()
    frames, heatmaps, images, reference_heatmaps, audio = (value.double() for value in window(batch=2))
    with torch.inference_mode():
        faces = synthesizer(frames, heatmaps, images, reference_heatmaps, audio)
        references = synthesizer.encode_references(images, reference_heatmaps)
        for i in range(2):
            one = slice(i, i + 1)
            alone = synthesizer.render(frames[:, one], heatmaps[:, one], references, audio[:, one])
            assert torch.allclose(alone, faces[:, one], rtol=0, atol=1e-10)


def test_ablations_have_no_trace_of_the_absent_path():
    for path in ("spatial", "temporal"):
        network = small(**{path: False})
        assert not [name for name, _ in network.named_parameters() if name.startswith(f"{path}.")]
        with torch.inference_mode():
            assert network.eval()(*window(frames=1)).shape == (1, 1, 3, 128, 128)
    for options, fault in (
        ({"spatial": False, "temporal": False}, "spatial or its temporal"),
        ({"temporal": False, "mutual_information": True}, "needs both"),
        ({"form": "other"}, "form is 'other'; it can be 'paper' or 'released'"),
        ({"audio": "mfcc"}, "audio is 'mfcc'"),
    ):
        with pytest.raises(ValueError, match=fault):
            FaceSynthesizer(FaceSynthesizerConfig(**options))
    with pytest.raises(InputError, match="face_synthesizer has no form 'other'; set form to paper or released or"):
        small(form="other")


def test_mutual_information_scores_reach_both_paths():
    network = small(mutual_information=True)
    _, (embeddings, grid, *_) = network(*window(batch=2, frames=1), alignment=True)
    assert grid.shape == (2, 1, 5, 2, 128, 128)
    scores = [network.mutual_information.score(*pair) for pair in embeddings]
    assert [[part.shape for part in scale] for scale in scores] == [[(2,), (2, 2)]] * 3
    sum(joint.sum() - marginal.sum() for joint, marginal in scores).backward()
    assert network.spatial.after[0][0].conv_1.weight.grad.abs().sum() > 0
    assert network.temporal.encoder.scale_1.conv.weight.grad.abs().sum() > 0
    assert not torch.equal(*embeddings[0])


@pytest.mark.slow
def test_it_learns_a_batch_by_heart():
    network = small(form="released").train()
    inputs = window(batch=2, frames=1)
    target = F.interpolate(torch.rand(2, 3, 4, 4), size=(128, 128), mode="bilinear")[:, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(10):
        loss = (network(*inputs) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
