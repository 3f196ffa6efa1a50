"""Unsynced sounds (G4G eq. 16): a window's sound shifted within its clip. The voice is the same, the speech is not."""

import numpy as np

from data_prep.clips import Clip
from media.audio import audio_windows
from media.errors import InputError

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


def sync_mel(mel: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The expert's sound of five frames from each of `numbers` on: log-mel (frames, 80) -> (n, 1, 80, 16).

    `audio_windows` are centred: those of the third frame begin with the first.
    """
    return audio_windows(mel, "mel", np.asarray(numbers) + 2)[:, None]


def clip_sync_mel(clip: Clip, numbers: np.ndarray) -> np.ndarray:
    """`sync_mel` of a clip's log-mel, of which it reads the windows alone."""
    return clip.audio_windows("mel", np.asarray(numbers) + 2)[:, None]
