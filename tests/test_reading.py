"""Reading points off heatmaps: faces drawn for it, and the stage of training that learns it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faces import portrait

from data_prep.clips import mirrored_points
from data_prep.drawn_faces import DrawnFaces
from media.face import FaceTracker, select131, to_crop
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmap
from models import FaceSynthesizer, FaceSynthesizerConfig, HeatmapPredictor, HeatmapPredictorConfig
from models.reader import PointReader
from models.transport import apply_affine, fit_affine
from training import ReadingTraining, learn_reading, reading_loss


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """(2, 131, 2): a real face, and the same with its lips and jaw moved apart."""
    with FaceTracker() as tracker:
        face = tracker.find(portrait())[0]
    closed = to_crop(select131(face.landmarks), face.box).astype(np.float32)
    opened = closed.copy()
    opened[KEYPOINTS, 1] += 0.3 * (closed[KEYPOINTS, 1] - closed[KEYPOINTS, 1].mean())
    return np.stack([closed, opened])


def test_drawn_faces_are_warped_faces_of_the_set_and_blends_of_them(points):
    faces, whole, upper = DrawnFaces(points, warp=0.1, seed=1).batch(400)
    assert faces.shape == (400, 131, 2) and whole.shape == upper.shape == (400, 1, 128, 128)
    for i in (0, 399):
        np.testing.assert_array_equal(whole[i, 0], draw_heatmap(faces[i].numpy(), FULL_FACE))
        np.testing.assert_array_equal(upper[i, 0], draw_heatmap(faces[i].numpy(), POSE))
    known = torch.from_numpy(np.concatenate([points, mirrored_points(points)]))[:, None]
    left = (apply_affine(known, fit_affine(known, faces[None])) - faces).norm(dim=-1).mean(dim=-1)  # (4, 400)
    nearest = left.argmin(dim=0)
    of_the_set = left.amin(dim=0) < 1e-3
    assert 0.65 < of_the_set.float().mean() < 0.85  # half are no blend, and half of the blends of a face with itself
    assert 0.4 < (nearest >= 2).float().mean() < 0.6  # seen in a mirror
    centres = faces[of_the_set].mean(dim=1) - known[nearest[of_the_set], 0].mean(dim=1)
    assert 0.04 < centres.abs().max() < 0.07  # shifted by up to half of the warp; turning about 0.5 adds a little

    again = DrawnFaces(points, warp=0.1, seed=1)
    torch.testing.assert_close(again.batch(400)[0], faces)
    assert not torch.equal(again.batch(400)[0], faces)


@pytest.fixture
def one_thread():
    """Convolutions as small as these are slower with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_reader_learns_to_read_what_is_drawn(points, one_thread):
    torch.manual_seed(0)
    reader = PointReader()
    drawn = DrawnFaces(points, warp=0.1, seed=5).batch(40)

    def error() -> float:
        with torch.no_grad():
            return float(reading_loss(reader, *drawn))

    before = error()
    learn_reading(reader, SimpleNamespace(points=lambda: [points]), ReadingTraining(steps=60, batch_size=8), seed=0)
    assert error() < 0.25 * before
    assert not reader.training and not any(parameter.requires_grad for parameter in reader.parameters())
    reader.train()
    assert not reader.training


@torch.no_grad()
def test_networks_given_heatmaps_alone_read_the_points():
    torch.manual_seed(0)
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.06, layers=1, heatmaps="drawn")).eval()
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.06, landmark_flow=True)).eval()
    audio, frames, images = torch.randn(2, 3, 80, 16), torch.rand(2, 3, 3, 128, 128), torch.rand(2, 5, 3, 128, 128)
    pose, known = torch.rand(2, 3, 1, 128, 128) ** 8, torch.rand(2, 5, 1, 128, 128) ** 8
    for network, inputs in ((predictor, (audio, pose, known)), (synthesizer, (frames, pose, images, known, audio))):
        read = network.reader(pose), network.reader(known)
        outputs, expected = network(*inputs), network(*inputs, *read)
        others = network(*inputs, read[0] + torch.tensor([0.1, 0.0]), read[1])
        outputs, expected, others = (x[1] if isinstance(x, tuple) else x for x in (outputs, expected, others))
        torch.testing.assert_close(outputs, expected)
        assert not torch.allclose(others, expected, atol=1e-3)


@torch.no_grad()
def test_faces_of_another_size_are_read_too():
    network = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, size=100, landmark_flow=True)).eval()
    images, heatmaps = torch.rand(1, 5, 3, 100, 100), torch.rand(1, 5, 1, 100, 100)
    assert network(images[:, :1], heatmaps[:, :1], images, heatmaps, torch.randn(1, 1, 80, 16)).shape == (
        1,
        1,
        3,
        100,
        100,
    )
