"""The first frame of a video that shows a face, with its faces boxed: for choosing whom to dub."""

import math
import os
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from dubbing.people import turned_away
from dubbing.source import check_start
from dubbing.tracking import MOST_FACES
from media.errors import InputError
from media.face import Face, FaceTracker
from media.timeline import FPS
from media.video import probe, read_frames

SEARCHED = 10  # seconds from the start in which a face is searched for, every half second
_FREE, _CHOSEN = (255, 190, 40), (40, 200, 90)  # colours of a box


@dataclass
class Preview:
    """A frame of a video and the faces in it that can be dubbed.

    picture: (H, W, 3) uint8 RGB; seconds: its time in the video.
    boxes: x1 y1 x2 y2 of each face in pixels of `picture`, the leftmost first.
    """

    picture: np.ndarray
    seconds: float
    boxes: list[tuple[int, int, int, int]]


def preview(video: str | os.PathLike, start: float = 0.0) -> Preview:
    """The first frame from `start` seconds on that shows a face; the frame at `start` if none is found.

    Raises:
        InputError: the video cannot be read, or ends before `start`.
    """
    check_start(probe(video), start)
    first = round(start * FPS)
    frames = islice(read_frames(video, FPS, first), 0, SEARCHED * FPS, math.ceil(FPS / 2))
    opening = None
    with FaceTracker(MOST_FACES) as tracker:
        for number, frame in enumerate(frames):
            opening = frame if opening is None else opening
            faces = [face for face in tracker.find(frame) if not turned_away(face.landmarks)]
            if faces:
                boxes = sorted(_bounds(face, frame) for face in faces)
                return Preview(frame, (first + number * math.ceil(FPS / 2)) / FPS, boxes)
    if opening is None:
        raise InputError(f"--start {start:g}: video {video} has no frame there; give less")
    return Preview(opening, start, [])


def boxed(picture: np.ndarray, boxes: list[tuple[int, int, int, int]], chosen: int | None = None) -> np.ndarray:
    """A copy of `picture` (H, W, 3) uint8 with the boxes drawn; the one at index `chosen` in another colour."""
    drawn = picture.copy()
    thickness = max(2, round(max(picture.shape) / 250))
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        cv2.rectangle(drawn, (x1, y1), (x2, y2), _CHOSEN if number == chosen else _FREE, thickness)
    return drawn


def face_at(boxes: list[tuple[int, int, int, int]], x: float, y: float) -> int | None:
    """Index of the smallest box that contains the point; None if none does."""
    hits = [(_area(box), i) for i, box in enumerate(boxes) if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
    return min(hits)[1] if hits else None


def _bounds(face: Face, frame: np.ndarray) -> tuple[int, int, int, int]:
    size = np.array(frame.shape[1::-1]) - 1
    low, high = np.clip(face.landmarks.min(axis=0), 0, size), np.clip(face.landmarks.max(axis=0), 0, size)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
