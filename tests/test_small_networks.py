"""The options beside the paper's form that let a small network learn in minutes: drawn heatmaps, copied pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from extensions.drawing import CurveDrawing
from extensions.landmark_maps import apply_affine, landmark_warp
from extensions.landmark_predictor import LandmarkPredictor, LandmarkPredictorConfig
from extensions.landmark_synthesizer import LandmarkSynthesizer, LandmarkSynthesizerConfig
from media.crop import STSA, CropForm
from media.heatmap import CONTENT, KEYPOINTS, LIP_POINTS, ORDER, draw_heatmap
from models import FaceSynthesizer, FaceSynthesizerConfig


@pytest.fixture
def landmarks() -> np.ndarray:
    """A face of (131, 2) points: lips and contour on ellipses, in the order of their curves, the rest anywhere."""
    points = np.random.default_rng(0).uniform(0.2, 0.8, (131, 2)).astype(np.float32)
    for part, centre, radii in ((CONTENT[:40], (0.5, 0.7), (0.2, 0.08)), (CONTENT[40:], (0.5, 0.4), (0.4, 0.5))):
        ids = list(dict.fromkeys(end for edge in part for end in edge))
        angles = {id: np.arctan2(*reversed(points[ORDER.index(id)] - 0.5)) for id in ids}
        for number, id in enumerate(sorted(ids, key=lambda id: angles[id])):
            angle = np.pi * (number + 0.5) / len(ids)
            points[ORDER.index(id)] = np.array(centre) + np.array(radii) * [np.cos(angle), np.sin(angle)]
    return points


def distance_to_segment(pixel: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    along = np.clip(np.dot(pixel - a, b - a) / np.dot(b - a, b - a), 0, 1)
    return float(np.linalg.norm(pixel - a - along * (b - a)))


def test_drawn_curves_are_ridges_around_the_edges(landmarks):
    keypoints = torch.from_numpy(landmarks[KEYPOINTS])[None]
    # Short edges only: a random face's lips cross the whole mouth, which the patch around an edge does not cover.
    drawing = CurveDrawing()
    lengths = (keypoints[0][drawing.edges[:, 0]] - keypoints[0][drawing.edges[:, 1]]).norm(dim=-1)
    drawing.edges = drawing.edges[lengths < 0.15]
    heatmap = drawing(keypoints)[0, 0].numpy()
    ends = (landmarks[KEYPOINTS] * 128 - 0.5)[drawing.edges.numpy()]
    for x, y in np.random.default_rng(1).integers(0, 128, (60, 2)):
        nearest = min(distance_to_segment(np.array([x, y]), a, b) for a, b in ends)
        expected = np.exp(-(nearest**2) / 2) if nearest < 3 else 0
        assert heatmap[y, x] == pytest.approx(expected, abs=1e-4)
    assert len(drawing.edges) > 10 and heatmap.max() > 0.9


def test_drawn_curves_agree_with_the_heatmap_of_a_real_face(pipeline):
    faces = [pipeline[name][list(ORDER)] for name in pipeline if name.endswith(".landmarks")]
    for points in faces:
        drawn = CurveDrawing()(torch.from_numpy(points[KEYPOINTS])[None].float())[0, 0].numpy()
        true = draw_heatmap(points, CONTENT)
        # Whole pixels against true places: the ridges lie within half a pixel of each other.
        assert np.corrcoef(drawn.ravel(), true.ravel())[0, 1] > 0.95
        assert true[drawn > 0.9].min() > np.exp(-0.5 * 1.2**2) - 0.05


def test_gradients_reach_the_keypoints(landmarks):
    keypoints = torch.from_numpy(landmarks[KEYPOINTS])[None].requires_grad_()
    CurveDrawing()(keypoints).square().sum().backward()
    assert keypoints.grad is not None and torch.isfinite(keypoints.grad).all()
    assert (keypoints.grad.abs().sum(dim=-1) > 0).all()


def test_a_drawn_predictor_is_the_same_one_frame_at_a_time():
    torch.manual_seed(0)
    predictor = LandmarkPredictor(LandmarkPredictorConfig(width=0.125, layers=1)).double().eval()
    audio, pose, references = torch.randn(2, 5, 80, 16), torch.rand(2, 5, 1, 128, 128), torch.rand(2, 5, 1, 128, 128)
    audio, pose, references = audio.double(), pose.double(), references.double()
    points, reference_points = torch.rand(2, 2, 5, 131, 2, dtype=torch.float64)
    with torch.inference_mode():
        heatmaps, landmarks = predictor(audio, pose, references, points, reference_points)
        frames = predictor.encode_frames(audio.flatten(0, 1), pose.flatten(0, 1)).unflatten(0, (2, 5))
        encoded = frames, predictor.encode_references(references)
        centre, moved = predictor.predict_centre(*encoded, pose[:, 2], points[:, 2], reference_points, keypoints=True)
        predictor.draws_in_training, predictor.training = False, True  # its parts stay in eval mode
        nothing, same = predictor(audio, pose, references, points, reference_points)
    assert nothing is None and torch.equal(landmarks, same)
    assert landmarks.shape == (2, 5, 57, 2)
    torch.testing.assert_close(centre, heatmaps[:, 2], atol=1e-10, rtol=0)
    torch.testing.assert_close(moved, landmarks[:, 2], atol=1e-10, rtol=0)
    assert (heatmaps >= pose).all()


def test_copying_starts_from_the_references_mean():
    config = LandmarkSynthesizerConfig(width=0.125, landmark_flow=False)
    synthesizer = LandmarkSynthesizer(config).eval()
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(128, 128), mode="bilinear")
    reference = smooth[:, None].expand(-1, 5, -1, -1, -1)
    heatmaps = torch.rand(1, 6, 1, 128, 128)
    with torch.inference_mode():
        face = synthesizer(reference[:, :1], heatmaps[:, :1], reference, heatmaps[:, 1:], torch.randn(1, 1, 80, 16))
    painted = FaceSynthesizer(FaceSynthesizerConfig(width=0.125)).eval()
    with torch.inference_mode():
        other = painted(reference[:, :1], heatmaps[:, :1], reference, heatmaps[:, 1:], torch.randn(1, 1, 80, 16))
    error, other_error = ((x[0] - reference[0, :1]).abs().mean() for x in (face, other))
    assert error < 0.5 * other_error


def path_copy(path, images, flows, logits, *landmarks):
    """The copy that a temporal path makes of `images` by given flows; `landmarks` of the references and the target."""
    reference_points, target = (landmarks[:1], landmarks[1:]) if landmarks else ((), ())
    features = [torch.rand(*images.shape[:2], channels, 16, 16) for channels in (8, 32, 64)]
    path.flow_predictor.forward = lambda half, heatmaps, audio: (flows, logits)
    return path([*features, images, *reference_points], torch.empty(0), torch.empty(0), *target).copy


def test_the_copy_takes_sides():
    config = LandmarkSynthesizerConfig(width=0.03, landmark_flow=False)
    path, images = LandmarkSynthesizer(config).temporal, torch.rand(2, 5, 3, 16, 16)
    logits = torch.tensor([0.0, 6, 0, -3, 1])
    flows, weights = torch.zeros(10, 2, 16, 16), logits.repeat(2)[:, None, None, None].expand(-1, -1, 16, 16)
    copied = path_copy(path, images, flows, weights)
    expected = (images * (3 * logits).softmax(dim=0)[:, None, None, None]).sum(dim=1)
    torch.testing.assert_close(copied, expected, atol=1e-4, rtol=0)


def test_a_copy_takes_the_mouth_from_the_reference_whose_lips_are_shaped_alike(landmarks):
    """Each reference is of one grey, so that the copy tells whose pixels it took."""
    points = torch.from_numpy(landmarks)
    opened = points.clone()
    opened[LIP_POINTS, 1] += 1.5 * (points[LIP_POINTS, 1] - points[LIP_POINTS, 1].mean())

    def turned(face: torch.Tensor) -> torch.Tensor:
        cosine, sine = np.cos(0.2), np.sin(0.2)
        return (face - 0.5) @ torch.tensor([[cosine, sine], [-sine, cosine]]).float() + 0.5

    references = torch.stack([points, opened, points, points, points])[None]
    config = LandmarkSynthesizerConfig(width=0.03)
    path = LandmarkSynthesizer(config).temporal
    images = torch.tensor([0.0, 1, 0, 0, 0])[None, :, None, None, None].expand(-1, -1, 3, 128, 128)
    taken = []
    for target in (points, opened + 0.05, turned(opened)):  # wherever the mouth lies, and however the head is tilted
        flows, logits = torch.zeros(5, 2, 128, 128), torch.zeros(5, 1, 128, 128)
        copied = path_copy(path, images, flows, logits, references, target[None])
        x, y = (128 * target[LIP_POINTS].mean(dim=0)).long()
        taken.append((float(copied[0, 0, y, x]), float(copied[0, 0, 4, 4])))
    (closed, *elsewhere), *others = taken
    assert closed < 0.05 and all(mouth > 0.8 for mouth, _ in others)
    assert elsewhere == pytest.approx([0.2], abs=0.02)  # far from the mouth its shape tells nothing


def test_keypoints_are_as_fine_under_autocast_as_without():
    torch.manual_seed(0)
    predictor = LandmarkPredictor(LandmarkPredictorConfig(width=0.125, layers=1)).eval()
    torch.nn.init.normal_(predictor.turning.linear.weight, std=0.3)
    turned = 0.05 * torch.randn(6, 74, 2)
    with torch.inference_mode():
        moved = predictor.turning(turned)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = predictor.turning(turned)
    assert rounded.dtype == torch.float32 and moved.abs().max() > 0.1
    assert (moved - rounded).abs().max() < 0.01 / 128  # bfloat16 itself goes by half pixels


def test_a_form_that_cannot_be_built_says_why():
    for options, fault in (
        ({"temporal": False}, "switch temporal on"),
        ({"landmark_flow": False, "copy_references": False}, "switch one on, or set form: paper"),
        ({"base": "other"}, "base is 'other'; it can be 'paper' or 'released'"),
        ({"form": "paper"}, "form is 'paper'"),
    ):
        with pytest.raises(ValueError, match=fault):
            LandmarkSynthesizer(LandmarkSynthesizerConfig(**options))


def test_a_warp_by_landmarks_is_the_affine_map_where_that_says_all():
    torch.manual_seed(0)
    points = torch.rand(2, 1, 131, 2)
    affine = torch.tensor([[0.9, 0.1], [-0.05, 0.8], [0.03, 0.12]]).repeat(2, 3, 1, 1)
    affine[:, 1, 2] += 0.02
    grid = landmark_warp(points[:, 0], apply_affine(points, affine), CropForm.square(64)).unflatten(0, (2, 3))
    y, x = torch.meshgrid(*[(torch.arange(64) + 0.5) / 64] * 2, indexing="ij")
    expected = 2 * (torch.stack([x, y, torch.ones_like(x)], dim=-1) @ affine[:, :, None]) - 1
    inside = expected.abs() < 1 - 1 / 64
    torch.testing.assert_close(grid.permute(0, 1, 3, 4, 2)[inside], expected[inside], atol=1e-3, rtol=0)


def test_a_warp_by_landmarks_reads_each_landmark_where_the_reference_has_it(pipeline):
    points = torch.from_numpy(pipeline["frame0.landmarks"][list(ORDER)])
    opened = points[None].float().clone()
    opened[:, KEYPOINTS[:17], 1] += 0.05  # the jaw, 6 of 128 pixels
    grid = landmark_warp(points[None].float(), opened[:, None], STSA)
    read = F.grid_sample(grid, 2 * points[None, None].float() - 1, padding_mode="border", align_corners=False)
    error = ((read[0, :, 0].T + 1) / 2 - opened[0]).norm(dim=-1) * 128
    assert error[KEYPOINTS[:17]].mean() < 2 and error.mean() < 1  # at landmarks 6 pixels away, nearly nothing moves


def test_a_flow_of_zero_copies_a_reference_to_where_the_target_has_its_landmarks(landmarks):
    """A picture of a blob on a landmark; with fresh weights the flow adds nothing, all references being alike."""
    synthesizer = LandmarkSynthesizer(LandmarkSynthesizerConfig(width=0.03))
    at = int(KEYPOINTS[20])
    points = torch.from_numpy(landmarks).float()
    moved = points + torch.tensor([0.04, -0.03])
    centres = (torch.arange(128) + 0.5) / 128

    def blob(place):
        distance = (centres - place[0]).square() + (centres[:, None] - place[1]).square()
        return torch.exp(-distance / (2 * 0.02**2)).expand(3, -1, -1)

    images = blob(points[at]).expand(1, 5, -1, -1, -1)
    heatmaps = torch.zeros(1, 5, 1, 128, 128)
    references = synthesizer.encode_references(images, heatmaps, points.expand(1, 5, -1, -1))
    with torch.inference_mode():
        assert synthesizer.temporal is not None
        code = synthesizer.audio_encoder.eval()(torch.randn(1, 80, 16))
        copied = synthesizer.temporal.eval()(references.temporal, heatmaps[:, 0], code, moved[None]).copy
    assert (copied[0] - blob(moved[at])).abs().max() < 0.1 < (images[0, 0] - blob(moved[at])).abs().max()
