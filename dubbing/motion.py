"""A person's face on the output's timeline: smoothed landmarks, places, and runs of consecutive frames."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

from dubbing.people import Person
from dubbing.source import source_index
from media.crop import STSA, CropForm
from media.landmarks import select131
from media.place import Place

_WINDOW, _ORDER = 7, 2  # smoothing filter: window in frames, degree of its polynomial
_FADE = 3  # frames in which the source's own mouth goes over into the generated one at a gap
_NEAR = 2  # frames before and after that share a scale, where the form has one for a window


@dataclass
class Motion:
    """Positions of a person's face in the P source frames to dub, and their use in the L output frames.

    landmarks: (P, 131, 2) float32 pixels; places: P places of the crop.
    lights: (P,) light of the face in each, grey levels.
    rows: (L,) row of `landmarks` and `places` for each output frame; -1 where the face is not dubbed.
    weights: (L,) share of the generated face: below 1 in the frames before and after a gap in the shot.
    first, last: (L,) ends of the run that contains each output frame; -1 where the face is not dubbed. A run is a
        stretch of output frames that show the face without a gap or a cut.
    """

    landmarks: np.ndarray
    places: list[Place]
    lights: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @functools.cached_property
    def poses(self) -> np.ndarray:
        """(P, 131, 2) float32: the landmarks in units of their places."""
        return np.stack([place.to_crop(each) for place, each in zip(self.places, self.landmarks, strict=True)])


def motion(
    person: Person,
    dubbed: np.ndarray,
    cuts: list[int],
    length: int,
    smooth: bool = True,
    form: CropForm = STSA,
    when_short: str = "bounce",
    level: bool = True,
) -> Motion:
    """The motion of `person` in an output of `length` frames.

    Args:
        dubbed: (F,) bool, the source frames in which this person is dubbed.
        cuts: source frames at which a shot begins.
        smooth: remove the tracker's jitter by fitting parabolas to 7 frames at a time. The window is symmetric in time,
            so the result does not lag.
        form: of the crop.
        when_short: how the video goes on beyond its end (`source_index`).
        level: turn the crop with a tilted face, see `CropForm.place`.
    """
    shown = [i for i, frame in enumerate(person.frames) if dubbed[frame]]
    frames = np.array([person.frames[i] for i in shown])
    points = np.stack([person.points[i] for i in shown]).astype(np.float32)
    begins = np.ones(len(frames), bool)
    begins[1:] = (np.diff(frames) > 1) | np.isin(frames[1:], cuts)
    run = np.cumsum(begins) - 1
    if smooth:
        for number in range(run[-1] + 1):
            rows = np.flatnonzero(run == number)
            if len(rows) >= _WINDOW:
                points[rows] = savgol_filter(points[rows], _WINDOW, _ORDER, axis=0, mode="interp")
    near = [
        np.flatnonzero(run[max(0, i - _NEAR) : i + _NEAR + 1] == run[i]) + max(0, i - _NEAR) for i in range(len(run))
    ]
    places = [form.place(points[i], points[rows], level) for i, rows in enumerate(near)]

    position = np.full(len(dubbed), -1)
    position[frames] = np.arange(len(frames))
    rows = position[source_index(np.arange(length), len(dubbed), when_short)]
    turn = np.arange(length) // len(dubbed) if when_short == "loop" else 0  # the first frame is not next to the last
    first, last = _run_ends(np.where(rows >= 0, run[rows] + turn * (run[-1] + 1), -1))
    lights = np.array([person.lights[i] for i in shown])
    weights = _faded(frames, run, cuts, min(len(dubbed), length))[rows]
    return Motion(select131(points), places, lights, rows, weights, first, last)


def _faded(frames: np.ndarray, run: np.ndarray, cuts: list[int], total: int) -> np.ndarray:
    """Weight of the generated face in each of `frames`: rises and falls where a run borders on a gap in the shot.

    `total`: number of the video's frames that are shown.
    """
    weights = np.ones(len(frames), np.float32)
    for number in range(run[-1] + 1):
        rows = np.flatnonzero(run == number)
        steps = np.arange(1, len(rows) + 1) / (_FADE + 1)
        if frames[rows[0]] > 0 and frames[rows[0]] not in cuts:
            weights[rows] = np.minimum(weights[rows], steps)
        if frames[rows[-1]] < total - 1 and frames[rows[-1]] + 1 not in cuts:
            weights[rows] = np.minimum(weights[rows], steps[::-1])
    return weights


def _run_ends(run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the stretch of equal numbers around each element; -1 where the number is -1."""
    edges = np.flatnonzero(np.diff(run)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(run)]])
    lengths = stops - starts
    first, last = np.repeat(starts, lengths), np.repeat(stops - 1, lengths)
    return np.where(run >= 0, first, -1), np.where(run >= 0, last, -1)
