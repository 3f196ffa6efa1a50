"""The people of a video, and whom to dub."""

import itertools
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dubbing.light import evenly_lit
from dubbing.looks import LOOK_SHAPE, SAME_LOOK, Shots, differences, distinct, face_dissolves, thumbnail
from dubbing.tracking import tracked_frames
from dubbing.tracks import MOST_LOOKS, Linker, Track, divided, fleeting
from media.crop import CropForm
from media.errors import InputError
from media.heatmap import LIP_POINTS
from media.landmarks import select131
from media.stages import Clock

_NOSE, _LEFT_SIDE, _RIGHT_SIDE = 1, 234, 454  # MediaPipe ids
_MOUTH = 0.5, 0.75  # a mouth of which a smaller share is in the picture passes, until a larger one is
_APART = 25  # frames from a dissolve that the whole pictures show, within which the faces show no other
_PROFILE = 0.06  # a face is turned away if its nose tip is nearer to one side than this fraction of its width


@dataclass
class Person:
    """One person's face through a video.

    frames: index of each frame that shows it, ascending.
    points: (132, 2) tracked points in each, in pixels; boxes: its `Face.box`, x1 y1 x2 y2.
    lights: light of the face in each, `dubbing.light.light`; NaN where it is not known.
    looks: thumbnails of different upper faces, by which the person is recognised.
    unsure: those of `frames` that are no references: their points are interpolated, two shots are mixed, or a shadow
        lies on a part of the face.
    small: `looks.small_face` in each; None where the first pass kept none.
    """

    frames: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    lights: list[float] = field(default_factory=list)
    looks: np.ndarray = field(default_factory=lambda: np.empty((0, *LOOK_SHAPE), np.float32))
    unsure: set[int] = field(default_factory=set)
    small: list[np.ndarray | None] = field(default_factory=list, repr=False)

    def extend(self, track: Track) -> None:
        """Add the frames of a track."""
        self.frames += track.frames
        self.points += track.points
        self.boxes += track.boxes
        self.lights += track.lights()
        self.small += track.small
        self.unsure |= track.bridged | track.interpolated
        even = evenly_lit(np.stack(track.looks))
        self.unsure.update(frame for frame, plain in zip(track.frames, even, strict=True) if not plain)
        self.looks = distinct([*self.looks, *track.distinct().astype(np.float32)], MOST_LOOKS)

    def unlikeness(self, looks: np.ndarray) -> float:
        """How much (N, *LOOK_SHAPE) `looks` differ from those remembered: the most similar quarter of them."""
        return float(np.quantile(differences(looks, self.looks).min(axis=1), 0.25))

    def in_crops(self, form: CropForm, level: bool = True) -> np.ndarray:
        """Landmarks in each of `frames` in units of the crop of `form`, (F, 131, 2): independent of the face's size."""
        return np.stack([form.place(points, level=level).to_crop(select131(points)) for points in self.points])

    def inside(self, landmarks: np.ndarray) -> np.ndarray:
        """(F,) share of the landmarks with indices `landmarks` that lie in the picture, for each of `frames`."""
        points = np.stack(self.points)[:, landmarks]
        boxes = np.stack(self.boxes)[:, None].astype(np.float64)  # they end where the picture does
        return ((points >= boxes[..., :2]) & (points < boxes[..., 2:])).all(axis=-1).mean(axis=1)

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


def observe(frames: Iterable[np.ndarray], workers: int, clock: Clock | None = None, every_frame: bool = False) -> Scene:
    """Find and link the faces of `frames`, (H, W, 3) uint8 RGB each, with `workers` face trackers at once.

    every_frame: search every frame, also where a face hardly moves (`dubbing.tracking`).
    """
    clock, shots, linker = clock or Clock(), Shots(), Linker()
    for found in tracked_frames(frames, workers, clock, every_frame):
        with clock.time("link"):
            cut = shots.add(thumbnail(found.frame))
            shown = [i for i, face in enumerate(found.faces) if not turned_away(face.landmarks)]
            faces, small = [found.faces[i] for i in shown], [found.small[i] for i in shown]
            linker.add(found.frame, faces, small, cut, found.interpolated)
    return Scene(people_of(linker.tracks, shots), shots.cuts, linker.frames)


def people_of(tracks: list[Track], shots: Shots) -> list[Person]:
    """The people of whom `tracks` are stretches, in the order in which they are first seen. Ends `shots`."""
    _add_dissolves(tracks, shots)
    shots.end()
    parts = sorted(divided(tracks, shots.dissolves), key=lambda track: track.frames[0])
    people: list[Person] = []
    for _, group in itertools.groupby(parts, key=lambda track: track.frames[0]):
        _join(people, list(group))
    people = [person for person in people if not fleeting(person.frames, shots.cuts)] or people
    mixed = {frame for dissolve in shots.dissolves for frame in range(dissolve.start, dissolve.stop)}
    for person in people:
        person.unsure |= mixed.intersection(person.frames)
    return people


def _add_dissolves(tracks: list[Track], shots: Shots) -> None:
    """Add to `shots` the dissolves that only the faces show, in which a track leads from one person to another."""
    known = list(shots.dissolves)
    for track in tracks:
        for found in face_dissolves(track.looks, track.frames[0]):
            apart = all(found.stop + _APART < other.start or other.stop + _APART < found.start for other in known)
            if apart and len(divided([track], [found])) > 1:
                shots.dissolves.append(found)


def _join(people: list[Person], tracks: list[Track]) -> None:
    """Add each of `tracks`, which begin together, to the person whose looks it has, or to a new person."""
    pairs = [
        (difference, i, j)
        for i, track in enumerate(tracks)
        for j, person in enumerate(people)
        if person.frames[-1] < track.frames[0] and (difference := person.unlikeness(track.distinct())) < SAME_LOOK
    ]
    owners: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if i not in owners and j not in owners.values():
            owners[i] = j
    for i, track in enumerate(tracks):
        if i not in owners:
            people.append(Person())
        person = people[owners.get(i, -1)]
        person.extend(track)


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


def without_mouth(person: Person) -> np.ndarray:
    """(F,) bool: in which of the person's frames the mouth lies beyond the border of the picture.

    It comes back when most of it is seen again, so that a face at the border is dubbed in whole stretches.
    """
    lost, beyond = False, np.zeros(len(person.frames), bool)
    for i, share in enumerate(person.inside(LIP_POINTS)):
        lost = share < (_MOUTH[1] if lost else _MOUTH[0])
        beyond[i] = lost
    return beyond


def _mark(chosen: list[list[Person]], person: Person, start: int, stop: int) -> None:
    for position in person.between(start, stop):
        chosen[person.frames[position]].append(person)


def _area_between(person: Person, start: int, stop: int) -> int:
    return sum(person.area(position) for position in person.between(start, stop))


def unlike(person: Person, other: Person) -> float:
    """How much two people differ: by their most similar looks."""
    return float(differences(person.looks, other.looks).min())


def recognise(people: list[Person], others: list[Person]) -> list[Person | None]:
    """Match each of `people` to one of `others`, the people of another video; None where nobody looks similar.

    Each of `others` is matched once at most; the most similar pairs come first.
    """
    pairs = [
        (difference, i, j)
        for i, person in enumerate(people)
        for j, other in enumerate(others)
        if (difference := unlike(person, other)) < SAME_LOOK
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
