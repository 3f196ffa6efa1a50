"""Boundary heatmaps of a face: the curves of its parts drawn as ridges (Look-at-Boundary, Wu et al., CVPR 2018)."""

import cv2
import numpy as np

from media.crop import STSA
from media.landmarks import ORDER, Edges, edges_of, positions_of

#: Edges as pairs of MediaPipe ids: the upper face, the lips and jaw that speech moves, and both together.
POSE = edges_of("nose", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "face_oval_upper")
CONTENT = edges_of("lips", "face_oval_lower")
FULL_FACE = POSE + CONTENT
LIPS = edges_of("lips")
JAW = edges_of("face_oval_lower")


#: Indices into the 131 landmarks, each group in `ORDER`'s order.
LIP_POINTS = positions_of(LIPS)  # 40
JAW_POINTS = positions_of(JAW)  # 17: the lower oval's 15, and ids 361 and 132, where it meets the upper oval
KEYPOINTS = np.concatenate([JAW_POINTS, LIP_POINTS])  # 57: the output of the predictor's keypoint head
LIP_KEYPOINTS = slice(len(JAW_POINTS), len(KEYPOINTS))  # the lips within KEYPOINTS

_MIRRORED_IDS = (
    (7, 249), (33, 263), (37, 267), (39, 269), (40, 270), (45, 275), (46, 276), (48, 278), (52, 282), (53, 283),
    (55, 285), (58, 288), (61, 291), (63, 293), (65, 295), (66, 296), (70, 300), (78, 308), (80, 310), (81, 311),
    (82, 312), (93, 323), (105, 334), (107, 336), (115, 344), (127, 356), (132, 361), (133, 362), (136, 365),
    (144, 373), (145, 374), (148, 377), (149, 378), (150, 379), (153, 380), (154, 381), (155, 382), (157, 384),
    (158, 385), (159, 386), (160, 387), (161, 388), (162, 389), (163, 390), (172, 397), (173, 398), (176, 400),
    (185, 409), (191, 415), (220, 440), (234, 454), (246, 466), (314, 84), (317, 87), (318, 88), (321, 91),
    (324, 95), (375, 146), (402, 178), (405, 181),
)  # fmt: skip


def _mirror() -> np.ndarray:
    partner = dict(_MIRRORED_IDS) | {b: a for a, b in _MIRRORED_IDS}
    return np.array([ORDER.index(partner.get(id, id)) for id in ORDER])


#: For each landmark, the index of its counterpart in a mirrored face.
MIRROR = _mirror()

_RADIUS = 3.0  # px; a heatmap is 0 from this distance on

_position_of_id = np.full(478, -1)
_position_of_id[list(ORDER)] = np.arange(len(ORDER))
_index_cache: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}


def _edge_indices(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Indices (E, 2) of `edges` into the 478 mesh points and into the 131 landmarks."""
    key = edges if isinstance(edges, tuple) else tuple(tuple(edge) for edge in edges)
    if key not in _index_cache:
        ids = np.array(key, dtype=np.int64).reshape(-1, 2)
        _index_cache[key] = ids, _position_of_id[ids]
    return _index_cache[key]


def draw_heatmap(landmarks: np.ndarray, edges: Edges = FULL_FACE, size: int = STSA.guidance) -> np.ndarray:
    """Draw the boundary heatmap exp(-d^2 / 2), 0 where d >= 3; d is the distance in pixels to the nearest drawn edge.

    The edges' ends are rounded to whole pixels.

    Args:
        landmarks: (478, 2) mesh points or (131, 2) landmarks in `ORDER`'s order, x and y in [0, 1] of the crop.
            An edge with an end outside [0, 1] is not drawn.
        edges: pairs of MediaPipe ids.
        size: height and width of the heatmap in pixels.

    Returns:
        (size, size) float32 in [0, 1]; all 0 where no edge is drawn.

    Raises:
        ValueError: `landmarks` has another shape, or `edges` names a point that is not among the 131 landmarks given.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.shape not in ((478, 2), (len(ORDER), 2)):
        raise ValueError(f"landmarks must be (478, 2) or ({len(ORDER)}, 2), not {landmarks.shape}")
    all_points, used_points = _edge_indices(edges)
    indices = all_points if len(landmarks) == 478 else used_points
    if indices.size and indices.min() < 0:
        raise ValueError("edges names a point that is not among the 131")

    inside = ((landmarks >= 0) & (landmarks <= 1)).all(axis=1)  # False for NaN too
    segments = indices[inside[indices].all(axis=1)]
    if not len(segments):
        return np.zeros((size, size), np.float32)
    points = np.floor(np.where(inside[:, None], landmarks, 0) * size)
    points = np.minimum(points, size - 1).astype(np.int32)

    canvas = np.full((size, size), 255, np.uint8)
    cv2.polylines(canvas, list(points[segments]), isClosed=False, color=(0,), thickness=1)
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)

    heatmap = np.zeros((size, size), np.float32)
    near = distance < _RADIUS
    close = distance[near]
    heatmap[near] = np.exp(-close * close / 2)
    return heatmap


def draw_heatmaps(landmarks: np.ndarray, edges: Edges, size: int = STSA.guidance) -> np.ndarray:
    """`draw_heatmap` for F faces: (F, 478 or 131, 2) -> (F, 1, size, size)."""
    return np.stack([draw_heatmap(points, edges, size) for points in landmarks])[:, None]
