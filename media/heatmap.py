"""Boundary heatmaps of a face: the curves of its parts drawn as ridges (Look-at-Boundary, Wu et al., CVPR 2018)."""

import cv2
import numpy as np

from media.crop import STSA
from media.landmarks import ORDER, Edges, edges_of, positions_of, select131

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

_REACH = int(_RADIUS) - 1  # px


def _near() -> tuple[list[np.ndarray], np.ndarray]:
    """Footprints of the pixels within each distance below `_RADIUS`, the smallest first, and the heatmap's values."""
    dot = np.full((2 * _REACH + 1, 2 * _REACH + 1), 255, np.uint8)
    dot[_REACH, _REACH] = 0
    distance = cv2.distanceTransform(dot, cv2.DIST_L2, 5)
    values = np.unique(distance[distance < _RADIUS])
    footprints = [(distance <= value).astype(np.uint8) for value in values]
    # A pixel lies in as many footprints' dilations as there are distances from its own on: none is far away.
    table = np.zeros(256, np.float32)
    table[1 : len(values) + 1] = np.exp(-values * values / 2)[::-1]
    return footprints, table


_FOOTPRINTS, _VALUES = _near()

_position_of_id = np.full(478, -1)
_position_of_id[list(ORDER)] = np.arange(len(ORDER))
_line_cache: dict[tuple, tuple[np.ndarray, np.ndarray, list[slice]]] = {}


def _lines(edges: Edges) -> tuple[np.ndarray, np.ndarray, list[slice]]:
    """`edges` as indices into the 131 landmarks: (E, 2), and joined to lines, (n,) and the slice of each line."""
    key = edges if isinstance(edges, tuple) else tuple(tuple(edge) for edge in edges)
    if key not in _line_cache:
        segments = _position_of_id[np.array(key, dtype=np.int64).reshape(-1, 2)]
        if segments.size and segments.min() < 0:
            raise ValueError("edges names a point that is not among the 131")
        left = [tuple(pair) for pair in segments.tolist()]
        joined: list[int] = []
        lines = []
        while left:
            line = list(left.pop(0))
            while following := next((pair for pair in left if pair[0] == line[-1]), None):
                left.remove(following)
                line.append(following[1])
            lines.append(slice(len(joined), len(joined) + len(line)))
            joined += line
        _line_cache[key] = segments, np.array(joined, np.int64), lines
    return _line_cache[key]


def draw_heatmap(landmarks: np.ndarray, edges: Edges = FULL_FACE, size: int = STSA.guidance) -> np.ndarray:
    """Draw the boundary heatmap exp(-d^2 / 2), 0 where d >= 3; d is the distance in pixels to the nearest drawn edge.

    The edges' ends are rounded to whole pixels; d is OpenCV's distance transform (L2, mask 5) of the drawn edges.

    Args:
        landmarks: (478, 2) mesh points, (132, 2) tracked points or (131, 2) landmarks, x and y in [0, 1] of the crop.
            An edge with an end outside [0, 1] is not drawn.
        edges: pairs of MediaPipe ids.
        size: height and width of the heatmap in pixels.

    Returns:
        (size, size) float32 in [0, 1]; all 0 where no edge is drawn.

    Raises:
        ValueError: `landmarks` has another shape, or `edges` names a point that is not among the 131 landmarks.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 2:
        raise ValueError(f"landmarks must be (478, 2) or ({len(ORDER)}, 2), not {landmarks.shape}")
    return draw_heatmaps(landmarks[None], edges, size)[0, 0]


def draw_heatmaps(landmarks: np.ndarray, edges: Edges, size: int = STSA.guidance) -> np.ndarray:
    """`draw_heatmap` for F faces: (F, 478, 132 or 131, 2) -> (F, 1, size, size)."""
    landmarks = select131(np.asarray(landmarks))
    segments, joined, lines = _lines(edges)
    inside = ((landmarks >= 0) & (landmarks <= 1)).all(axis=2)  # False for NaN too
    points = np.minimum(np.floor(np.where(inside[..., None], landmarks, 0) * size), size - 1).astype(np.int32)
    # All faces are drawn below each other in one canvas, far enough apart.
    pitch = size + _REACH
    points[..., 1] += np.arange(len(points), dtype=np.int32)[:, None] * pitch
    drawn: list[np.ndarray] = []
    for face, chained, within in zip(points, points.take(joined, axis=1), inside, strict=True):
        if within.all():
            drawn += [chained[line] for line in lines]
        else:
            drawn += list(face[segments[within[segments].all(axis=1)]])
    canvas = np.zeros((len(points) * pitch, size), np.uint8)
    cv2.polylines(canvas, drawn, isClosed=False, color=(1,), thickness=1)
    near = canvas.copy()  # in how many of the distances a pixel lies
    for footprint in _FOOTPRINTS[1:]:
        cv2.add(near, cv2.dilate(canvas, footprint), dst=near)
    return cv2.LUT(near, _VALUES).reshape(len(points), 1, pitch, size)[:, :, :size]
