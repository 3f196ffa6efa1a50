"""Finds what is before a mouth: a hand, a microphone, a mask, food, a caption. Not in the papers.

A small network compares the face in each frame with the person's usual face, the median of many frames, and marks the
pixels of what covers it. `extensions/train_occlusion.py` trains it. Marks in one or two frames do not count: several
must agree, and then marks last as long as a little of the face is marked.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dubbing.looks import SMALL, small_face
from dubbing.people import Person
from dubbing.source import Source
from media.heatmap import LIP_POINTS
from media.landmarks import OVAL_POINTS, select131
from media.place import Place
from media.stages import Clock

FORM = SMALL  # of the faces that the network takes
PACKED = FORM.height * FORM.width // 8  # bytes of a packed mask
WEIGHTS = Path(__file__).with_name("occlusion.safetensors")
_EYES = (slice(16, 32), slice(20, 44))  # rows and columns of the eyes and cheeks, by which two faces are made as light
_DARK, _MOST_GAIN = 50.0, 5.0  # mean grey level below which a face is brightened, and the largest factor

_CHUNK = 3000  # faces compared with one usual face; it is held in memory with them
_USUAL = 64  # faces whose median is the usual face
_BATCH = 32
# The network takes every third frame of a face, and those next to frames in which some of the lower face is marked.
_EVERY, _AROUND = 3, 3
_HINT = 0.004  # that share of the lower face, without the lips and the oval's edge
_APART = 5  # of the frames that are not dubbed, every fifth is examined: they may be references

# Probabilities, smoothed over three frames: what is above the first is covered, if some of it is above the second.
_MARKED, _CERTAIN = 0.25, 0.5
# Marks count where so large a share of the lower face is marked, without the lips and the oval's edge, in so many
# frames; then they last down to the second, and to the frames next to these. Of the lips alone, teeth and tongue are
# often marked, and what is before a mouth is rarely so small.
_STRONG, _WEAK, _FRAMES = 0.03, 0.012, 3
# They count only if a ratio of them is above this probability: the first, or the second if they last for so large a
# share of the frames. What is always before a mouth is in the usual face too; a stranger's bare mouth is then marked at
# times, but with less confidence.
_CONFIDENT, _RATIOS, _OFTEN = 0.9, (0.08, 0.3), 0.5
# A hand in the skin's own colour is marked with little confidence: without any, marks that last for less count where so
# large a share of the lower face is marked without the lips, the oval's edge included.
_BROAD, _BROAD_LASTS = 0.08, 0.04
_MARGIN = 2  # px around the lips, and inside the oval
_RIM = 0.4  # share of the frame's own pixels in the second pixel next to what is covered; all of them in the first
_SPECK = 6  # px; smaller marks are noise
_BRIDGED, _PASSED = 5, 15  # frames between two stretches that become one: of marks, and of frames that pass
# Shares of the lower face, the lips and the upper face. A frame in which more is covered passes, as do those next to
# it in which nearly as much is.
_LOWER, _LIPS, _UPPER, _NEARLY = 0.6, 0.8, 0.3, 0.75
_UNSURE = 0.25  # two frames pass if so large a share of the lips is uncertain, and more than is certainly covered
_SURE = (0.2, 0.8)  # probabilities, between which a pixel is uncertain
_FADE = 4  # frames from a frame that passes to the next in which the whole face is pasted
_NEAR = 2  # frames next to a covered one
# Without bare frames, this share of the frames may be references, if less than that of their lower faces is covered.
_LEAST_COVERED, _IN_REFERENCES = 0.1, 0.08
# A frame is unlike the person's others where its difference exceeds the median one by so many median deviations, and by
# so many grey levels.
_UNLIKE, _UNLIKE_LEVELS = 10.0, 20.0


@dataclass
class Covered:
    """What covers a face in one frame.

    strength: how much of the generated face is pasted, 1 all of it, 0 none.
    visible: the place and the (H, W) float32 share of each of its pixels that shows the face; None: all of it.
    """

    strength: float
    visible: tuple[Place, np.ndarray] | None


@dataclass
class Cover:
    """What covers a person's face in N frames of a video.

    frames: (N,) ascending.
    shares: (N,) share of the lower face that is covered; 0 where nothing is.
    strength: (N,) see `Covered`.
    bare: (N,) bool, the frames that may be references.
    places, masks: of each frame in which something is covered and that does not pass, the crop's place and the covered
        pixels, packed (`np.packbits`).
    """

    frames: np.ndarray
    shares: np.ndarray
    strength: np.ndarray
    bare: np.ndarray
    places: dict[int, Place] = field(default_factory=dict)
    masks: dict[int, np.ndarray] = field(default_factory=dict)

    def at(self, frame: int) -> Covered | None:
        """What covers the face in `frame` or, if that was not examined, in the nearest frame; None: nothing."""
        position = int(self._nearest(np.array([frame]))[0])
        nearest, strength = int(self.frames[position]), float(self.strength[position])
        if abs(nearest - frame) > _APART or (strength == 1 and nearest not in self.masks):
            return None
        if nearest not in self.masks:
            return Covered(strength, None)
        mask = np.unpackbits(self.masks[nearest]).reshape(FORM.shape)
        return Covered(strength, (self.places[nearest], _visible(mask)))

    def usable(self, frames: Sequence[int]) -> np.ndarray:
        """Positions in `frames`, the person's, of those that may be references.

        A frame that was not examined is as bare as the nearest one. If none is bare, those in which least is covered.
        """
        nearest = self._nearest(np.asarray(frames))
        if self.bare[nearest].any():
            return np.flatnonzero(self.bare[nearest])
        shares = self.shares[nearest]
        return np.flatnonzero(shares <= np.quantile(shares, _LEAST_COVERED))

    def without_references(self) -> "Cover":
        """This cover if its frames can be references; else one in which every frame passes.

        A face that is generated from covered ones shows pieces of what covers them.
        """
        if self.bare.any() or np.quantile(self.shares, _LEAST_COVERED) <= _IN_REFERENCES:
            return self
        return dataclasses.replace(self, strength=np.zeros_like(self.strength), places={}, masks={})

    def _nearest(self, frames: np.ndarray) -> np.ndarray:
        """Position in `self.frames` of the nearest to each of `frames`, the earlier of two."""
        after = np.clip(np.searchsorted(self.frames, frames), 0, len(self.frames) - 1)
        before = np.maximum(after - 1, 0)
        return np.where(frames - self.frames[before] <= np.abs(self.frames[after] - frames), before, after)


def examine(
    source: Source, people: Sequence[Person], cuts: Sequence[int], dubbed: int, device: torch.device, clock: Clock
) -> list[Cover]:
    """What covers the faces of `people` in the first `dubbed` frames of `source`, and in every fifth of the others.

    Args:
        source: scanned.
        cuts: frames at which shots begin.
    """
    wanted = [_examined(person, dubbed) for person in people]
    readers = [_Reader(person, rows, device) for person, rows in zip(people, wanted, strict=True)]
    with clock.time("occlusion"):
        missed = [reader for reader in readers if not reader.recall()]
    stop = max((reader.last for reader in missed), default=-1) + 1
    for index, frame in clock.iterate("decode", source.play(min(stop, source.frames))):
        with clock.time("occlusion"):
            for reader in missed:
                reader.look(index, frame)
    with clock.time("occlusion"):
        return [reader.cover(cuts) for reader in readers]


def _examined(person: Person, dubbed: int) -> np.ndarray:
    frames = np.asarray(person.frames)
    return np.flatnonzero((frames < dubbed) | (np.arange(len(frames)) % _APART == 0))


class _Reader:
    """Collects one person's faces, and runs the network on them, a chunk at a time."""

    def __init__(self, person: Person, rows: np.ndarray, device: torch.device):
        self._person, self._rows, self._device = person, rows, device
        self._row_of = {person.frames[row]: row for row in rows}
        self._faces: list[np.ndarray] = []
        self._landmarks: list[np.ndarray] = []
        self._places: list[Place] = []
        self._usual: np.ndarray | None = None
        self._marks: list[np.ndarray | None] = []
        self._unlike: list[float] = []

    @property
    def last(self) -> int:
        """The last frame to look at; -1 if there is none."""
        return self._person.frames[self._rows[-1]] if len(self._rows) else -1

    def recall(self) -> bool:
        """Take the faces that the first pass kept; False if it did not keep all of them."""
        kept = [self._person.small[row] for row in self._rows] if self._person.small else []
        faces = [face for face in kept if face is not None]
        if len(faces) < len(self._rows):
            return False
        for row, face in zip(self._rows, faces, strict=True):
            self._add(row, face)
        return True

    def look(self, index: int, frame: np.ndarray) -> None:
        row = self._row_of.get(index)
        if row is not None:
            self._add(row, small_face(frame, self._person.points[row]))

    def _add(self, row: int, face: np.ndarray) -> None:
        points = self._person.points[row]
        place = FORM.place(points)
        self._places.append(place)
        self._landmarks.append(place.to_crop(select131(points)))
        self._faces.append(face)
        if len(self._faces) == _CHUNK:
            self._read()

    def _read(self) -> None:
        faces, landmarks = self._faces, self._landmarks[-len(self._faces) :]
        if self._usual is None or len(faces) >= _USUAL:
            picks = np.unique(np.linspace(0, len(faces) - 1, min(len(faces), _USUAL)).astype(int))
            self._usual = np.median([faces[i] for i in picks], axis=0).astype(np.uint8)
        marks: dict[int, np.ndarray | None] = {}
        unlike: dict[int, float] = {}
        wanted = sorted({*range(0, len(faces), _EVERY), len(faces) - 1})
        while wanted:
            for start in range(0, len(wanted), _BATCH):
                self._mark(wanted[start : start + _BATCH], landmarks, marks, unlike)
            hints = [i for i in wanted if _hinted(marks[i], landmarks[i])]
            near = {j for i in hints for j in range(max(0, i - _AROUND), min(len(faces), i + _AROUND + 1))}
            wanted = sorted(near.difference(marks))
        self._marks += [marks.get(i) for i in range(len(faces))]
        known = sorted(unlike)
        self._unlike += np.interp(np.arange(len(faces)), known, [unlike[i] for i in known]).tolist()
        self._faces = []

    def _mark(
        self,
        numbers: list[int],
        landmarks: list[np.ndarray],
        marks: dict[int, np.ndarray | None],
        unlike: dict[int, float],
    ) -> None:
        """Add the marks and the unlikeness of the faces `numbers`; marks are None where all are small."""
        assert self._usual is not None
        inputs = np.stack([network_input(self._faces[i], self._usual, landmarks[i]) for i in numbers])
        with torch.inference_mode():
            made = load_network(str(self._device))(torch.from_numpy(inputs).to(self._device)).sigmoid() * 255
        found = made.round().byte().cpu().numpy()
        marks.update((i, each if each.max() > _MARKED * 255 else None) for i, each in zip(numbers, found, strict=True))
        unlike.update((i, unlikeness(each)) for i, each in zip(numbers, inputs, strict=True))

    def cover(self, cuts: Sequence[int]) -> Cover:
        if self._faces:
            self._read()
        frames = np.array([self._person.frames[row] for row in self._rows])
        return judge(frames, self._marks, self._landmarks, self._places, np.array(self._unlike), cuts)


def judge(
    frames: np.ndarray,
    marks: Sequence[np.ndarray | None],
    landmarks: Sequence[np.ndarray],
    places: Sequence[Place],
    unlike: np.ndarray,
    cuts: Sequence[int],
) -> Cover:
    """Decide what is covered, and which frames pass.

    Args:
        frames: (N,) ascending.
        marks: N (H, W) uint8, the network's probabilities times 255, of crops of `FORM`; None where all are small.
        landmarks, places: N (131, 2) in units of these crops, and the crops' places.
        unlike: (N,) `unlikeness` of each to the person's usual face.
        cuts: frames at which shots begin.
    """
    shot = np.searchsorted(np.asarray(cuts), frames, side="right")
    masks: dict[int, np.ndarray] = {}
    shares, outside, confident, broad = np.zeros((4, len(frames)))
    passing = np.zeros(len(frames), bool)
    nearly, unsure = passing.copy(), passing.copy()
    for i, probability in _steadied(marks, frames, shot):
        parts = _parts(landmarks[i])
        mask = _covering(probability * (parts[0] | parts[2]), parts[1])
        lower, lips, upper = (_share(mask, part) for part in parts)
        shares[i], masks[i] = lower, np.packbits(mask)
        inner = _inner(*parts)
        outside[i] = _share(mask & (probability > _CERTAIN) & inner, parts[0])
        broad[i] = _share(mask & (probability > _CERTAIN) & ~parts[1], parts[0])
        confident[i] = _share((probability > _CONFIDENT) & inner, parts[0])
        most = max(lower / _LOWER, lips / _LIPS, upper / _UPPER)
        nearly[i] = most > _NEARLY
        passing[i], unsure[i] = most > 1, _unsure(marks[i], parts[1])
    kept = np.zeros(len(frames), bool)
    for start, stop in _stretches(_joined((outside > _WEAK) | (broad > _BROAD_LASTS), frames, shot, _BRIDGED)):
        ratio = confident[start:stop].sum() / max(outside[start:stop].sum(), _WEAK)
        often, least = stop - start > _OFTEN * len(frames), min(_FRAMES, len(frames))
        strong = (outside[start:stop] > _STRONG).sum() >= least and ratio > _RATIOS[int(often)]
        if strong or (not often and (broad[start:stop] > _BROAD).sum() >= least):
            kept[max(0, start - _NEAR) : stop + _NEAR] = True
    twice = unsure[1:] & unsure[:-1] & (shot[1:] == shot[:-1])
    passing[1:] |= twice
    passing[:-1] |= twice
    kept &= shares > 0
    passing = _joined(passing & kept, frames, shot, _PASSED)
    for start, stop in _stretches(nearly & kept):
        passing[start:stop] |= passing[start:stop].any()
    cover = Cover(frames, np.where(kept, shares, 0), _strength(passing, frames, shot), _bare(kept, unlike, frames))
    for i in np.flatnonzero(kept & (cover.strength > 0)):
        if i in masks:
            cover.places[int(frames[i])], cover.masks[int(frames[i])] = places[i], masks[i]
    return cover


def _steadied(
    marks: Sequence[np.ndarray | None], frames: np.ndarray, shot: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each marked frame's number and probabilities, smoothed over it and its neighbours in the same shot."""
    for i, mark in enumerate(marks):
        total, weight = np.zeros(FORM.shape, np.float32) if mark is None else mark * np.float32(2 / 255), 2
        marked = mark is not None
        for j in (i - 1, i + 1):
            if 0 <= j < len(marks) and shot[i] == shot[j] and abs(frames[i] - frames[j]) == 1:
                other, weight = marks[j], weight + 1
                if other is not None:
                    total, marked = total + other * np.float32(1 / 255), True
        if marked:
            yield i, total / weight


def _unsure(mark: np.ndarray | None, part: np.ndarray) -> bool:
    """Whether many pixels of `part` are uncertain, and more than are certainly covered."""
    if mark is None:
        return False
    found, certain = (_share(mark > level * 255, part) for level in _SURE)
    return found - certain > max(certain, _UNSURE)


def _covering(probability: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """The pixels that are covered, (H, W) bool; those of the lips only where that is certain."""
    marked = np.where(lips, probability > _CERTAIN, probability > _MARKED)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8))
    certain = np.bincount(labels[probability > _CERTAIN], minlength=len(stats)) > 0
    certain &= stats[:, cv2.CC_STAT_AREA] >= _SPECK
    certain[0] = False
    return certain[labels]


def _parts(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of the lower face, of the lips, and of the upper face, (H, W) bool."""
    oval, lips = (_hull(landmarks[points]) for points in (OVAL_POINTS, LIP_POINTS))
    hidden = FORM.hidden_mask()
    return oval & hidden, lips, oval & ~hidden


def _inner(lower: np.ndarray, lips: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The lower face without the lips and the oval's edge."""
    return lower & ~_grown(lips) & ~_grown(~(lower | upper))


def _hinted(mark: np.ndarray | None, landmarks: np.ndarray) -> bool:
    """Whether so much of a lower face is marked that the frames next to it are looked at too."""
    if mark is None:
        return False
    parts = _parts(landmarks)
    return _share((mark > _MARKED * 255) & _inner(*parts), parts[0]) > _HINT


def _grown(mask: np.ndarray) -> np.ndarray:
    side = 2 * _MARGIN + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _hull(points: np.ndarray) -> np.ndarray:
    mask = np.zeros(FORM.shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(points * FORM.shape[::-1] - 0.5).astype(np.int32)), (1,))
    return mask > 0


def _share(mask: np.ndarray, part: np.ndarray) -> float:
    return float((mask & part).sum() / max(1, part.sum()))


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """The stretches [start, stop) of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _joined(flags: np.ndarray, frames: np.ndarray, shot: np.ndarray, gap: int) -> np.ndarray:
    """`flags`, and those between two true ones of a shot that are at most `gap` frames apart."""
    flags = flags.copy()
    true = np.flatnonzero(flags)
    for a, b in itertools.pairwise(true):
        if shot[a] == shot[b] and frames[b] - frames[a] <= gap + 1:
            flags[a:b] = True
    return flags


def _strength(passing: np.ndarray, frames: np.ndarray, shot: np.ndarray) -> np.ndarray:
    """0 where a frame passes, rising to 1 over the frames next to it in its shot; (N,) float32."""
    strength = np.ones(len(frames), np.float32)
    for i in np.flatnonzero(passing):
        near = slice(max(0, i - _FADE), i + _FADE + 1)
        distance = np.abs(frames[near] - frames[i]) / np.float32(_FADE)
        strength[near] = np.where(shot[near] == shot[i], np.minimum(strength[near], distance), strength[near])
    return strength


def _bare(kept: np.ndarray, unlike: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Which frames show the bare face as it usually is."""
    near = np.zeros(len(frames), bool)
    for i in np.flatnonzero(kept):
        near |= np.abs(frames - frames[i]) <= _NEAR
    usual = np.median(unlike)
    spread = np.median(np.abs(unlike - usual))
    return ~near & (unlike <= usual + max(_UNLIKE * spread, _UNLIKE_LEVELS))


def _visible(mask: np.ndarray) -> np.ndarray:
    """The share of each pixel that shows the face, (H, W) float32: 0 where `mask` (H, W) is set and next to it."""
    near, far = (cv2.dilate(mask, np.ones((side, side), np.uint8)).astype(np.float32) for side in (3, 5))
    return 1 - np.maximum(near, _RIM * far)


def network_input(face: np.ndarray, usual: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The network's input, (7, H, W) float32: `face`, `usual` and the landmarks' oval and lips, in about [-1, 1].

    Args:
        face: (H, W, 3) uint8, a crop of `FORM`.
        usual: (H, W, 3) uint8, the person's usual face in the same form; made as light as `face`.
        landmarks: (131, 2) of `face`, in units of the crop.
    """
    level, other = (float(each[_EYES].mean()) + 1 for each in (face, usual))
    brighter = np.clip(_DARK / level, 1, _MOST_GAIN)
    face = face * np.float32(brighter)
    usual = usual * np.float32(brighter * np.clip(level / other, 1 / _MOST_GAIN, _MOST_GAIN))
    drawn = np.zeros(face.shape[:2], np.uint8)
    for points, value in ((OVAL_POINTS, 128), (LIP_POINTS, 255)):
        drawn[_hull(landmarks[points])] = value
    stacked = np.concatenate([face, usual, drawn[..., None].astype(np.float32)], axis=2)
    return stacked.transpose(2, 0, 1) / 127.5 - 1


def unlikeness(inputs: np.ndarray) -> float:
    """Mean difference of a face and the usual face inside the oval, grey levels, from the `network_input` of both."""
    return float(np.abs(inputs[:3] - inputs[3:6])[:, inputs[6] > -1].mean() * 127.5)


class OcclusionNetwork(nn.Module):
    """A U-Net with 86 thousand parameters: the probability, as a logit, that a pixel shows no face but what covers it.

    Its input is that of `network_input`; the difference of the two faces is added.
    """

    def __init__(self) -> None:
        super().__init__()
        self.halved, self.quarter = _layer(8, 16, 2), nn.Sequential(_layer(16, 24, 2), _layer(24, 24))
        self.eighth = nn.Sequential(_layer(24, 48, 2), _layer(48, 48), _layer(48, 48))
        self.up_quarter, self.up_half = _layer(48 + 24, 24), _layer(24 + 16, 16)
        self.narrowed = nn.Conv2d(16, 8, 1)
        self.up_whole = nn.Sequential(_layer(8 + 8, 8), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, H, W) of (B, 7, H, W)."""
        x = torch.cat([x, (x[:, :3] - x[:, 3:6]).abs().mean(dim=1, keepdim=True)], dim=1)
        half = self.halved(x)
        quarter = self.quarter(half)
        y = self.eighth(quarter)
        y = y + y.mean(dim=(2, 3), keepdim=True)
        y = self.up_quarter(torch.cat([_doubled(y), quarter], dim=1))
        y = self.up_half(torch.cat([_doubled(y), half], dim=1))
        return self.up_whole(torch.cat([_doubled(self.narrowed(y)), x], dim=1))[:, 0]


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@functools.lru_cache(maxsize=2)
def load_network(device: str) -> OcclusionNetwork:
    network = OcclusionNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return network.eval().to(device)
