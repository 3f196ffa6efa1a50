"""Links the faces of consecutive frames into tracks, and bridges the few frames in which a face is missed."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from dubbing.light import light
from dubbing.looks import SAME_LOOK, SIMILAR_LOOK, Dissolve, differences, distinct, look, small_face
from media.face import Face
from media.landmarks import tracked
from media.place import overlap

MEMORY = 64 * 2**20  # most bytes of small faces to keep: those of some 5,000 frames
BRIDGED = 5  # most frames between two of a track in which its face is missed
_SAME_PLACE = 0.3  # boxes of neighbouring frames that overlap by more may be one person's
_SAME_MESH = 0.06  # mean distance of the points of one face, in two ways, in its diagonal
_RECENT = 16  # tracks, and frames of them, that are searched for a face in a missed frame
MOST_LOOKS = 32  # most different looks by which a track is recognised
_FLEETING = 2  # frames; a face that is seen no longer in a longer shot is no person


@dataclass
class Track:
    """One face through consecutive frames of a shot.

    frames: ascending; points: (132, 2) tracked points in each; boxes: its `Face.box`; looks: `looks.look`.
    small: `looks.small_face`, None where there was no room for it.
    bridged: those of `frames` whose points are interpolated because the face is missed there.
    interpolated: those whose points are interpolated because the face hardly moves (`dubbing.tracking`).
    """

    frames: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    looks: list[np.ndarray] = field(default_factory=list)
    small: list[np.ndarray | None] = field(default_factory=list, repr=False)
    bridged: set[int] = field(default_factory=set)
    interpolated: set[int] = field(default_factory=set)

    def add(self, frame: int, points: np.ndarray, box: np.ndarray, seen: np.ndarray, small: np.ndarray | None) -> None:
        self.frames.append(frame)
        self.points.append(points)
        self.boxes.append(box)
        self.looks.append(seen)
        self.small.append(small)

    def part(self, start: int, stop: int) -> "Track":
        """The track's frames in [start, stop)."""
        at = slice(bisect_left(self.frames, start), bisect_left(self.frames, stop))
        frames = self.frames[at]
        bridged, interpolated = (each.intersection(frames) for each in (self.bridged, self.interpolated))
        points, boxes, looks, small = self.points[at], self.boxes[at], self.looks[at], self.small[at]
        return Track(frames, points, boxes, looks, small, bridged, interpolated)

    def lights(self) -> list[float]:
        """Light of the face in each frame; interpolated where a bridged frame shows something else there."""
        seen = np.array([frame not in self.bridged for frame in self.frames])
        sure = seen.copy()
        known = np.flatnonzero(seen)
        for i in np.flatnonzero(~seen) if seen.any() else ():
            near = [self.looks[j] for j in (*known[known < i][-1:], *known[known > i][:1])]
            sure[i] = differences(self.looks[i][None], np.stack(near)).min() <= SAME_LOOK
        levels = np.array([light(each) for each in self.looks])
        if sure.any():
            levels = np.interp(self.frames, np.array(self.frames)[sure], levels[sure])
        return levels.astype(np.float32).tolist()  # as `Prepared` keeps them

    def distinct(self) -> np.ndarray:
        """Looks that differ from each other, the first ones of the track: (N, *LOOK_SHAPE), N from 1 to 32."""
        return distinct(self.looks, MOST_LOOKS)


class Linker:
    """Makes tracks of the faces of each frame, in order.

    A face goes on in the next frame of its shot where its place and its look are similar. Where it is missed for up to
    `BRIDGED` frames, or another face is found in its place for so long, its points are interpolated, if the look at the
    interpolated place is similar too, or the mesh found there is.
    """

    def __init__(self):
        self.tracks: list[Track] = []
        self.frames = 0
        self._room = MEMORY
        self._open: list[Track] = []  # those that may go on
        self._missed: dict[int, np.ndarray] = {}  # recent frames in which a face is missed

    def add(
        self, frame: np.ndarray, faces: list[Face], small: list[np.ndarray], cut: bool, interpolated: bool = False
    ) -> None:
        """Add a frame (H, W, 3) uint8 with its faces and their `looks.small_face`.

        cut: it begins a shot. interpolated: its faces are interpolated.
        """
        index, self.frames = self.frames, self.frames + 1
        self._open = [track for track in self._open if not cut and index - track.frames[-1] <= BRIDGED + 1]
        self._missed = {i: picture for i, picture in self._missed.items() if index - i <= BRIDGED}
        looks = [look(each) for each in small]
        scores = [
            (score, i, j)
            for i, face in enumerate(faces)
            for j, track in enumerate(self._open)
            if (score := _score(track, index, face, looks[i])) is not None
        ]
        owners: dict[int, Track] = {}
        for _, i, j in sorted(scores, reverse=True):
            track = self._open[j]
            if i not in owners and all(track is not other for other in owners.values()):
                if track.frames[-1] < index - 1 and not self._bridge(track, index, faces[i], looks[i]):
                    continue
                owners[i] = track
        for i, face in enumerate(faces):
            if i not in owners:
                owners[i] = Track()
                self.tracks.append(owners[i])
                self._open.append(owners[i])
            owners[i].add(index, tracked(face.landmarks), face.box, looks[i], self._kept(small[i]))
            if interpolated:
                owners[i].interpolated.add(index)
        if any(track.frames[-1] < index for track in self._open):
            self._missed[index] = frame

    def _kept(self, small: np.ndarray) -> np.ndarray | None:
        """`small`, or None where the faces kept so far fill the memory."""
        self._room -= small.nbytes
        return small if self._room >= 0 else None

    def _seen(self, index: int, points: np.ndarray, track: Track) -> bool:
        """Whether a face with such `points`, of another track than `track`, is found at `index`: a covered one."""
        others = [other for other in self.tracks[-_RECENT:] if other is not track and index in other.frames[-_RECENT:]]
        return any(_fits(other.points[other.frames.index(index)], points) for other in others)

    def _bridge(self, track: Track, index: int, face: Face, seen: np.ndarray) -> bool:
        """Interpolate `track` from its last frame to `face`, at `index`; False where another look lies between."""
        first, points, box = track.frames[-1], track.points[-1], track.boxes[-1]
        known, rows = np.stack([track.looks[-1], seen]), []
        for i in range(first + 1, index):
            share = (i - first) / (index - first)
            between = (1 - share) * points + share * tracked(face.landmarks)
            small = small_face(self._missed[i], between)
            there = look(small)
            if differences(there[None], known).min() > SIMILAR_LOOK and not self._seen(i, between, track):
                return False
            mean = np.rint((1 - share) * box + share * face.box).astype(np.int32)
            rows.append((i, between.astype(np.float32), mean, there, self._kept(small)))
        for row in rows:
            track.add(*row)
            track.bridged.add(row[0])
        # Whoever was found there in between, and nowhere else, was this face.
        self.tracks = [other for other in self.tracks if other is track or not _within(other, track)]
        self._open = [other for other in self._open if any(other is each for each in self.tracks)]
        return True


def _fits(points: np.ndarray, expected: np.ndarray) -> bool:
    """Whether (132, 2) points are those that are `expected`, but for a small part of the face's size."""
    error = np.linalg.norm(points - expected, axis=1).mean()
    return bool(error < _SAME_MESH * np.linalg.norm(expected.max(axis=0) - expected.min(axis=0)))


def _score(track: Track, index: int, face: Face, seen: np.ndarray) -> float | None:
    """Score of a face as a track's next, by place and look; None if it is somebody else's."""
    place = overlap(face.box, track.boxes[-1])
    difference = float(differences(seen[None], track.looks[-1][None]).min())
    if place <= _SAME_PLACE or difference >= SIMILAR_LOOK:
        return None
    return place - difference - (index - track.frames[-1])


def _within(other: Track, track: Track) -> bool:
    """Whether all frames of `other` are bridged by `track`, in the same place."""
    rows = {frame: i for i, frame in enumerate(track.frames) if frame in track.bridged}
    return all(
        frame in rows and overlap(box, track.boxes[rows[frame]]) > _SAME_PLACE
        for frame, box in zip(other.frames, other.boxes, strict=True)
    )


def divided(tracks: list[Track], dissolves: list[Dissolve]) -> list[Track]:
    """The tracks, those that a dissolve leads from one person to another divided in its middle."""
    parts = list(tracks)
    for dissolve in dissolves:
        for track in list(parts):
            before, after = track.part(0, dissolve.middle), track.part(dissolve.middle, track.frames[-1] + 1)
            if not before.frames or not after.frames:
                continue
            clear = before.part(0, dissolve.start), after.part(dissolve.stop, track.frames[-1] + 1)
            first, second = (a if a.frames else b for a, b in zip(clear, (before, after), strict=True))
            if differences(first.distinct(), second.distinct()).min() > SAME_LOOK:
                parts = [each for each in parts if each is not track] + [before, after]
    return parts


def fleeting(frames: list[int], cuts: list[int]) -> bool:
    """Whether a person of `frames` is seen so shortly, in a longer shot, that it is none."""
    if len(frames) > _FLEETING:
        return False
    shot = bisect_right(cuts, frames[0])
    length = (cuts[shot] if shot < len(cuts) else np.inf) - (cuts[shot - 1] if shot else 0)
    return length > _FLEETING
