"""Measures of the lips' motion that need no weights: closures and LipLeak, from MediaPipe's lips."""

import numpy as np

from media.audio import SAMPLE_RATE
from media.timeline import FPS

INNER_LIPS = (13, 14)  # MediaPipe ids: the middles of the inner lips
EYES = (33, 263)  # the outer corners of the eyes

# In units of the distance of the eyes' outer corners. In ten real clips with speech, the gap is 0.005 or less where
# lips touch and 0.03 or more where they do not. A resting mouth moves by less than 0.006 a frame. A speaking one moves
# by 0.003 to 0.018 or more in half of its frames.
CLOSED = 0.02
MOVES = 0.01

QUIET, SILENT = -35.0, -60.0  # dB below the clip's loudest frame, and below full scale
MARGIN = 3  # frames by which lips may move before and after a sound


def lip_gap(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the inner lips over that of the eyes' outer corners, (...), of (..., 478, 2) mesh points."""
    points = np.asarray(landmarks, np.float64)
    gap, eyes = (np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1) for a, b in (INNER_LIPS, EYES))
    return gap / np.maximum(eyes, 1e-6)


def closures(generated: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """How many lip closures of the reference the generated lips meet.

    A closure is a run of frames with closed lips. It is met if the generated lips are closed in one of its frames, or
    in the frame before or behind it: a closure lasts three frames, and a viewer notices if it is missing.

    Args:
        generated, reference: (F,) `lip_gap` of the same F frames; NaN where a face is missing.

    Returns:
        The closures met and all closures of frames in which both faces are found.
    """
    known = np.isfinite(generated) & np.isfinite(reference)
    shut, made = known & (reference < CLOSED), known & (generated < CLOSED)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(np.int8), [0]]))).reshape(-1, 2)
    met = sum(bool(made[max(0, start - 1) : stop + 1].any()) for start, stop in edges)
    return met, len(edges)


def silent_frames(wav: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` frames lie in silence, (count,) bool.

    A frame is silent if in it and in the three frames on either side the sound is 35 dB below the clip's loudest frame,
    or 60 dB below full scale.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz; silence beyond its end.
    """
    step = SAMPLE_RATE // FPS
    padded = np.zeros(count * step)
    padded[: len(wav)] = wav[: len(padded)]
    power = (padded.reshape(count, step) ** 2).mean(axis=1)
    level = 10 * np.log10(np.maximum(power, 1e-12))
    quiet = level < max(level.max(initial=-np.inf) + QUIET, SILENT)
    near = np.stack([np.pad(quiet, MARGIN, constant_values=True)[i : i + count] for i in range(2 * MARGIN + 1)])
    return near.all(axis=0)


def lip_leak(gaps: np.ndarray, silent: np.ndarray) -> float | None:
    """LipLeak: the share of silent frames in which the lips move; lower is better.

    Bigata et al., "KeySync: A Robust Approach for Leakage-free Lip Synchronization", arXiv 2505.00497: the mouth of the
    dubbed video shows through where the new sound is silent. The paper gives no threshold. Here the lips move in a
    frame if their gap changes by more than 0.01 of the eyes' distance from the frame before. The values are not
    comparable with the paper's.

    Args:
        gaps: (F,) `lip_gap`; NaN where a face is missing.
        silent: (F,) bool.

    Returns:
        The share in [0, 1]; None without a silent frame that has a face, as its predecessor must.
    """
    change = np.abs(np.diff(gaps))
    counted = silent[1:] & np.isfinite(change)
    return float((change[counted] > MOVES).mean()) if counted.any() else None
