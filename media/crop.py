"""The geometry of a face crop: where it lies in a frame, how it is cut out and pasted back."""

import cv2
import numpy as np

from media.heatmap import ORDER, OVAL_POINTS

CROP_SIZE = 128  # px, side of the networks' input


MARGIN = 5  # px of the frame around the landmarks


_ORDER = np.array(ORDER)


def select131(landmarks: np.ndarray) -> np.ndarray:
    """Select the 131 landmarks, in `ORDER`, from (..., 478, 2) mesh points; (..., 131, 2) is returned unchanged."""
    if landmarks.shape[-2] == len(ORDER):
        return landmarks
    if landmarks.shape[-2] != 478:
        raise ValueError(f"landmarks must be (..., 478, 2) or (..., {len(ORDER)}, 2), not {landmarks.shape}")
    return landmarks[..., _ORDER, :]


def face_bounds(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bounds of the landmarks, 5 px wider on each side, clipped to the frame: (4,) float64 x1 y1 x2 y2.

    Args:
        landmarks: (478, 2) or (131, 2), pixels of a frame of `width` by `height`.
    """
    points = select131(np.asarray(landmarks, np.float64))
    bounds = np.concatenate([points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN])
    return np.clip(bounds, 0, [width, height, width, height])


def face_box(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """The crop box of a face, `face_bounds` truncated to whole pixels: (4,) int32 x1 y1 x2 y2, x2 and y2 exclusive."""
    return face_bounds(landmarks, width, height).astype(np.int32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2, in [0, 1]."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None), dtype=np.float64)
    union = np.prod(a[2:] - a[:2], dtype=np.float64) + np.prod(b[2:] - b[:2], dtype=np.float64) - shared
    return float(shared / union) if union > 0 else 0.0


def crop_face(frame: np.ndarray, box: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """Cut `box` out of `frame` (H, W, 3) uint8 and resize it to (size, size, 3); the aspect ratio is not kept."""
    x1, y1, x2, y2 = (int(side) for side in box)
    return resize(frame[y1:y2, x1:x2], size, size)


def to_crop(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Convert landmarks (..., 2) from pixels of the frame to units of `box`, [0, 1] inside it; float32."""
    box = np.asarray(box, np.float64)
    return ((landmarks - box[:2]) / (box[2:] - box[:2])).astype(np.float32)


def paste_face(
    frame: np.ndarray, face: np.ndarray, box: np.ndarray, landmarks: np.ndarray, upper: float = 0.0
) -> np.ndarray:
    """Paste `face` into `frame` at `box`, blended inside the face's contour.

    The blending weight is 0 outside the convex hull of the face oval: pixels there keep their exact values. Inside, it
    rises over a Gaussian-blurred edge. STSA's code blurs 21 px with sigma 11; here this holds for a box of 256 px, and
    the blur scales with the box.

    Args:
        frame: (H, W, 3) uint8.
        face: (h, w, 3) uint8, of any size.
        box: (4,) x1 y1 x2 y2 in the frame.
        landmarks: (478, 2) or (131, 2), pixels of the frame; they give the contour.
        upper: fraction of the box's height, from its top, to leave unchanged: 0 pastes the whole face, 0.5 its lower
            half.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    x1, y1, x2, y2 = (int(side) for side in box)
    blended = frame.copy()
    if x2 <= x1 or y2 <= y1:
        return blended
    weight = paste_weight(frame.shape[:2], (x1, y1, x2, y2), landmarks, upper)
    region = np.ascontiguousarray(frame[y1:y2, x1:x2])
    face = resize(face, x2 - x1, y2 - y1)
    blended[y1:y2, x1:x2] = cv2.blendLinear(face, region, weight, 1 - weight)
    return blended


def paste_weight(shape: tuple[int, int], box: tuple[int, ...], landmarks: np.ndarray, upper: float) -> np.ndarray:
    """Weight of the pasted face over its box: (y2 - y1, x2 - x1) float32, 0 outside the contour."""
    x1, y1, x2, y2 = box
    height, width = shape
    # The hull shrinks by the blur's reach first, so that the blurred edge ends where the hull does.
    reach = max(1, round(10 * max(x2 - x1, y2 - y1) / 256))
    contour = select131(np.asarray(landmarks))[OVAL_POINTS] - [x1 - reach, y1 - reach]
    hull = cv2.convexHull(np.rint(contour).astype(np.int32))
    mask = np.zeros((y2 - y1 + 2 * reach, x2 - x1 + 2 * reach), np.uint8)
    cv2.fillConvexPoly(mask, hull, 255)
    # Nothing is pasted beyond the box, so the edge lies inside it, except along the frame's border.
    top = round(upper * (y2 - y1)) if upper > 0 else 0
    mask[: reach + top if y1 > 0 or top else 0] = 0
    mask[mask.shape[0] - reach if y2 < height else mask.shape[0] :] = 0
    mask[:, : reach if x1 > 0 else 0] = 0
    mask[:, mask.shape[1] - reach if x2 < width else mask.shape[1] :] = 0

    side = 2 * reach + 1
    mask = cv2.erode(mask, np.ones((side, side), np.uint8))
    mask = cv2.GaussianBlur(mask, (side, side), 11 / 21 * side)
    return mask[reach:-reach, reach:-reach].astype(np.float32) / 255


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize: area averaging when shrinking, so that fine texture does not alias; cubic when enlarging."""
    shrinks = image.shape[0] * image.shape[1] > width * height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
