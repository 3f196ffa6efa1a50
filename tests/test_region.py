"""The synthesizer that generates the hidden region only, and the warps between landmarks that it starts from."""

from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import STEPS, arguments, run, write_clips

from benchmarks.inference import random_inputs, trained_like
from extensions.landmark_maps import ANCHORS, FaceParts, centres, region_warp, unlike_references
from extensions.losses import ExtraLosses, ExtraObjective, contour_weight
from extensions.region_synthesizer import RegionSynthesizer, RegionSynthesizerConfig, seen_region
from media.crop import CROPS, CropForm
from media.heatmap import KEYPOINTS, LIP_POINTS
from media.landmarks import edges_of, position_of
from models.checkpoint import load_checkpoint, load_network
from models.fast import accelerate_inference
from models.guidance import inputs_of

SMALL = CropForm(height=96, width=64, framing="upright", hidden=(0.0, 0.5, 1.0, 1.0), guidance=48)
CORNER = CropForm(height=64, width=80, framing="upright", hidden=(0.3, 0.55, 0.9, 0.95), guidance=32)


def network(crop: CropForm = SMALL, **options) -> RegionSynthesizer:
    return RegionSynthesizer(RegionSynthesizerConfig(width=0.25, references=3, crop=crop, **options))


def batch(synthesizer: RegionSynthesizer, frames: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """A window of one video in float64, as `forward` takes it."""
    inputs = vars(random_inputs(None, synthesizer, frames, seed))
    return {name: inputs[name].double() for name in synthesizer.inputs}


def given(synthesizer: RegionSynthesizer, items: dict[str, Tensor]) -> list[Tensor]:
    return [items[name] for name in synthesizer.inputs]


def turned(points: Tensor, angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    """A similarity map of points (..., 2)."""
    cosine, sine = scale * torch.tensor(angle).cos(), scale * torch.tensor(angle).sin()
    linear = torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])]).to(points)
    return (points - 0.5) @ linear + 0.5 + torch.tensor(shift).to(points)


@pytest.mark.parametrize("crop", [SMALL, CORNER])
def test_the_fast_form_computes_the_same_faces(crop):
    synthesizer = trained_like(network(crop)).double()
    items = batch(synthesizer)
    fast = accelerate_inference(synthesizer)
    with torch.inference_mode():
        expected, alignment = synthesizer(*given(synthesizer, items), alignment=True)
        references = fast.encode_references(
            *(items[f"reference_{name}"] for name in ("images", "heatmaps", "landmarks"))
        )
        target = items["frames"], items["heatmaps"], references, items["audio"], items["landmarks"]
        faces, fast_alignment = fast.render(*target, alignment=True)
        again: Any = fast.render(*target)
        assert torch.equal(again, faces)
    hidden = expected[..., *crop.hidden_pixels]
    assert hidden.std() > 0.05  # faces that do not depend on the weights would agree too
    assert (faces - expected).abs().max() < 1e-10
    assert (fast_alignment.grid - alignment.grid).abs().max() < 1e-10
    assert alignment.grid.shape == (1, 2, 3, 2, *crop.shape) and alignment.weights.shape == (1, 2, 3, 1, *crop.shape)
    torch.testing.assert_close(alignment.weights.sum(dim=2), torch.ones_like(alignment.weights[:, :, 0]))


@pytest.mark.parametrize("crop", [SMALL, CORNER])
def test_visible_pixels_stay_and_hidden_ones_are_not_read(crop):
    synthesizer = trained_like(network(crop)).double()
    items = batch(synthesizer)
    others = items | {"frames": items["frames"].clone()}
    others["frames"][..., *crop.hidden_pixels] = 0.25
    with torch.inference_mode():
        faces, same = (synthesizer(*given(synthesizer, each)) for each in (items, others))
    visible = ~torch.from_numpy(crop.hidden_mask())
    assert torch.equal(faces[..., visible], items["frames"][..., visible])
    assert torch.equal(faces[..., ~visible], same[..., ~visible])


def test_the_seen_region_holds_the_hidden_rectangle_in_whole_coarse_pixels():
    for crop in (SMALL, CORNER, CROPS["upright"]):
        region = seen_region(crop)
        for seen, hidden, inner in zip(region[:2], crop.hidden_pixels, region.hidden, strict=True):
            assert seen.start % 16 == seen.stop % 16 == 0
            assert seen.start <= hidden.start and hidden.stop <= seen.stop
            assert (seen.start + inner.start, seen.start + inner.stop) == (hidden.start, hidden.stop)
    assert seen_region(CROPS["upright"]).shape == (144, 256)


def test_an_untrained_network_copies_a_reference_that_is_the_target():
    synthesizer = network().double().eval()
    items = batch(synthesizer, frames=1)
    items["reference_images"] = items["frames"].expand_as(items["reference_images"]).contiguous()
    items["reference_landmarks"] = items["landmarks"].expand_as(items["reference_landmarks"]).contiguous()
    with torch.inference_mode():
        faces, alignment = synthesizer(*given(synthesizer, items), alignment=True)
    torch.testing.assert_close(faces, items["frames"], atol=1e-3, rtol=0)
    still = centres(SMALL, slice(0, 96), slice(0, 64), 1).double()
    assert (alignment.grid - still).abs().max() < 1e-4


def test_an_untrained_networks_flow_is_the_landmarks_motion():
    synthesizer = network().double().eval()
    items = batch(synthesizer, frames=1)
    shift = torch.tensor([0.05, -0.03], dtype=torch.float64)
    items["reference_landmarks"] = (items["landmarks"] + shift).expand_as(items["reference_landmarks"])
    with torch.inference_mode():
        _, alignment = synthesizer(*given(synthesizer, items), alignment=True)
    moved = centres(SMALL, slice(0, 96), slice(0, 64), 1).double() + 2 * shift[:, None, None]
    assert (alignment.grid - moved).abs().max() < 1e-4


def test_the_mouth_alone_is_painted():
    torch.manual_seed(0)
    points = torch.rand(1, 131, 2, dtype=torch.float64) * 0.1 + 0.2
    points[:, LIP_POINTS] = torch.tensor([0.5, 0.75]) + 0.1 * (torch.rand(40, 2, dtype=torch.float64) - 0.5)
    pixels = centres(SMALL, slice(48, 96), slice(0, 64), 4).double()
    mouth = region_warp(points, points[:, None], pixels, FaceParts()).mouth[0, 0]
    far = ((pixels - torch.tensor([0, 0.5])[:, None, None]) / 2).norm(dim=0)
    assert mouth.max() > 0.95 and mouth[far > 0.15].max() < 0.01
    synthesizer = trained_like(network()).double()
    items = batch(synthesizer)
    items["landmarks"][..., LIP_POINTS, :] = points[0, LIP_POINTS]
    with torch.inference_mode():
        faces = synthesizer(*given(synthesizer, items))
        torch.nn.init.normal_(synthesizer.painter.colours.weight)
        others = synthesizer(*given(synthesizer, items))
    changed = (faces - others).abs().amax(dim=(0, 1, 2))
    assert changed[60:84].max() > 0.1 and changed[:60].max() < 0.02


def test_the_sound_and_the_heatmaps_size_do_not_matter():
    synthesizer = trained_like(network()).double()
    items = batch(synthesizer)
    with torch.inference_mode():
        first = synthesizer(*given(synthesizer, items))
        assert torch.equal(first, synthesizer(*given(synthesizer, items | {"audio": items["audio"] + 1})))


def test_gradients_reach_every_parameter_and_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    synthesizer = network().train()
    items = {name: value.float() for name, value in batch(synthesizer).items()}
    items["keypoints"] = items["landmarks"][..., KEYPOINTS, :]
    objective = ExtraObjective(ExtraLosses(l1=1.0, gradient=1.0, upper=0.0), synthesizer.config)
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        faces, alignment = synthesizer(*inputs_of(synthesizer, items), alignment=True)
        loss: Any = sum(objective(faces, items, alignment).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    silent = [name for name, each in synthesizer.named_parameters() if each.grad is None or not each.grad.any()]
    assert silent == []
    assert losses[-1] < 0.9 * losses[0]


def test_the_flow_alone_is_that_of_the_whole():
    synthesizer = trained_like(network()).double()
    items = batch(synthesizer)
    with torch.inference_mode():
        _, whole = synthesizer(*given(synthesizer, items), alignment=True)
        alone = synthesizer(*given(synthesizer, items), flow_only=True)
    assert torch.equal(alone.grid, whole.grid) and torch.equal(alone.weights, whole.weights)


def test_a_turned_face_is_warped_as_it_was_turned():
    torch.manual_seed(0)
    points = torch.rand(1, 131, 2, dtype=torch.float64) * 0.6 + 0.2
    pixels = centres(SMALL, slice(48, 96), slice(0, 64), 4).double()
    references = torch.stack([turned(points, 0.2, 1.1, (0.05, -0.02)), points], dim=1)
    warp = region_warp(points, references, pixels, FaceParts())
    expected = 2 * turned((pixels.flatten(1).T + 1) / 2, 0.2, 1.1, (0.05, -0.02)).T.unflatten(1, pixels.shape[1:]) - 1
    for part in (warp.skin, warp.skull, warp.jaw):
        assert (part[0, 0] - expected).abs().max() < 1e-3  # fit_affine's ridge
        assert (part[0, 1] - pixels).abs().max() < 1e-3
    assert warp.bent.abs().max() < 1e-3


def test_the_jaw_follows_the_chin_and_the_skull_does_not():
    torch.manual_seed(0)
    points = torch.rand(1, 131, 2, dtype=torch.float64) * 0.6 + 0.2
    pixels = centres(SMALL, slice(48, 96), slice(0, 64), 4).double()
    lower = points.clone()
    lower[:, KEYPOINTS, 1] += 0.03
    lower[:, ANCHORS] = points[:, ANCHORS]
    warp = region_warp(points, lower[:, None], pixels, FaceParts())
    assert (warp.skull[0, 0] - pixels).abs().max() < 1e-9
    assert (warp.jaw[0, 0] - pixels - torch.tensor([0, 0.06])[:, None, None]).abs().max() < 1e-7
    # At a landmark, the skin's warp leads to the reference's own.
    at = (2 * points[:, LIP_POINTS[:1]] - 1).mT[0][:, :, None]
    read = region_warp(points, lower[:, None], at, FaceParts()).skin[0, 0, :, 0, 0]
    assert (read - (2 * lower[0, LIP_POINTS[0]] - 1)).abs().max() < 0.02


def test_the_reference_with_the_targets_lips_is_the_least_unlike():
    torch.manual_seed(0)
    points = torch.rand(1, 131, 2, dtype=torch.float64) * 0.6 + 0.2
    other = points.clone()
    other[:, LIP_POINTS] += 0.03 * torch.randn(1, len(LIP_POINTS), 2)
    same = turned(points, 0.3, 1.05, (0.04, 0.0))
    around = torch.ones(1, 1, 1, 2, 2, dtype=torch.float64)
    unlike = unlike_references(points, torch.stack([other, same], dim=1), FaceParts()).at(around)
    assert unlike.shape == (1, 2, 1, 2, 2) and unlike[0, 1].max() < 1e-12 < 1e-4 < unlike[0, 0].min()


def test_a_frame_blends_the_references_that_are_most_like_it():
    synthesizer = trained_like(network(SMALL)).double().eval()  # which blends three
    items = batch(synthesizer)
    names = [f"reference_{name}" for name in ("images", "heatmaps", "landmarks")]
    strangers = {name: torch.rand_like(items[name][:, :2]) for name in names}  # a random face has random lips
    target = items["frames"], items["heatmaps"]
    places = [3, 0, 4, 1, 2]  # where the five are in the bank
    bank = {name: torch.cat([items[name], strangers[name]], dim=1)[:, places] for name in names}
    bank["reference_landmarks"][:, [0, 2]] += 0.3 * torch.rand_like(strangers["reference_landmarks"])
    near = items["landmarks"][:, :1].expand(-1, 3, -1, -1) + 1e-3 * torch.randn(1, 3, 131, 2, dtype=torch.float64)
    items["reference_landmarks"] = near
    bank["reference_landmarks"][:, [1, 3, 4]] = near
    items["landmarks"] = items["landmarks"][:, :1].expand(-1, 2, -1, -1)
    alignment: Any
    with torch.inference_mode():
        alone = synthesizer(*given(synthesizer, items))
        references = synthesizer.encode_references(*(bank[name] for name in names))
        made, alignment = synthesizer.render(*target, references, items["audio"], items["landmarks"], alignment=True)
        given_flow: Any = synthesizer.render_with_flow(*target, references, items["audio"], items["landmarks"])
    assert torch.allclose(made, alone, atol=1e-9)
    hidden = alignment.grid[..., *synthesizer.config.crop.hidden_pixels]
    for one, other in zip(given_flow, (made, hidden, alignment.chosen), strict=True):
        assert torch.equal(one, other)
    assert alignment.chosen.shape == (1, 2, 3) and alignment.grid.shape[2] == 3
    assert set(alignment.chosen.flatten().tolist()) == {1, 3, 4}


def test_pixels_outside_the_contour_weigh_less():
    edges = dict(edges_of("face_oval_upper", "face_oval_lower"))
    (point,) = edges.keys() - edges.values()
    landmarks = torch.full((1, 1, 131, 2), 0.5)
    for angle in torch.linspace(-torch.pi / 2, 3 * torch.pi / 2, len(edges) + 2)[:-1]:
        landmarks[..., position_of(point), :] = 0.5 + 0.3 * torch.stack([angle.cos(), angle.sin()])
        point = edges.get(point, -1)
    assert point == -1
    weight = contour_weight(landmarks, CropForm.square(64), 0.2)[0, 0, 0]
    y, x = torch.meshgrid(*2 * [(torch.arange(64) + 0.5) / 64 - 0.5], indexing="ij")
    radius = (x.square() + y.square()).sqrt()
    assert (weight[radius < 0.24] == 1).all() and torch.allclose(weight[radius > 0.36], torch.tensor(0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial": True}, "form region has the temporal path alone"),
        ({"crop": CropForm.square(100)}, r"crop\.height is 100; form region needs a multiple of 16"),
        ({"references": 0}, "references is 0; it must be positive"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RegionSynthesizer(RegionSynthesizerConfig(**options))


def test_landmarks_are_needed():
    synthesizer = network().double()
    items = batch(synthesizer)
    with pytest.raises(ValueError, match="takes landmarks and reference_landmarks"):
        synthesizer(*given(synthesizer, items)[:5])


def test_any_number_of_references_is_taken():
    synthesizer = trained_like(network()).double()
    items = batch(synthesizer)
    more = {
        name: torch.cat([value, value[:, :2]], dim=1) if name.startswith("reference") else value
        for name, value in items.items()
    }
    with torch.inference_mode():
        assert synthesizer(*given(synthesizer, more)).shape == items["frames"].shape


@pytest.mark.slow
def test_the_demo_configs_train_it(tmp_path):
    """train_face.py, then finetune_e2e.py with the predictor of demo_speech.yaml, whose crop is the same."""
    clips, log = write_clips(tmp_path / "clips", count=1), tmp_path / "log"
    path = {script: tmp_path / script for script in ("train_heatmap", "train_face", "finetune_e2e")}
    start = [f"heatmap_predictor={path['train_heatmap']}", f"face_synthesizer={path['train_face']}"]
    further = {
        "train_heatmap": ["model.audio=mel", "windows.window=9"],
        "train_face": ["model.width=0.125", "data.smallest_face=0"],
        "finetune_e2e": [*start, "data.smallest_face=0"],
    }
    for script, output in path.items():
        config = "demo_speech.yaml" if script == "train_heatmap" else f"demo_{script.split('_')[1]}.yaml"
        command = arguments(script, clips, output, *STEPS, *further[script], config=config)
        assert run(script, command, RUN_LOG=str(log)) == 0, log.read_text()
    predictor, synthesizer = load_checkpoint(path["finetune_e2e"])
    assert isinstance(synthesizer, RegionSynthesizer)
    assert predictor.config.crop == synthesizer.config.crop == CROPS["upright"]
    before = load_network(path["train_face"] / "best", "face_synthesizer").state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in synthesizer.state_dict().items())
