"""Finds the faces of consecutive frames, with several trackers at once.

Every second frame is searched. In a frame between, a face that hardly moves is interpolated: the tracker takes most of
the first pass's time. Where a face moves, comes or goes, every frame is searched.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from dubbing.looks import differences, look, small_face
from media.face import Face, FaceTracker, face_of
from media.landmarks import select131
from media.place import overlap
from media.stages import Clock
from media.turned import TurnedFaces

MOST_FACES = 4  # most faces to find in a frame
MOVED = 0.06  # a face is interpolated if no landmark moves by more of its longer side, from before to after
_SAME_PLACE = 0.5  # overlap of a face's boxes in two frames
_SAME_LOOK = 0.25  # difference of a face's looks in two neighbouring frames


@dataclass
class Found:
    """A frame (H, W, 3) uint8, its faces, the `looks.small_face` of each, and whether they are interpolated."""

    frame: np.ndarray
    faces: list[Face]
    small: list[np.ndarray]
    interpolated: bool = False


def tracked_frames(
    frames: Iterable[np.ndarray], workers: int, clock: Clock, every_frame: bool = False
) -> Iterator[Found]:
    """Yield each frame with its faces, in order; at most some `2 * workers` frames are processed at a time.

    Args:
        workers: trackers at once.
        every_frame: interpolate no face.
    """
    trackers, turned = SimpleQueue[FaceTracker](), TurnedFaces(MOST_FACES)
    opened = [FaceTracker(MOST_FACES) for _ in range(workers)]
    for tracker in opened:
        trackers.put(tracker)

    def find(frame: np.ndarray) -> Found:
        tracker = trackers.get()
        try:
            with clock.time("track"):
                return _seen(frame, tracker.find(frame))
        finally:
            trackers.put(tracker)

    def between(frame: np.ndarray, before: "Future[Found]", after: "Future[Found]") -> Found:
        ends = before.result(), after.result()
        with clock.time("track"):
            found = interpolated(frame, *ends)
        return found or find(frame)

    def corrected(found: Found) -> Found:
        with clock.time("track"):
            faces = turned.corrected(found.frame, found.faces, found.interpolated)
            unchanged = len(faces) == len(found.faces) and all(a is b for a, b in zip(faces, found.faces, strict=True))
            return found if unchanged else _seen(found.frame, faces)

    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Found]] = deque()
    waiting: np.ndarray | None = None  # a frame between two that are searched
    try:
        for number, frame in enumerate(frames):
            if number % 2 and not every_frame:
                waiting = frame
                continue
            last = pending[-1] if pending else None
            future = pool.submit(find, frame)
            if waiting is not None and last is not None:
                # Both futures that it waits for were submitted before it, so that it never waits for one behind it.
                pending.append(pool.submit(between, waiting, last, future))
                waiting = None
            pending.append(future)
            while len(pending) > 2 * workers + 1:
                yield corrected(pending.popleft().result())
        if waiting is not None:
            pending.append(pool.submit(find, waiting))
        while pending:
            yield corrected(pending.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)
        turned.close()
        for tracker in opened:
            tracker.close()


def _seen(frame: np.ndarray, faces: list[Face]) -> Found:
    return Found(frame, faces, [small_face(frame, face.landmarks) for face in faces])


def interpolated(frame: np.ndarray, before: Found, after: Found) -> Found | None:
    """`frame` with the faces of the frames next to it, halfway between; None if it must be searched."""
    if not before.faces or len(before.faces) != len(after.faces):
        return None
    faces, small = [], []
    for face, seen in zip(before.faces, before.small, strict=True):
        others = [i for i, other in enumerate(after.faces) if overlap(face.box, other.box) > _SAME_PLACE]
        if len(others) != 1:
            return None
        other = after.faces[others[0]]
        first, last = (select131(each.landmarks) for each in (face, other))
        size = float((first.max(axis=0) - first.min(axis=0)).max())
        if np.linalg.norm(last - first, axis=1).max() > MOVED * size:
            return None
        middle = face_of((face.landmarks + other.landmarks) / 2, frame.shape)
        there = small_face(frame, middle.landmarks)
        ends = np.stack([look(seen), look(after.small[others[0]])])
        if differences(look(there)[None], ends).max() > _SAME_LOOK:
            return None
        faces.append(middle)
        small.append(there)
    return Found(frame, faces, small, interpolated=True)
