"""Boundary heatmaps against the reference pipeline's and against a slow computation from the definition."""

import cv2
import numpy as np
import pytest

from media.heatmap import (
    CONTENT,
    FULL_FACE,
    JAW_POINTS,
    KEYPOINTS,
    LIP_POINTS,
    MIRROR,
    ORDER,
    POSE,
    draw_heatmap,
    draw_heatmaps,
)


@pytest.mark.parametrize("frame", [0, 60, 120])
@pytest.mark.parametrize("edges, name", [(FULL_FACE, "full"), (POSE, "pose")])
def test_equals_the_reference_pipeline(pipeline, frame, edges, name):
    landmarks = pipeline[f"frame{frame}.landmarks"]
    expected = pipeline[f"frame{frame}.{name}"]
    np.testing.assert_array_equal(draw_heatmap(landmarks, edges), expected)
    np.testing.assert_array_equal(draw_heatmap(landmarks[list(ORDER)].astype(np.float32), edges), expected)


def face(seed: int = 0) -> np.ndarray:
    """131 points in the rough places of a face: enough for drawing."""
    return np.random.default_rng(seed).uniform(0.05, 0.95, (len(ORDER), 2)).astype(np.float32)


def distance_to_segment(y, x, a, b):
    along = np.clip(np.dot([x - a[0], y - a[1]], b - a) / max(np.dot(b - a, b - a), 1e-12), 0, 1)
    return np.hypot(x - a[0] - along * (b[0] - a[0]), y - a[1] - along * (b[1] - a[1]))


def slow_heatmap(landmarks, edges, size):
    """exp(-d^2 / 2) with the exact distance of each pixel's centre to the nearest segment."""
    points = {id: landmarks[position] * size for position, id in enumerate(ORDER)}
    expected = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            d = min(distance_to_segment(row + 0.5, column + 0.5, points[a], points[b]) for a, b in edges)
            expected[row, column] = np.exp(-(d**2) / 2) if d < 3 else 0
    return expected


def test_agrees_with_the_definition_to_a_fraction_of_a_pixel():
    """The slope of exp(-d^2/2) is at most exp(-1/2), and 1.1 % where the heatmap is cut off."""
    size, edges, landmarks = 24, [(61, 146), (146, 91), (91, 181), (13, 312)], face(3)
    difference = draw_heatmap(landmarks, edges, size) - slow_heatmap(landmarks, edges, size)
    assert np.abs(difference).max() <= 0.8 * np.exp(-0.5) + 0.012


def test_an_edge_with_an_end_outside_the_crop_is_not_drawn():
    position = {id: place for place, id in enumerate(ORDER)}
    for outside in ((-0.01, 0.5), (0.5, 1.01), (np.nan, 0.5)):
        landmarks = face()
        landmarks[position[61]] = outside
        assert not draw_heatmap(landmarks, [(61, 146)]).any()
        np.testing.assert_array_equal(
            draw_heatmap(landmarks, [(61, 146), (146, 91)]), draw_heatmap(face(), [(146, 91)])
        )


def test_the_far_border_belongs_to_the_last_pixel():
    landmarks = face()
    position = {id: place for place, id in enumerate(ORDER)}
    landmarks[position[61]], landmarks[position[146]] = (1, 0), (1, 1)
    drawn = draw_heatmap(landmarks, [(61, 146)], 32)
    np.testing.assert_allclose(drawn[:, 31], 1)
    np.testing.assert_allclose(drawn[:, 29], np.exp(-2), atol=1e-3)
    assert not drawn[:, 28].any()


def test_point_groups():
    assert (len(ORDER), len(FULL_FACE), len(LIP_POINTS), len(JAW_POINTS), len(KEYPOINTS)) == (131, 125, 40, 17, 57)
    assert set(POSE) | set(CONTENT) == set(FULL_FACE)
    assert len({end for edge in POSE for end in edge}) == 76
    assert {132, 361} < {ORDER[place] for place in JAW_POINTS}
    np.testing.assert_array_equal(KEYPOINTS, [*JAW_POINTS, *LIP_POINTS])
    assert (np.diff(JAW_POINTS) > 0).all() and (np.diff(LIP_POINTS) > 0).all()


def test_mirroring_keeps_every_edge_and_undoes_itself():
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(131))
    place = {id: position for position, id in enumerate(ORDER)}
    edges = {frozenset((place[a], place[b])) for a, b in FULL_FACE}
    assert {frozenset(int(MIRROR[end]) for end in edge) for edge in edges} == edges


def test_mirrored_landmarks_lie_on_the_mirrored_face(pipeline):
    """On a roughly frontal face, swapping left and right moves the points by less than the face's own asymmetry."""
    landmarks = pipeline["frame60.landmarks"][list(ORDER)]
    mirrored = landmarks[MIRROR] * [-1, 1] + [1, 0]
    swapped = np.linalg.norm(mirrored - landmarks, axis=1).mean()
    unswapped = np.linalg.norm(landmarks * [-1, 1] + [1, 0] - landmarks, axis=1).mean()
    assert swapped < unswapped / 3


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="478"):
        draw_heatmap(np.zeros((68, 2)))
    with pytest.raises(ValueError, match="131"):
        draw_heatmap(face(), [(1, 2)])


@pytest.mark.parametrize("edges", [FULL_FACE, POSE])
@pytest.mark.parametrize("size", [24, 128, 200])
def test_many_faces_at_once_are_each_opencvs_distance_transform(size, edges):
    faces = np.stack([face(0), face(1) * 1.3 - 0.15, np.full_like(face(), np.nan), face(2)])
    position = {id: place for place, id in enumerate(ORDER)}
    for landmarks, drawn in zip(faces, draw_heatmaps(faces, edges, size)[:, 0], strict=True):
        canvas = np.full((size, size), 255, np.uint8)
        for a, b in edges:
            ends = landmarks[[position[a], position[b]]]
            if ((ends >= 0) & (ends <= 1)).all():
                (x1, y1), (x2, y2) = np.minimum(ends * size, size - 1).astype(int).tolist()
                cv2.line(canvas, (x1, y1), (x2, y2), (0,))
        distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
        np.testing.assert_array_equal(drawn, np.where(distance < 3, np.exp(-(np.minimum(distance, 3) ** 2) / 2), 0))
