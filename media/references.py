"""Which frames of a video serve as references."""

import numpy as np
from scipy.spatial.distance import cdist

from media.crop import select131
from media.heatmap import ORDER

_UPPER_LIP, _LOWER_LIP = 0, 17  # MediaPipe ids of the outer lips' middle


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the outer lips' middle points (MediaPipe 0 and 17), in the unit of the landmarks.

    Args:
        landmarks: (..., 478, 2) or (..., 131, 2).

    Returns:
        (...) float.
    """
    points = select131(landmarks)
    gap = points[..., ORDER.index(_UPPER_LIP), :] - points[..., ORDER.index(_LOWER_LIP), :]
    return np.linalg.norm(gap, axis=-1)


def by_lip_opening(frames: np.ndarray, openings: np.ndarray) -> np.ndarray:
    """Order reference frames from the most closed mouth to the most open one, and equal ones by time.

    Training and dubbing give references in this one order: STSA's spatial path (eq. 8) and G4G's encoder (eq. 3) stack
    them by channel, and so learn the place of each.

    Args:
        frames: (N,) indices into `openings`.
        openings: (F,) lip opening of each of the video's frames, before any augmentation.

    Returns:
        (N,) `frames`, ordered.
    """
    frames = np.sort(frames)
    return frames[np.argsort(np.asarray(openings)[frames], kind="stable")]


def choose_references(openings: np.ndarray, count: int = 5) -> np.ndarray:
    """Choose `count` frames at equal steps of lip opening, from the most closed to the most open.

    Args:
        openings: (F,) lip opening of each frame; NaN where a frame has no face. Frames repeat where F < count.

    Returns:
        (count,) int64 indices into `openings`.

    Raises:
        ValueError: no frame has a face.
    """
    openings = np.asarray(openings, np.float64)
    usable = np.flatnonzero(np.isfinite(openings))
    if not len(usable):
        raise ValueError("no frame has a face to choose references from")
    ranked = by_lip_opening(usable, openings)
    return ranked[np.rint(np.linspace(0, len(ranked) - 1, count)).astype(np.int64)]


def covering_references(landmarks: np.ndarray, count: int = 5, candidates: int = 600) -> np.ndarray:
    """Choose the `count` frames that have among them, for every frame, a face most like it: k-medoids of the landmarks.

    So the references show the head in the ways in which the video shows it, with the mouth open and closed, and a frame
    in which tracking failed is not among them. Starts from `choose_references`' and exchanges one at a time.

    Args:
        landmarks: (F, 131, 2) in units of the crop. Frames repeat where F < count.
        candidates: of more frames, so many at equal distances are looked at.

    Returns:
        (count,) int64 indices into `landmarks`, from the most closed mouth to the most open.

    Raises:
        ValueError: there is no frame.
    """
    looked_at = np.unique(np.rint(np.linspace(0, len(landmarks) - 1, min(len(landmarks), candidates))).astype(np.int64))
    landmarks = np.asarray(landmarks)[looked_at]
    openings = lip_opening(landmarks)
    chosen = choose_references(openings, count)
    points = landmarks.reshape(len(landmarks), -1)
    distances = cdist(points, points)
    improved = True
    while improved:
        improved = False
        for position in range(count):
            others = distances[:, np.delete(chosen, position)].min(axis=1, initial=np.inf)
            costs = np.minimum(others[:, None], distances).sum(axis=0)
            best = costs.argmin()
            if costs[best] < costs[chosen[position]] * (1 - 1e-9):
                chosen[position], improved = best, True
    return looked_at[by_lip_opening(chosen, openings)]
