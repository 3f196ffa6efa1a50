"""Unsynced sounds (G4G eq. 16): a window's sound shifted within its clip. The voice is the same, the speech is not."""

import numpy as np

from data_prep.clips import Clip
from media.audio import at_rows, window_rows
from media.errors import InputError

CONTEXT = 4  # rows of features on either side of five frames; log-mel has none, as Wav2Lip's
_NEAR = 3  # frames; half of the shifts are no larger


def check_shifts(negatives: int, furthest: int) -> None:
    """InputError where there are fewer than `negatives` different shifts of up to `furthest` frames."""
    if not 1 <= negatives <= 2 * furthest:
        raise InputError(f"negatives={negatives} must be between 1 and 2 furthest = {2 * furthest}")


def draw_shifts(
    random: np.random.Generator,
    count: int,
    furthest: int,
    earliest: int | None = None,
    latest: int | None = None,
    near: bool = True,
) -> np.ndarray:
    """Draw `count` different shifts in frames, none of them 0: half within three frames, the others beyond.

    Args:
        count, furthest: at most 2 `furthest` shifts, each between -`furthest` and `furthest`.
        earliest, latest: shifts between which the sound lies within the clip; None for no bound. Where fewer than
            `count` shifts lie between, both bounds widen until there are enough.
        near: false draws all shifts with equal probability.

    Returns:
        (count,) int64; positive is later.
    """
    shifts = np.concatenate([np.arange(-furthest, 0), np.arange(1, furthest + 1)])
    earliest = -furthest if earliest is None else earliest
    latest = furthest if latest is None else latest
    while np.count_nonzero(inside := (shifts >= earliest) & (shifts <= latest)) < count:
        earliest, latest = earliest - 1, latest + 1
    shifts = shifts[inside]
    if not near:
        return random.choice(shifts, count, replace=False)
    close, far = shifts[abs(shifts) <= _NEAR], shifts[abs(shifts) > _NEAR]
    first = max(min(len(close), (count + 1) // 2), count - len(far))
    chosen = [random.choice(close, first, replace=False), random.choice(far, count - first, replace=False)]
    return np.concatenate(chosen)


def sync_sounds(features: np.ndarray, kind: str, numbers: np.ndarray) -> np.ndarray:
    """A sync expert's sounds of five frames from each of `numbers` on.

    Args:
        features: (frames, C) of `kind`, a key of `media.audio.FEATURES`.

    Returns:
        (n, 1, C, W) float32: W is 16 for log-mel, and 18 for other kinds, with `CONTEXT`.
    """
    return at_rows(features, kind, sync_rows(kind, numbers))[:, None]


def clip_sync_sounds(clip: Clip, kind: str, numbers: np.ndarray) -> np.ndarray:
    """`sync_sounds` of a clip's features, of which it reads the windows alone."""
    return clip.audio_at(kind, sync_rows(kind, numbers))[:, None]


def sync_rows(kind: str, numbers: np.ndarray) -> np.ndarray:
    """Rows of the features in each of `sync_sounds`: (n, W) int64; they may lie beyond either end of the sound."""
    rows = window_rows(kind, np.asarray(numbers) + 2)  # these are centred: the third frame's begin with the first
    return rows if kind == "mel" else rows[:, :1] + np.arange(-CONTEXT, rows.shape[1] + CONTEXT)
