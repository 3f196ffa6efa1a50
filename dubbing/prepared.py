"""`Prepared`: what dubs of one video share, kept in memory or in a file."""

import contextlib
import dataclasses
import hashlib
import json
import os
from bisect import bisect_left
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dubbing.occlusion import PACKED, Cover
from dubbing.options import DubOptions
from dubbing.people import LOOK_SHAPE, Person, Scene
from media.errors import InputError, first_line
from media.files import existing_file, replacing
from media.landmarks import TRACKED
from media.place import Place
from media.timeline import FPS
from media.video import VideoInfo, watchable

FORM = 1  # of the file
Encoding = dict[str, Tensor]  # a person's encoded references, `Speaker.state`


@dataclass
class Prepared:
    """A part of a video at a frame rate, its tracked faces, and encoded references of the people in it.

    `scene` covers the part's first `limit` frames, or all of it if it has fewer; None until it is tracked.
    `encoded` holds, for a checkpoint (`Speaker.fingerprint`), encoded references by `reference_key`.
    `covers` holds what covers people's faces, by their number in `scene`.
    """

    video: Path
    fps: Fraction
    start: float = 0.0
    end: float | None = None
    scene: Scene | None = None
    limit: int = 0
    encoded: dict[str, dict[str, Encoding]] = field(default_factory=dict)
    covers: dict[int, Cover] = field(default_factory=dict)
    file: Path | None = None  # that this was read from

    @classmethod
    def of(cls, video: str | os.PathLike, info: VideoInfo, options: DubOptions) -> "Prepared":
        """The part of `video` that the options name, not tracked yet."""
        return cls(Path(video), frame_rate(info, options.keep_fps), options.start, options.end)

    def check(self, info: VideoInfo, options: DubOptions) -> DubOptions:
        """The options with this part and rate; InputError where they name another part or rate."""
        given = {"start": options.start, "end": options.end, "keep_fps": options.keep_fps}
        usual = DubOptions()
        for name, value in given.items():
            mine = self.fps == frame_rate(info, True) if name == "keep_fps" else getattr(self, name)
            if value not in (getattr(usual, name), mine):
                raise InputError(
                    f"--{name.replace('_', '-')}: {self.file or self.video} was prepared with another value; "
                    f"leave it out, or prepare the video again"
                )
        return dataclasses.replace(
            options, start=self.start, end=self.end, keep_fps=self.fps != frame_rate(info, False)
        )

    def known(self, limit: int) -> Scene | None:
        """The scene of the part's first `limit` frames, as tracking would give it; None if it is not known."""
        if self.scene is None or (self.limit < limit and self.scene.frames >= self.limit):
            return None
        return until(self.scene, limit)

    def save(self, path: str | os.PathLike) -> None:
        """Write this to a safetensors file.

        Raises:
            InputError: the video cannot be read, or the file cannot be written.
        """
        assert self.scene is not None
        arrays = {"cuts": np.array(self.scene.cuts, np.int32)}
        for i, person in enumerate(self.scene.people):
            arrays[f"people.{i}.frames"] = np.array(person.frames, np.int32)
            arrays[f"people.{i}.points"] = np.stack(person.points).astype(np.float32)
            arrays[f"people.{i}.boxes"] = np.stack(person.boxes).astype(np.int32)
            arrays[f"people.{i}.looks"] = person.looks
            arrays[f"people.{i}.unsure"] = np.array(sorted(person.unsure), np.int32)
            arrays[f"people.{i}.lights"] = np.array(person.lights, np.float32)
        for i, cover in self.covers.items():
            covered = list(cover.masks)
            arrays[f"covers.{i}.frames"], arrays[f"covers.{i}.shares"] = cover.frames.astype(np.int32), cover.shares
            arrays[f"covers.{i}.strength"], arrays[f"covers.{i}.bare"] = cover.strength, cover.bare
            arrays[f"covers.{i}.covered"] = np.array(covered, np.int32)
            arrays[f"covers.{i}.masks"] = np.array([cover.masks[frame] for frame in covered], np.uint8)
            sides = [dataclasses.astuple(cover.places[frame]) for frame in covered]
            arrays[f"covers.{i}.places"] = np.array(sides, np.float64)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        names: dict[str, dict[str, list[str]]] = {}
        for checkpoint, people in self.encoded.items():
            for key, encoding in people.items():
                names.setdefault(checkpoint, {})[key] = list(encoding)
                for name, tensor in encoding.items():
                    copied = tensor.cpu().clone(memory_format=torch.contiguous_format)  # some share memory
                    tensors[f"encoded.{checkpoint}.{key}.{name}"] = copied
        about = {
            "form": FORM,
            "video": str(self.video.absolute()),
            "digest": digest(self.video),
            "fps": str(self.fps),
            "start": self.start,
            "end": self.end,
            "frames": self.scene.frames,
            "limit": self.limit,
            "people": len(self.scene.people),
            "encoded": names,
            "covers": list(self.covers),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"prepared": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike, video: str | os.PathLike | None = None) -> "Prepared":
        """Read a file that `save` wrote.

        Args:
            video: where the video is now; None: where it was.

        Raises:
            InputError: the file is damaged or none of `save`'s, or the video is absent or has changed.
        """
        path = existing_file(path, "prepared person")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["prepared"])
                if about["form"] != FORM:
                    raise InputError(f"prepared person {path} is of another version; prepare the video again")
                arrays = {name: file.get_tensor(name).numpy() for name in file.keys() if name[0] != "e"}  # noqa: SIM118
                encoded = {
                    checkpoint: {
                        key: {name: file.get_tensor(f"encoded.{checkpoint}.{key}.{name}") for name in names}
                        for key, names in people.items()
                    }
                    for checkpoint, people in about["encoded"].items()
                }
            people = [_person(arrays, i, about["frames"]) for i in range(about["people"])]
            scene = Scene(people, arrays["cuts"].tolist(), int(about["frames"]))
            where, rate = Path(about["video"]), Fraction(about["fps"])
            covers = {i: _cover(arrays, i, people[i]) for i in about.get("covers", [])}
            prepared = cls(where, rate, about["start"], about["end"], scene, about["limit"], encoded, covers, path)
            expected = str(about["digest"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise InputError(
                f"prepared person {path} is damaged or no file of dubbing.prepare ({first_line(error)}); "
                f"prepare the video again"
            ) from error
        if video is not None:
            prepared.video = Path(video)
        if digest(existing_file(prepared.video, "video")) != expected:
            raise InputError(f"video {prepared.video} is not the one that {path} was prepared from; prepare it again")
        return prepared


def frame_rate(info: VideoInfo, keep_fps: bool) -> Fraction:
    """The frame rate of the output for a video."""
    return watchable(info.frame_rate).limit_denominator(1001) if keep_fps else Fraction(FPS)


def until(scene: Scene, frames: int) -> Scene:
    """The scene of a video's first `frames` frames."""
    if frames >= scene.frames:
        return scene
    people = []
    for person in scene.people:
        count = bisect_left(person.frames, frames)
        if count:
            points, boxes, lights = person.points[:count], person.boxes[:count], person.lights[:count]
            unsure = {frame for frame in person.unsure if frame < frames}
            people.append(Person(person.frames[:count], points, boxes, lights, person.looks, unsure))
    return Scene(people, [cut for cut in scene.cuts if cut < frames], frames)


def reference_key(person: Person, chosen: np.ndarray) -> str:
    """Names a person's reference frames: the frames, and the place of the face in the first of them."""
    numbers = [person.frames[i] for i in chosen] + person.boxes[chosen[0]].tolist()
    return "-".join(map(str, numbers))


def digest(path: str | os.PathLike) -> str:
    """A hash of a file's content."""
    with contextlib.closing(Path(path).open("rb")) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _person(arrays: dict[str, np.ndarray], number: int, total: int) -> Person:
    """A person of a file; ValueError where its arrays cannot be a person's."""
    frames, points, boxes, looks = (
        arrays[f"people.{number}.{name}"] for name in ("frames", "points", "boxes", "looks")
    )
    count = len(frames)
    lights = arrays.get(f"people.{number}.lights", np.full(count, np.nan, np.float32))  # absent in older files
    unsure = arrays.get(f"people.{number}.unsure", np.empty(0, np.int32))
    shapes = (points.shape, boxes.shape, looks.shape[1:])
    expected = ((count, len(TRACKED), 2), (count, 4), LOOK_SHAPE)
    if not count or shapes != expected or not len(looks) or lights.shape != (count,):
        raise ValueError(f"person {number} has arrays of shapes {frames.shape}, {shapes}")
    if not (np.diff(frames, prepend=-1) > 0).all() or frames[-1] >= total or not np.isfinite(points).all():
        raise ValueError(f"person {number} has impossible frames or points")
    return Person(frames.tolist(), list(points), list(boxes), lights.tolist(), looks, set(unsure.tolist()))


def _cover(arrays: dict[str, np.ndarray], number: int, person: Person) -> Cover:
    """What covers a person of a file; ValueError where its arrays cannot be."""
    names = ("frames", "shares", "strength", "bare", "covered", "masks", "places")
    frames, shares, strength, bare, covered, masks, places = (arrays[f"covers.{number}.{name}"] for name in names)
    of_all = {len(each) for each in (frames, shares, strength, bare)}
    of_covered = {len(each) for each in (covered, masks, places)}
    if len(of_all | {0}) != 2 or len(of_covered) != 1 or not np.isin(frames, person.frames).all():
        raise ValueError(f"person {number} has what covers others' frames")
    if len(covered) and (masks.shape[1:] != (PACKED,) or places.shape[1:] != (5,) or not np.isfinite(places).all()):
        raise ValueError(f"person {number} is covered by masks of shape {masks.shape}, {places.shape}")
    keys = covered.tolist()
    where = {key: Place(*sides) for key, sides in zip(keys, places.tolist(), strict=True)}
    return Cover(frames, shares, strength, bare, where, dict(zip(keys, masks, strict=True)))
