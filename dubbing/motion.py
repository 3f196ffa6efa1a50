"""A person's face on the output's timeline: smoothed landmarks, boxes, and runs of consecutive frames."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

from dubbing.people import Person
from dubbing.source import source_index
from media.crop import STSA, CropForm

_WINDOW, _ORDER = 7, 2  # smoothing filter: window in frames, degree of its polynomial


@dataclass
class Motion:
    """Positions of a person's face in the P source frames to dub, and their use in the L output frames.

    landmarks: (P, 131, 2) float32 pixels; boxes: (P, 4) int32.
    rows: (L,) row of `landmarks` and `boxes` for each output frame; -1 where the face is not dubbed.
    first, last: (L,) ends of the run that contains each output frame; -1 where the face is not dubbed. A run is a
        stretch of output frames that show the face without a gap or a cut.
    """

    landmarks: np.ndarray
    boxes: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray


def motion(
    person: Person,
    dubbed: np.ndarray,
    cuts: list[int],
    length: int,
    width: int,
    height: int,
    smooth: bool = True,
    form: CropForm = STSA,
) -> Motion:
    """The motion of `person` in an output of `length` frames.

    Args:
        dubbed: (F,) bool, the source frames in which this person is dubbed.
        cuts: source frames at which a shot begins.
        width, height: size of the source's frames.
        smooth: remove the tracker's jitter by fitting parabolas to 7 frames at a time. The window is symmetric in time,
            so the result does not lag.
        form: how the boxes follow from the landmarks.
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
    boxes = np.stack([form.box(points, width, height) for points in landmarks])

    position = np.full(len(dubbed), -1)
    position[frames] = np.arange(len(frames))
    rows = position[source_index(np.arange(length), len(dubbed))]
    first, last = _run_ends(np.where(rows >= 0, run[rows], -1))
    return Motion(landmarks, boxes, rows, first, last)


def _run_ends(run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the stretch of equal numbers around each element; -1 where the number is -1."""
    edges = np.flatnonzero(np.diff(run)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(run)]])
    lengths = stops - starts
    first, last = np.repeat(starts, lengths), np.repeat(stops - 1, lengths)
    return np.where(run >= 0, first, -1), np.where(run >= 0, last, -1)
