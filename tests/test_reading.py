"""Reading points off heatmaps: faces drawn for it, and the stage of training that learns it."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from faces import portrait
from training_runs import write_clips

from data_prep.clips import Clip
from data_prep.windows import ClipDataset, mirrored_landmarks
from extensions.drawing import CurveDrawing
from extensions.drawn_faces import DrawnFaces
from extensions.landmark_maps import apply_affine, fit_affine
from extensions.landmark_predictor import LandmarkPredictor, LandmarkPredictorConfig
from extensions.landmark_synthesizer import LandmarkSynthesizer, LandmarkSynthesizerConfig
from extensions.lessons import ReadingTraining, learn_reading, reading_loss
from extensions.point_reader import PointReader
from media.audio import audio_windows
from media.crop import STSA, CropForm
from media.face import FaceTracker
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmap, draw_heatmaps
from media.landmarks import select131
from media.references import covering_references
from metrics import quality
from metrics.crops import crop_scores
from models.fast import accelerate_inference

SIDE = 120  # of the heatmaps, not STSA's


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """(2, 131, 2): a real face, and the same with its lips and jaw moved apart."""
    with FaceTracker() as tracker:
        face = tracker.find(portrait())[0]
    closed = STSA.place(face.landmarks).to_crop(select131(face.landmarks))
    opened = closed.copy()
    opened[KEYPOINTS, 1] += 0.3 * (closed[KEYPOINTS, 1] - closed[KEYPOINTS, 1].mean())
    return np.stack([closed, opened])


@pytest.mark.slow
def test_drawn_faces_are_warped_faces_of_the_set_and_blends_of_them(points):
    faces, whole, upper = DrawnFaces(points, warp=0.1, bend=0, guidance=SIDE, seed=1).batch(400, 0)
    assert faces.shape == (400, 131, 2) and whole.shape == upper.shape == (400, 1, SIDE, SIDE)
    np.testing.assert_array_equal(whole[399, 0], draw_heatmap(faces[399].numpy(), FULL_FACE, SIDE))
    as_predicted = torch.maximum(upper[0], CurveDrawing(SIDE)(faces[:1, KEYPOINTS])[0])
    torch.testing.assert_close(whole[0], as_predicted)
    for i in (0, 399):
        np.testing.assert_array_equal(upper[i, 0], draw_heatmap(faces[i].numpy(), POSE, SIDE))
    known = torch.from_numpy(np.concatenate([points, mirrored_landmarks(points)]))[:, None]
    left = (apply_affine(known, fit_affine(known, faces[None])) - faces).norm(dim=-1).mean(dim=-1)  # (4, 400)
    nearest = left.argmin(dim=0)
    of_the_set = left.amin(dim=0) < 1e-3
    assert 0.65 < of_the_set.float().mean() < 0.85  # half are no blend, and half of the blends of a face with itself
    assert 0.4 < (nearest >= 2).float().mean() < 0.6  # seen in a mirror
    centres = faces[of_the_set].mean(dim=1) - known[nearest[of_the_set], 0].mean(dim=1)
    assert 0.04 < centres.abs().max() < 0.07  # shifted by up to half of the warp; turning about 0.5 adds a little

    again = DrawnFaces(points, warp=0.1, bend=0, guidance=SIDE, seed=1)
    torch.testing.assert_close(again.batch(400, 0)[0], faces)
    assert not torch.equal(again.batch(400, 1)[0], faces)


def test_bent_faces_are_no_affine_maps_of_the_set_and_their_neighbours_go_along(points):
    one = points[:1]
    bent = DrawnFaces(one, warp=0, bend=0.02, guidance=SIDE, seed=2).batch(200, 0)[0]
    known = torch.from_numpy(np.concatenate([one, mirrored_landmarks(one)]))[:, None]
    moved = bent - known  # (2, 200, 131, 2); of the two, the one that is not mirrored
    moved = moved[moved.norm(dim=-1).mean(dim=-1).argmin(dim=0), torch.arange(200)]
    assert 0.005 < moved.norm(dim=-1).mean() < 0.06
    left = (apply_affine(known, fit_affine(known, bent[None])) - bent).norm(dim=-1).mean(dim=-1).amin(dim=0)
    assert left.mean() > 0.003
    apart = (known[0, 0][:, None] - known[0, 0]).norm(dim=-1)
    difference = (moved[:, :, None] - moved[:, None]).norm(dim=-1).mean(dim=0)
    near, far = (apart > 0) & (apart < 0.03), apart > 0.5
    assert difference[near].mean() < 0.25 * difference[far].mean()


@pytest.fixture
def one_thread():
    """Convolutions as small as these are slower with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_reader_learns_to_read_what_is_drawn(points, one_thread, tmp_path):
    torch.manual_seed(0)
    reader = PointReader()
    drawn = DrawnFaces(points, warp=0.1, bend=0.01, guidance=STSA.guidance, seed=5).batch(40, 0)

    def errors() -> list[float]:
        with torch.no_grad():
            readings = [lambda heatmaps: [reader.first(heatmaps)], lambda heatmaps: [reader(heatmaps)]]
            return [float(reading_loss(read, *drawn)) for read in readings]

    before, uncorrected = errors()
    assert uncorrected == pytest.approx(before)  # corrections begin with none
    dataset = cast(ClipDataset, SimpleNamespace(landmarks=lambda: [points], crop=STSA))
    learn_reading(reader, dataset, ReadingTraining(steps=60, batch_size=8), 0, tmp_path)
    read, corrected = errors()
    assert read < 0.25 * before and corrected < 0.9 * read
    assert not reader.training and not any(parameter.requires_grad for parameter in reader.parameters())
    reader.train()
    assert not reader.training


@torch.no_grad()
def test_networks_given_heatmaps_alone_read_the_points():
    torch.manual_seed(0)
    predictor = LandmarkPredictor(LandmarkPredictorConfig(width=0.06, layers=1)).eval()
    synthesizer = LandmarkSynthesizer(LandmarkSynthesizerConfig(width=0.06, copy_references=False)).eval()
    audio, frames, images = torch.randn(2, 3, 80, 16), torch.rand(2, 3, 3, 128, 128), torch.rand(2, 5, 3, 128, 128)
    pose, known = torch.rand(2, 3, 1, 128, 128) ** 8, torch.rand(2, 5, 1, 128, 128) ** 8
    for network, inputs in ((predictor, (audio, pose, known)), (synthesizer, (frames, pose, images, known, audio))):
        assert network.reader is not None
        read = network.reader(pose), network.reader(known)
        outputs, expected = network(*inputs), network(*inputs, *read)
        others = network(*inputs, read[0] + torch.tensor([0.1, 0.0]), read[1])
        outputs, expected, others = (x[1] if isinstance(x, tuple) else x for x in (outputs, expected, others))
        torch.testing.assert_close(outputs, expected)
        assert not torch.allclose(others, expected, atol=1e-3)


@torch.no_grad()
def test_faces_of_another_size_are_read_too():
    network = LandmarkSynthesizer(
        LandmarkSynthesizerConfig(width=0.03, crop=CropForm.square(100), copy_references=False)
    ).eval()
    images, heatmaps = torch.rand(1, 5, 3, 100, 100), torch.rand(1, 5, 1, 100, 100)
    assert network(images[:, :1], heatmaps[:, :1], images, heatmaps, torch.randn(1, 1, 80, 16)).shape == (
        1,
        1,
        3,
        100,
        100,
    )


def test_what_is_remembered_is_drawn_once():
    drawn = []

    def draw(positions: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        drawn.extend(positions.tolist())
        return true + positions[:, None]

    true = torch.rand(6, 3)
    form = quality.remembering(draw)
    for chosen in ([1, 2, 5], [0, 1, 2, 3], [5, 0]):
        positions = torch.tensor(chosen)
        assert torch.equal(form(positions, true[positions]), true[positions] + positions[:, None])
    assert sorted(drawn) == [0, 1, 2, 3, 5]


@pytest.mark.slow
@torch.no_grad()
def test_quality_of_heatmaps_alone_is_that_of_networks_that_are_given_no_points(tmp_path):
    torch.manual_seed(0)
    predictor = LandmarkPredictor(LandmarkPredictorConfig(width=0.03, layers=1)).eval()
    form = LandmarkSynthesizerConfig(width=0.03)
    synthesizer = LandmarkSynthesizer(form).eval()
    clip = Clip(write_clips(tmp_path, count=1) / "clip_0.safetensors")
    scores = quality.score_clip(clip, clip, predictor, accelerate_inference(synthesizer), heatmaps_alone=True)

    chosen = covering_references(clip.landmarks)
    shown = np.setdiff1d(np.arange(len(clip)), chosen)
    full, pose = (torch.from_numpy(draw_heatmaps(clip.landmarks, edges))[None] for edges in (FULL_FACE, POSE))
    faces = quality.pictures(clip, np.arange(len(clip)))[None]
    audio = torch.from_numpy(audio_windows(clip.audio("mel"), "mel", clip.frames))[None]
    references = faces[:, chosen], full[:, chosen]
    windows = (torch.arange(len(clip))[:, None] + torch.arange(-2, 3)).clamp(0, len(clip) - 1)
    every = references[1].expand(len(windows), -1, -1, -1, -1)
    predicted = predictor(audio[0][windows], pose[0][windows], every)[0][:, 2].clamp(max=1)[None]
    for row, guidance in (("true heatmaps", full), ("predicted heatmaps", predicted)):
        drawn = synthesizer(faces, guidance, *references, audio)[0]
        scored = crop_scores(drawn[shown], faces[0][shown], STSA)["PSNR"].mean()
        assert scores[row]["PSNR"] == pytest.approx(float(scored), abs=1e-3)
    given = quality.score_clip(clip, clip, predictor, accelerate_inference(synthesizer))
    for row in ("true heatmaps", "predicted heatmaps"):
        assert abs(given[row]["PSNR"] - scores[row]["PSNR"]) > 0.01
