"""Chooses a video's reference frames."""

import numpy as np
from scipy.spatial.distance import cdist

from media.heatmap import ORDER
from media.landmarks import select131

CANDIDATES = 600  # frames that `covering_references` considers
_UPPER_LIP, _LOWER_LIP = 0, 17  # MediaPipe ids of the outer lips' middle


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the outer lips' middle points (MediaPipe ids 0 and 17), in the unit of the landmarks.

    Args:
        landmarks: (..., 478, 2) or (..., 131, 2).

    Returns:
        (...) float.
    """
    points = select131(landmarks)
    gap = points[..., ORDER.index(_UPPER_LIP), :] - points[..., ORDER.index(_LOWER_LIP), :]
    return np.linalg.norm(gap, axis=-1)


def by_lip_opening(frames: np.ndarray, openings: np.ndarray) -> np.ndarray:
    """Sort reference frames from the most closed mouth to the most open one; ties by time.

    Training and dubbing use this order. STSA's spatial path (eq. 8) and G4G's encoder (eq. 3) concatenate the
    references along the channels, so their weights depend on the order.

    Args:
        frames: (N,) indices into `openings`.
        openings: (F,) lip opening of each of the video's frames, before any augmentation.

    Returns:
        (N,) `frames`, sorted.
    """
    frames = np.sort(frames)
    return frames[np.argsort(np.asarray(openings)[frames], kind="stable")]


def choose_references(openings: np.ndarray, count: int = 5, truncated: bool = False) -> np.ndarray:
    """Choose `count` frames at equal steps of lip opening, from the most closed to the most open.

    Args:
        openings: (F,) lip opening of each frame; NaN where a frame has no face. Frames repeat where F < count.
        truncated: cut the steps to whole ranks, as in STSA's released code, instead of rounding them.

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
    steps = np.linspace(0, len(ranked) - 1, count)
    return ranked[(steps if truncated else np.rint(steps)).astype(np.int64)]


def covering_references(landmarks: np.ndarray, count: int = 5) -> np.ndarray:
    """Choose `count` frames that minimise the frames' summed distance to the nearest of them: k-medoids of landmarks.

    The references then show the video's head poses with the mouth open and closed, and no frame in which tracking
    failed. Starts from `choose_references` and exchanges one frame at a time. Considers at most `CANDIDATES` frames; of
    a longer video, this many at equal intervals.

    Args:
        landmarks: (F, 131, 2) in units of the crop. Frames repeat where F < count.

    Returns:
        (count,) int64 indices into `landmarks`, from the most closed mouth to the most open.

    Raises:
        ValueError: there is no frame.
    """
    looked_at = np.unique(np.rint(np.linspace(0, len(landmarks) - 1, min(len(landmarks), CANDIDATES))).astype(np.int64))
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
