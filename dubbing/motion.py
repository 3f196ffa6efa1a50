"""A person's face along the output's timeline: steady landmarks and boxes, and the runs of frames without a gap."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

from dubbing.people import Person
from dubbing.source import source_index
from media.crop import face_box

_WINDOW, _ORDER = 7, 2  # of the smoothing polynomial, in frames


@dataclass
class Motion:
    """Where a person's face is in the frames that shall be dubbed.

    landmarks: (P, 131, 2) float32 pixels; boxes: (P, 4) int32.
    rows: (L,) for each output frame the row of `landmarks` and `boxes`, -1 where the face is not dubbed.
    first, last: (L,) for each output frame the ends of the run it is in: output frames that show the face without a
        gap or a cut; -1 where the face is not dubbed.
    """

    landmarks: np.ndarray
    boxes: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray


def motion(
    person: Person, dubbed: np.ndarray, cuts: list[int], length: int, width: int, height: int, smooth: bool = True
) -> Motion:
    """The motion of `person` in an output of `length` frames.

    Args:
        dubbed: (F,) bool, the source's frames in which this person is dubbed.
        cuts: frames of the source at which a shot begins.
        width, height: of the source's frames.
        smooth: take the trembling of the tracker out, by fitting parabolas to 7 frames at a time. The fit looks as
            far ahead as back, so that nothing lags.
    """
    shown = [i for i, frame in enumerate(person.frames) if dubbed[frame]]
    frames = np.array([person.frames[i] for i in shown])
    landmarks = np.stack([person.landmarks[i] for i in shown]).astype(np.float32)
    begins = np.ones(len(frames), bool)
    begins[1:] = (np.diff(frames) > 1) | np.isin(frames[1:], cuts)
    run = np.cumsum(begins) - 1
    if smooth:
        for number in range(run[-1] + 1):
            rows = np.flatnonzero(run == number)
            if len(rows) >= _WINDOW:
                landmarks[rows] = savgol_filter(landmarks[rows], _WINDOW, _ORDER, axis=0, mode="interp")
    boxes = np.stack([face_box(points, width, height) for points in landmarks])

    position = np.full(len(dubbed), -1)
    position[frames] = np.arange(len(frames))
    rows = position[source_index(np.arange(length), len(dubbed))]
    first, last = _run_ends(np.where(rows >= 0, run[rows], -1))
    return Motion(landmarks, boxes, rows, first, last)


def _run_ends(run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the stretch of equal numbers that each element is in; -1 where the number is."""
    edges = np.flatnonzero(np.diff(run)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(run)]])
    lengths = stops - starts
    first, last = np.repeat(starts, lengths), np.repeat(stops - 1, lengths)
    return np.where(run >= 0, first, -1), np.where(run >= 0, last, -1)
