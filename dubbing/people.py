"""Links the faces of a video's frames into people, and chooses whom to dub."""

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import cv2
import numpy as np

from dubbing.light import light
from media.crop import CropForm
from media.errors import InputError
from media.face import Face, FaceTracker
from media.landmarks import select131, tracked
from media.place import Place, crop_face, overlap
from media.stages import Clock

MOST_FACES = 4  # most faces to find in a frame
# Differences of two pictures are means of absolute differences, in grey levels.
_CUT = 24.0  # two frames whose thumbnails differ by more are of two shots
_SAME_PLACE = 0.3  # boxes of consecutive frames that overlap by more may be one person's
_SAME_LOOK = 14.0  # two upper faces that differ by less are one person's
_SIMILAR_LOOK = 22.0  # the same for consecutive frames of a shot, where the place is evidence too
_NEW_LOOK = 5.0  # a look that differs by more from those remembered is remembered too
_LOOK = CropForm(height=16, width=16)  # the thumbnail of a face, of which the first rows are compared
LOOK_SHAPE = (10, _LOOK.width, 3)
_LOOKS = 32  # most looks to remember of a person
_NOSE, _LEFT_SIDE, _RIGHT_SIDE = 1, 234, 454  # MediaPipe ids
_PROFILE = 0.06  # a face is turned away if its nose tip is nearer to one side than this fraction of its width


@dataclass
class Person:
    """One person's face through a video.

    frames: index of each frame that shows it, ascending.
    points: (132, 2) tracked points in each, in pixels; boxes: its `Face.box`, x1 y1 x2 y2.
    lights: light of the face in each, `dubbing.light.light`; NaN where it is not known.
    looks: thumbnails of different upper faces, by which the person is recognised; last_look: the latest thumbnail, set
        by the first `add`.
    """

    frames: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    lights: list[float] = field(default_factory=list)
    looks: np.ndarray = field(default_factory=lambda: np.empty((0, *LOOK_SHAPE), np.float32))
    last_look: np.ndarray = field(init=False, repr=False)

    def add(self, frame: int, face: Face, look: np.ndarray) -> None:
        self.frames.append(frame)
        self.points.append(tracked(face.landmarks))
        self.boxes.append(face.box)
        self.lights.append(light(look))
        if not self.frames[1:] or self.unlikeness(look) > _NEW_LOOK:
            self.looks = np.concatenate([self.looks, look[None]])[-_LOOKS:]
        self.last_look = look

    def unlikeness(self, look: np.ndarray) -> float:
        """Mean difference, in grey levels, between `look` and the most similar one remembered."""
        return float(np.abs(self.looks - look).mean(axis=(1, 2, 3)).min())

    def in_crops(self, form: CropForm) -> np.ndarray:
        """Landmarks in each of `frames` in units of the crop of `form`, (F, 131, 2): independent of the face's size."""
        return np.stack([form.place(points).to_crop(select131(points)) for points in self.points])

    def centre(self, position: int) -> np.ndarray:
        box = self.boxes[position]
        return (box[:2] + box[2:]) / 2

    def between(self, start: int, stop: int) -> range:
        """Indices into `frames` of the frames in [start, stop)."""
        return range(bisect_left(self.frames, start), bisect_left(self.frames, stop))

    def area(self, position: int) -> int:
        box = self.boxes[position]
        return int((box[2] - box[0]) * (box[3] - box[1]))


@dataclass
class Scene:
    """Result of the first pass: a video's people, the frames at which shots begin (0 included), the frame count."""

    people: list[Person]
    cuts: list[int]
    frames: int


def observe(frames: Iterable[np.ndarray], workers: int, clock: Clock | None = None) -> Scene:
    """Find and link the faces of `frames`, (H, W, 3) uint8 RGB each, with `workers` face trackers at once."""
    people: list[Person] = []
    cuts, count, last_thumbnail = [], 0, None
    for index, (frame, faces) in enumerate(_tracked(frames, workers, clock or Clock())):
        thumbnail = _thumbnail(frame)
        cut = last_thumbnail is None or _difference(thumbnail, last_thumbnail) > _CUT
        if cut:
            cuts.append(index)
        last_thumbnail = thumbnail
        seen = [(face, _look(frame, face)) for face in faces if not turned_away(face.landmarks)]
        _link(people, index, seen, cut)
        count = index + 1
    return Scene(people, cuts, count)


def turned_away(landmarks: np.ndarray) -> bool:
    """Whether a face (478, 2) is in profile or beyond: the mesh is unreliable there, and the mouth partly hidden."""
    side = landmarks[_RIGHT_SIDE] - landmarks[_LEFT_SIDE]
    width = float(np.linalg.norm(side))
    if width == 0:
        return True
    nose = float((landmarks[_NOSE] - landmarks[_LEFT_SIDE]) @ side) / width**2
    return min(nose, 1 - nose) < _PROFILE


def choose(scene: Scene, face: str = "largest", at: tuple[int, int] | None = None) -> list[list[Person]]:
    """Choose whom to dub: for each frame of the scene, the people whose faces are replaced.

    "largest" takes the person whose face has the largest total area in each shot. "left", "right" and an index (0 is
    the leftmost) name a person in the first frame that shows most faces; `at` names the person whose face is first seen
    at the point x, y. The named person is followed through the video. "all" takes everyone.

    Raises:
        InputError: there is no such person.
    """
    chosen: list[list[Person]] = [[] for _ in range(scene.frames)]
    if at is not None:
        picked = [_person_at(scene, at)]
    elif face == "all":
        picked = scene.people
    elif face == "largest":
        for start, stop in itertools.pairwise([*scene.cuts, scene.frames]):
            areas = [_area_between(person, start, stop) for person in scene.people]
            if areas and max(areas) > 0:
                _mark(chosen, scene.people[int(np.argmax(areas))], start, stop)
        return chosen
    else:
        row = _widest_row(scene)
        position = {"left": 0, "right": len(row) - 1}.get(face)
        position = int(face) if position is None else position
        if not 0 <= position < len(row):
            raise InputError(f"--face {face}: at most {len(row)} faces are seen at once; give 0 to {len(row) - 1}")
        picked = [row[position]]
    for person in picked:
        _mark(chosen, person, 0, scene.frames)
    return chosen


def _mark(chosen: list[list[Person]], person: Person, start: int, stop: int) -> None:
    for position in person.between(start, stop):
        chosen[person.frames[position]].append(person)


def _area_between(person: Person, start: int, stop: int) -> int:
    return sum(person.area(position) for position in person.between(start, stop))


def recognise(people: list[Person], others: list[Person]) -> list[Person | None]:
    """Match each of `people` to one of `others`, the people of another video; None where nobody looks similar.

    Each of `others` is matched once at most; the most similar pairs come first.
    """
    pairs = [
        (difference, i, j)
        for i, person in enumerate(people)
        for j, other in enumerate(others)
        if (difference := min(map(other.unlikeness, person.looks))) < _SAME_LOOK
    ]
    found: list[Person | None] = [None] * len(people)
    taken = set()
    for _, i, j in sorted(pairs):
        if found[i] is None and j not in taken:
            found[i] = others[j]
            taken.add(j)
    return found


def _widest_row(scene: Scene) -> list[Person]:
    """The people of the first frame that shows most of them, from left to right."""
    rows: dict[int, list[tuple[float, Person]]] = {}
    for person in scene.people:
        for position, frame in enumerate(person.frames):
            rows.setdefault(frame, []).append((float(person.centre(position)[0]), person))
    if not rows:
        return []
    frame = max(sorted(rows), key=lambda frame: len(rows[frame]))
    return [person for _, person in sorted(rows[frame], key=lambda pair: pair[0])]


def _person_at(scene: Scene, point: tuple[int, int]) -> Person:
    hits = []
    for person in scene.people:
        for frame, box in zip(person.frames, person.boxes, strict=True):
            if box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]:
                hits.append((frame, person))
                break
    if not hits:
        raise InputError(f"--face-at {point[0]},{point[1]}: no face is ever there; give a point in one")
    return min(hits, key=lambda hit: hit[0])[1]


def _tracked(frames: Iterable[np.ndarray], workers: int, clock: Clock) -> Iterator[tuple[np.ndarray, list[Face]]]:
    """Yield each frame with its faces, in order; at most twice `workers` frames are processed at a time."""
    trackers: SimpleQueue = SimpleQueue()
    opened = [FaceTracker(MOST_FACES) for _ in range(workers)]
    for tracker in opened:
        trackers.put(tracker)

    def find(frame: np.ndarray) -> list[Face]:
        tracker = trackers.get()
        try:
            with clock.time("track"):
                return tracker.find(frame)
        finally:
            trackers.put(tracker)

    pool = ThreadPoolExecutor(workers)
    pending: deque = deque()
    try:
        for frame in frames:
            pending.append((frame, pool.submit(find, frame)))
            if len(pending) > 2 * workers:
                frame, future = pending.popleft()
                yield frame, future.result()
        while pending:
            frame, future = pending.popleft()
            yield frame, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        for tracker in opened:
            tracker.close()


def _link(people: list[Person], frame: int, seen: list[tuple[Face, np.ndarray]], cut: bool) -> None:
    """Add each face of a frame to the person it matches, best matches first, or to a new person."""
    scores = [
        (score, i, j)
        for i, (face, look) in enumerate(seen)
        for j, person in enumerate(people)
        if (score := _match(person, frame, face, look, cut)) is not None
    ]
    free_faces, free_people = set(range(len(seen))), set(range(len(people)))
    for _, i, j in sorted(scores, reverse=True):
        if i in free_faces and j in free_people:
            free_faces.remove(i)
            free_people.remove(j)
            people[j].add(frame, *seen[i])
    for i in sorted(free_faces):
        people.append(Person())
        people[-1].add(frame, *seen[i])


def _match(person: Person, frame: int, face: Face, look: np.ndarray, cut: bool) -> float | None:
    """Score of a face as a person's next, by place first, then by look; None if it is somebody else's."""
    place = overlap(face.box, person.boxes[-1])
    if not cut and frame - person.frames[-1] == 1 and place > _SAME_PLACE:
        return 1 + place if _difference(look, person.last_look) < _SIMILAR_LOOK else None
    difference = min(person.unlikeness(look), _difference(look, person.last_look))
    return place - difference / _SAME_LOOK if difference < _SAME_LOOK else None


def _look(frame: np.ndarray, face: Face) -> np.ndarray:
    """Thumbnail of the upper part of a face, which speech hardly moves."""
    return crop_face(frame, Place(*face.box.tolist()), _LOOK.shape)[: LOOK_SHAPE[0]].astype(np.float32)


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())
