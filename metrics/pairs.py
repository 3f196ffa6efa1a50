"""Pairs generated videos with others by file name and reads both frame by frame.

In a paired evaluation the other is the true video of the same words. In an unpaired one it is the video that was
dubbed, which says other words, or there is none.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from media.crop import CropForm
from media.errors import InputError
from media.face import Face, FaceTracker
from media.files import VIDEO_SUFFIXES, files_below
from media.pictures import to_tensor
from media.place import crop_face, resize
from media.stages import background
from media.video import read_frames

SUFFIXES = VIDEO_SUFFIXES | {".gif"}
_FACES = 3  # detected in a frame, so that the tracker stays with one of them
_AHEAD = 4  # frames by which a reader may be ahead of the metrics


@dataclass(frozen=True)
class Pair:
    """A generated video and the one of the same name that it is compared with: the true one, or the dubbed one.

    `crops` are videos of the bare crops, generated and true, black where there is none (`inference.py --list`).
    """

    name: str
    generated: Path
    reference: Path | None
    crops: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class FramePair:
    """One instant of both videos.

    Attributes:
        index: the frame's place on the 25 fps timeline.
        generated, reference: (H, W, 3) uint8 RGB; `reference` is None where an unpaired evaluation has no frame.
        generated_face, reference_face: the face in each; None if there is none or faces are not tracked.
        crops: the bare crops, generated and true, each (h, w, 3) uint8 RGB; () where this frame has none; None if the
            pair has no videos of crops.
    """

    index: int
    generated: np.ndarray
    reference: np.ndarray | None
    generated_face: Face | None
    reference_face: Face | None
    crops: tuple[np.ndarray, ...] | None = None


class Batch:
    """Consecutive frame pairs of one clip, and their compared images.

    Args:
        pairs: all frame pairs, including those that cannot be compared.
        region: "face": both frames are cropped to the reference's face box, and no metric compares a pair that lacks a
            face in either frame. "frame": whole frames of every pair are compared.
        crop: the form of the face crops.
    """

    def __init__(self, pairs: list[FramePair], region: str, crop: CropForm, device: str = "cpu"):
        self.pairs = pairs
        self.region = region
        self._crop = crop
        self._device = device
        self.compared = [
            pair
            for pair in pairs
            if pair.reference is not None
            and (region == "frame" or None not in (pair.generated_face, pair.reference_face))
            and (pair.crops is None or len(pair.crops) == 2)
        ]

    def _images(self, which: str) -> Tensor:
        if self.compared and self.compared[0].crops is not None:
            place = ("generated", "reference").index(which)
            crops = [pair.crops[place] for pair in self.compared if pair.crops is not None]
            height, width = self._crop.shape
            return to_tensor(np.stack([_sized(crop, width, height) for crop in crops]), self._device)
        images = [getattr(pair, which) for pair in self.compared]
        if self.region == "face":
            faces = [pair.reference_face for pair in self.compared if pair.reference_face is not None]
            places = [self._crop.place(face.landmarks) for face in faces]
            images = [crop_face(image, place, self._crop.shape) for image, place in zip(images, places, strict=True)]
        return to_tensor(np.stack(images), self._device)

    @cached_property
    def generated(self) -> Tensor:
        """(B, 3, H, W) in [0, 1] of the compared pairs."""
        return self._images("generated")

    @cached_property
    def reference(self) -> Tensor:
        """(B, 3, H, W) in [0, 1] of the compared pairs."""
        return self._images("reference")


def _sized(crop: np.ndarray, width: int, height: int) -> np.ndarray:
    return crop if crop.shape[:2] == (height, width) else resize(crop, width, height)


def with_crops(pair: Pair, folder: Path) -> Pair:
    """`pair` with its crops, `folder`/generated/NAME.mkv and `folder`/true/NAME.mkv; InputError if one is missing."""
    paths = [folder / which / f"{pair.name}.mkv" for which in ("generated", "true")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"--crops {folder} has no {path.relative_to(folder)}; write it with inference.py --list")
    return replace(pair, crops=(paths[0], paths[1]))


def find_videos(folder: Path, what: str) -> dict[str, Path]:
    """The videos in `folder` and its subfolders: relative path without the suffix -> file.

    Raises:
        InputError: no folder, no video in it, or two videos that differ by their suffix alone.
    """
    if not folder.is_dir():
        raise InputError(f"{what} {folder} is not a folder; give the folder that holds the videos")
    found: dict[str, Path] = {}
    for path in files_below(folder, SUFFIXES):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{what} {folder} holds both {found[name].name} and {path.name}; keep one of them")
        found[name] = path
    if not found:
        raise InputError(f"{what} {folder} holds no video; give the folder that holds the videos")
    return found


def pair_videos(
    generated: Path, reference: Path | None, option: str = "--reference"
) -> tuple[list[Pair], list[str], list[str]]:
    """Pair the videos of two folders by name.

    Args:
        reference: None pairs each video with nothing.
        option: names the folder `reference` in messages.

    Returns:
        The pairs by name, the names that only `generated` has, and those that only `reference` has.

    Raises:
        InputError: a folder without videos, or two folders without a name in common.
    """
    made = find_videos(generated, "--generated")
    if reference is None:
        return [Pair(name, path, None) for name, path in sorted(made.items())], [], []
    true = find_videos(reference, option)
    pairs = [Pair(name, made[name], true[name]) for name in sorted(made.keys() & true.keys())]
    if not pairs:
        raise InputError(
            f"--generated {generated} and {option} {reference} have no file name in common (for instance "
            f"{min(made)} and {min(true)}); give the videos the same names"
        )
    return pairs, sorted(made.keys() - true.keys()), sorted(true.keys() - made.keys())


@dataclass
class FrameCount:
    """Frames read from a pair of videos.

    Attributes:
        shared: frames that both videos have.
        only_generated, only_reference: frames by which that video is longer.
    """

    shared: int = 0
    only_generated: int = 0
    only_reference: int = 0


def read_pairs(
    pair: Pair,
    count: FrameCount,
    track_reference: bool = True,
    track_generated: bool = True,
    known_faces: list[Face | None] | None = None,
    unpaired: bool = False,
) -> Generator[FramePair, None, None]:
    """Read both videos on the 25 fps timeline, each in a thread of its own, and find the faces in them.

    Args:
        count: filled in while reading.
        track_reference, track_generated: whether to look for faces.
        known_faces: the reference's faces found by earlier calls, one entry a frame. This call appends the faces that
            it finds, so that several methods share the tracking.
        unpaired: also yield the generated frames that have no reference frame.

    Raises:
        InputError: a video cannot be read, or the two differ in size.
    """
    known_faces = [] if known_faces is None else known_faces
    with contextlib.ExitStack() as stack:
        generated = stack.enter_context(_ahead(pair.generated, track_generated, []))
        reference: Iterator[tuple[np.ndarray, Face | None]] = iter(())
        if pair.reference is not None:
            reference = stack.enter_context(_ahead(pair.reference, track_reference, known_faces))
        crops = _crops(pair)
        for index, (made, true) in enumerate(itertools.zip_longest(generated, reference)):
            crop = next(crops, ()) if pair.crops is not None else None
            if made is None:
                count.only_reference += 1
                continue
            if true is None and not unpaired:
                count.only_generated += 1
                continue
            if true is not None and made[0].shape != true[0].shape:
                sizes = (f"{image.shape[1]}x{image.shape[0]}" for image in (made[0], true[0]))
                where = f" in frame {index}" if index else ""
                raise InputError("{} generated, {} reference{}: the sizes differ".format(*sizes, where))
            count.shared += 1
            yield FramePair(index, made[0], true[0] if true else None, made[1], true[1] if true else None, crop)


def _crops(pair: Pair) -> Iterator[tuple[np.ndarray, ...]]:
    """The bare crops of each frame, generated and true; () where they are black."""
    if pair.crops is not None:
        for made, true in zip(*map(read_frames, pair.crops), strict=False):
            yield (made, true) if true.any() else ()


def _with_faces(path: Path, track: bool, known: list[Face | None]) -> Iterator[tuple[np.ndarray, Face | None]]:
    """Frames of `path` with their faces: first those in `known`, then tracked ones, which are appended to it."""
    with contextlib.ExitStack() as stack:
        tracker = None
        for index, frame in enumerate(read_frames(path)):
            if track and index >= len(known):
                if tracker is None:
                    tracker = stack.enter_context(FaceTracker(_FACES))
                known.append(tracker.track(frame))
            yield frame, known[index] if track else None


def _ahead(path: Path, track: bool, known: list[Face | None]) -> contextlib.closing:
    """`_with_faces` in a thread of its own, a few frames ahead of the reader."""
    return contextlib.closing(background(_with_faces(path, track, known), _AHEAD))
