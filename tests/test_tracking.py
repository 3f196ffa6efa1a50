"""Which frames the first pass searches for faces, and which faces it interpolates."""

import numpy as np
import pytest
from faces import portrait

from dubbing import tracking
from dubbing.people import observe
from dubbing.tracking import MOVED, tracked_frames
from media.face import Face, FaceTracker, face_of
from media.landmarks import select131
from media.stages import Clock

SHAPE = (224, 240, 3)


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    with FaceTracker() as tracker:
        return tracker.find(portrait())[0].landmarks


@pytest.fixture
def searched(monkeypatch, mesh):
    """Finds, in each frame, the faces that `where` gives for its number, which its first pixel holds."""
    numbers: list[int] = []

    class Tracker:
        where = staticmethod(lambda number: [mesh])

        def __init__(self, faces: int):
            pass

        def find(self, frame: np.ndarray) -> list[Face]:
            numbers.append(int(frame[0, 0, 0]))
            return [face_of(points, frame.shape) for points in Tracker.where(numbers[-1])]

        def close(self) -> None:
            pass

    class Turned(Tracker):
        def corrected(self, frame: np.ndarray, faces: list[Face], interpolated: bool) -> list[Face]:
            return faces

    monkeypatch.setattr(tracking, "FaceTracker", Tracker)
    monkeypatch.setattr(tracking, "TurnedFaces", Turned)
    return Tracker, numbers


def numbered(count: int) -> list[np.ndarray]:
    frames = []
    for number in range(count):
        frames.append(portrait().copy())
        frames[-1][0, 0, 0] = number
    return frames


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_second_frame_of_a_still_face_is_searched(searched, mesh, count, workers):
    found = list(tracked_frames(numbered(count), workers, Clock()))
    assert [int(each.frame[0, 0, 0]) for each in found] == list(range(count))
    between = [number for number in range(1, count - 1, 2)]
    assert sorted(searched[1]) == [number for number in range(count) if number not in between]
    assert [i for i, each in enumerate(found) if each.interpolated] == between
    assert all(np.abs(each.faces[0].landmarks - mesh).max() < 1e-4 and len(each.small) == 1 for each in found)


def test_a_face_that_moves_is_searched_in_every_frame(searched, mesh):
    size = float(np.ptp(select131(mesh), axis=0).max())
    speed = 0.7 * MOVED * size  # from frame to frame
    searched[0].where = staticmethod(lambda number: [mesh + np.array([min(number, 4) * speed, 0])])
    list(tracked_frames(numbered(9), 2, Clock()))
    assert sorted(searched[1]) == [0, 1, 2, 3, 4, 6, 8]


def test_a_face_that_comes_or_goes_is_searched_in_every_frame(searched, mesh):
    searched[0].where = staticmethod(lambda number: [mesh] if number in (0, 1, 2, 3, 4, 8) else [])
    list(tracked_frames(numbered(9), 2, Clock()))
    assert sorted(searched[1]) == [0, 2, 4, 5, 6, 7, 8]


def test_another_picture_between_is_searched(searched):
    frames = numbered(5)
    frames[3][1:] = np.random.default_rng(0).integers(0, 256, frames[3][1:].shape)
    list(tracked_frames(frames, 2, Clock()))
    assert sorted(searched[1]) == [0, 2, 3, 4]


def test_the_reader_can_ask_for_every_frame(searched):
    list(tracked_frames(numbered(5), 2, Clock(), every_frame=True))
    assert sorted(searched[1]) == list(range(5))


def test_interpolated_frames_are_no_references(searched):
    person = observe(numbered(7), 1).people[0]
    assert person.frames == list(range(7)) and person.unsure == {1, 3, 5}
