"""Heatmaps drawn through predicted keypoints."""

import numpy as np
import pytest
import torch

from extensions.drawing import CurveDrawing
from media.heatmap import CONTENT, KEYPOINTS, ORDER, draw_heatmap


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
