"""Thumbnails of upper faces, by which people are recognised in any light, and of frames, by which shots are found."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from media.crop import CROPS
from media.place import shrunk_crop

SMALL = dataclasses.replace(CROPS["upright"], height=64, width=64)  # the form of `small_face`

# A look is the part of a small face between the hair and the nose's tip, which speech hardly moves.
_PART = (slice(0, 40), slice(12, 52))
LOOK_SHAPE = (10, 16, 3)

# Looks differ by the mean absolute difference of their standardised levels; `python -m benchmarks.looks` measures it.
SAME_LOOK = 0.33  # two that differ by less are one person's
SIMILAR_LOOK = 0.55  # the same for consecutive frames of a shot, where the place is evidence too
NEW_LOOK = 0.12  # one that differs by more from those remembered is remembered too

_CUT = 24.0  # grey levels; two frames whose thumbnails differ by more are of two shots
_DISSOLVES = (5, 9, 16, 26, 40)  # frames between the ends of a dissolve that are compared
_CHANGED = 10.0  # grey levels; least mean difference of a dissolve's ends
_UNLIKE = 0.8  # correlation; ends with a higher one are one picture in two lights
_FLAT = 6.0  # grey levels; ends with a smaller deviation are black or white, not a shot
# In shares of the ends' difference:
_MIXED = 0.16  # most that a frame between the ends differs from a mixture of the two
_UNEVEN = 0.05  # most that a frame's mixture goes back
_STEP = 0.4  # most that it goes on in one frame
# A face that goes over into another one: `SAME_LOOK`, but for the ends of so many frames, and `_MIXED`.
_OTHER_FACE, _FACE_BLENDS, _FACE_MIXED = 0.4, (9, 16, 26), 0.18


def small_face(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face with mesh or tracked points (478 or 132, 2) in `frame` (H, W, 3) uint8, as `SMALL`: (64, 64, 3)."""
    return shrunk_crop(frame, SMALL.place(points), SMALL.shape)


def look(face: np.ndarray) -> np.ndarray:
    """The look of a `small_face`: `LOOK_SHAPE` uint8."""
    return cv2.resize(face[_PART], LOOK_SHAPE[1::-1], interpolation=cv2.INTER_AREA)


def standardised(looks: np.ndarray) -> np.ndarray:
    """Looks (..., *LOOK_SHAPE) in units of their standard deviation within a channel, less their mean: (..., 480).

    Neither the light nor the contrast of a picture changes them. float32.
    """
    levels = np.asarray(looks, np.float32).reshape(*looks.shape[:-3], -1, 3)
    deviation = np.sqrt(levels.var(axis=-2).mean(axis=-1))[..., None, None]
    centred = levels - levels.mean(axis=(-2, -1), keepdims=True)
    return (centred / np.maximum(deviation, 0.5)).reshape(*looks.shape[:-3], -1)


def differences(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M): how much each of N looks differs from each of M."""
    a, b = standardised(looks), standardised(others)
    return np.stack([np.abs(b - each).mean(axis=-1) for each in a])


def distinct(looks: Iterable[np.ndarray], most: int) -> np.ndarray:
    """The first `most` looks that differ by more than `NEW_LOOK` from those before them: (N, *LOOK_SHAPE)."""
    kept: list[np.ndarray] = []
    known = np.empty((0, math.prod(LOOK_SHAPE)), np.float32)
    for each in looks:
        there = standardised(each)
        if not kept or np.abs(known - there).mean(axis=-1).min() > NEW_LOOK:
            kept.append(each)
            known = np.concatenate([known, there[None]])
            if len(kept) == most:
                break
    return np.stack(kept)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(32, 32, 3) float32."""
    step = max(1, min(frame.shape[:2]) // 200)  # six rows are enough for the mean of a thumbnail's pixel
    return cv2.resize(frame[::step], (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)


@dataclass(frozen=True)
class Dissolve:
    """Frames `start` to `stop`, exclusive, that mix two shots; from `middle` on, the second one prevails."""

    start: int
    middle: int
    stop: int


def _shares(pictures: np.ndarray) -> np.ndarray:
    """Share (F,) of the last of `pictures` (F, h, w, 3) float32 in each, as a mixture of the first and the last."""
    first, change = pictures[0], pictures[-1] - pictures[0]
    return ((pictures - first) * change).sum(axis=(1, 2, 3)) / (change**2).sum()


def _mixed(pictures: np.ndarray, shares: np.ndarray, most: float) -> bool:
    """Whether `pictures` differ from the mixtures of `_shares` by at most `most`, and the shares rise evenly."""
    first, change = pictures[0], pictures[-1] - pictures[0]
    mixtures = first + shares[:, None, None, None] * change
    errors = np.sqrt(((pictures - mixtures) ** 2).mean(axis=(1, 2, 3)) / (change**2).mean())
    steps = np.diff(shares)
    return not (errors.max() > most or steps.min() < -_UNEVEN or steps.max() > _STEP)


def face_dissolves(looks: list[np.ndarray], begin: int) -> list[Dissolve]:
    """Where the face with `looks` in consecutive frames, from frame `begin` on, goes over into another face.

    Faces are aligned, so that a dissolve between people who move their heads is found, too.
    """
    pictures, known = np.asarray(looks, np.float32), standardised(np.asarray(looks))
    ends: list[list[int]] = []
    for first in range(len(pictures)):
        for last in (first + length for length in _FACE_BLENDS if first + length < len(pictures)):
            if np.abs(known[last] - known[first]).mean() < _OTHER_FACE:
                continue
            part = pictures[first : last + 1]
            if not _mixed(part, _shares(part), _FACE_MIXED):
                continue
            if ends and first <= ends[-1][1] + _FACE_BLENDS[0]:
                ends[-1][1] = max(ends[-1][1], last)
            else:
                ends.append([first, last])
    found = []
    for first, last in ends:
        middle = first + int(np.argmax(_shares(pictures[first : last + 1]) >= 0.5))
        found.append(Dissolve(begin + first, begin + middle, begin + last))
    return found


@dataclass(frozen=True)
class _Seen:
    """A frame's thumbnail, its standard deviation, and the thumbnail less its mean, of length 1."""

    picture: np.ndarray
    deviation: float
    direction: np.ndarray

    @staticmethod
    def of(picture: np.ndarray) -> "_Seen":
        centred = (picture - picture.mean()).ravel()
        length = float(np.linalg.norm(centred))
        return _Seen(picture, length / math.sqrt(centred.size), centred / max(length, 1e-6))


def _apart(picture: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two thumbnails."""
    return cv2.norm(picture, other, cv2.NORM_L1) / picture.size


class Shots:
    """Finds where shots begin. `add` takes each frame's thumbnail.

    cuts: frames at which a shot begins, those of the dissolves included, once `end` is called.
    """

    def __init__(self):
        self.cuts: list[int] = []
        self.dissolves: list[Dissolve] = []
        self._recent: deque[_Seen] = deque(maxlen=max(_DISSOLVES) + 1)
        self._frames = 0

    def add(self, picture: np.ndarray) -> bool:
        """Whether the frame begins a shot by a cut."""
        cut = not self._recent or _apart(picture, self._recent[-1].picture) > _CUT
        if cut:
            self.cuts.append(self._frames)
            self._recent.clear()
        self._recent.append(_Seen.of(picture))
        self._frames += 1
        for length in _DISSOLVES:
            if length < len(self._recent) and (found := self._dissolve(length)):
                self._keep(found)
        return cut

    def _dissolve(self, length: int) -> Dissolve | None:
        """The dissolve between the latest frame and the one `length` before it; None if there is none."""
        first, last = self._recent[-length - 1], self._recent[-1]
        if _apart(first.picture, last.picture) < _CHANGED or min(first.deviation, last.deviation) < _FLAT:
            return None
        if first.direction @ last.direction > _UNLIKE:  # their correlation
            return None
        pictures = np.stack([self._recent[i].picture for i in range(-length - 1, 0)])
        shares = _shares(pictures)
        if not _mixed(pictures, shares, _MIXED):
            return None
        begin = self._frames - 1 - length  # the frame of `first`
        start, stop = np.flatnonzero(shares < _UNEVEN)[-1] + 1, np.flatnonzero(shares > 1 - _UNEVEN)[0]
        return Dissolve(*(begin + int(at) for at in (start, np.argmax(shares >= 0.5), stop)))

    def _keep(self, found: Dissolve) -> None:
        if self.dissolves and found.start < self.dissolves[-1].stop:
            last = self.dissolves.pop()
            found = Dissolve(min(last.start, found.start), found.middle, max(last.stop, found.stop))
        self.dissolves.append(found)

    def end(self) -> None:
        """Count the dissolves' middles as cuts."""
        self.cuts = sorted({*self.cuts, *(dissolve.middle for dissolve in self.dissolves)})
