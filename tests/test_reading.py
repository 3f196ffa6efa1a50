"""Reading points off heatmaps: faces drawn for it, and the stage of training that learns it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faces import portrait
from training_runs import write_clips

from data_prep.clips import ClipDataset, mirrored_points
from data_prep.drawn_faces import DrawnFaces
from media.face import FaceTracker, select131, to_crop
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmap
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.transport import ANCHORS, apply_affine, fit_affine
from train_heatmap import HeatmapTraining, learn_reading


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


def test_a_network_learns_to_read_what_is_drawn(points, one_thread):
    torch.manual_seed(0)
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.06, layers=1, heatmaps="drawn"))
    others = {name: value.clone() for name, value in predictor.state_dict().items() if "transformer" in name}
    true, whole, upper = DrawnFaces(points, warp=0.1, seed=5).batch(40)

    def errors() -> list[float]:
        with torch.no_grad():
            anchors, faces = predictor.eval().read(upper, whole)
        pairs = ((anchors, true[:, ANCHORS]), (faces, true))
        return [float((found - expected).norm(dim=-1).mean()) for found, expected in pairs]

    before = errors()
    config = HeatmapTraining(output="")
    config.reading.steps, config.reading.batch_size, config.reading.warp = 130, 16, 0.1
    learn_reading(predictor, SimpleNamespace(points=lambda: [points]), config)
    assert all(after < 0.5 * earlier for after, earlier in zip(errors(), before, strict=True))
    assert all(torch.equal(value, predictor.state_dict()[name]) for name, value in others.items())


def test_what_is_kept_apart_is_not_learned_from(tmp_path):
    folder = write_clips(tmp_path, count=1, frames=100)
    sound, points = next(ClipDataset(folder, holdout=0.25).sounds())
    assert len(sound) == len(points) == 75
