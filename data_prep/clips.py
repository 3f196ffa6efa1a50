"""The clip file, one `.safetensors` a source video, and the training windows read from a folder of them."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch.utils.data import Dataset

from data_prep.manifest import Manifest
from media.audio import SAMPLE_RATE, audio_windows
from media.errors import InputError
from media.face import CROP_SIZE
from media.files import replacing, short_stem
from media.heatmap import FULL_FACE, KEYPOINTS, MIRROR, ORDER, POSE, draw_heatmaps
from media.timeline import FPS

SUFFIX = ".safetensors"
JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip

_F, _ANY = "frames", None  # dimensions that a clip's tensors share, or that are free
_LAYOUT: dict[str, tuple[str, tuple]] = {
    "frames": ("I32", (_F,)),
    "faces": ("U8", (_ANY,)),
    "face_offsets": ("I64", ("frames + 1",)),
    "landmarks": ("F32", (_F, len(ORDER), 2)),
    "boxes": ("I32", (_F, 4)),
    "pcm": ("I16", (_ANY,)),
    "audio_mel": ("F32", (_ANY, 80)),
}
_OPTIONAL = {"audio_wav2vec2": ("F32", (_ANY, 768))}


@dataclass
class ClipData:
    """What goes into a clip file. F faces; see `Clip`.

    faces: JPEG bytes of each face, RGB 128 x 128.
    landmarks: (131, 2) float32 of each face, in units of its box.
    boxes: (4,) int32 of each face, x1 y1 x2 y2 in the source frame.
    frames: index of each face on the 25 fps timeline, rising.
    wav: (samples,) float32 in [-1, 1] at 16 kHz.
    audio: features by kind, (frames, channels) float32; "mel" always.
    """

    faces: list[bytes]
    landmarks: list[np.ndarray]
    boxes: list[np.ndarray]
    frames: list[int]
    wav: np.ndarray
    audio: dict[str, np.ndarray]


def encode_face(face: np.ndarray) -> bytes:
    """JPEG (quality 95, 4:4:4) of a (H, W, 3) uint8 RGB face."""
    return cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()


def write_clip(path: str | os.PathLike, data: ClipData) -> None:
    """Write a clip file: complete, or not there. InputError if it cannot be written."""
    tensors = {
        "faces": np.frombuffer(b"".join(data.faces), np.uint8),
        "face_offsets": np.cumsum([0, *map(len, data.faces)], dtype=np.int64),
        "landmarks": np.stack(data.landmarks).astype(np.float32),
        "boxes": np.stack(data.boxes).astype(np.int32),
        "frames": np.asarray(data.frames, np.int32),
        "pcm": np.rint(np.clip(data.wav, -1, 1) * 32767).astype(np.int16),
    }
    for kind, features in data.audio.items():
        tensors[f"audio_{kind}"] = np.ascontiguousarray(features, np.float32)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))


class Clip:
    """A clip file, read on demand; every tensor's name, type and shape is checked on opening.

    Args:
        path: the file.
        id: its name in messages and manifests; by default the file's name.
        decoded: folder for a copy of the faces as plain pixels, made when the first face is asked for; a changed clip
            file gets a new copy, beside the old one. Some ten times the space of the JPEGs, and as many times as fast.

    Raises:
        InputError: the file is no clip file: unreadable, a tensor missing or of the wrong type or shape, offsets or
            frame numbers that do not rise.
    """

    def __init__(self, path: str | os.PathLike, id: str | None = None, decoded: str | os.PathLike | None = None):
        self.path = Path(path)
        self.id = id if id is not None else self.path.name.removesuffix(SUFFIX)
        self._decoded = Path(decoded) if decoded else None
        with self._open() as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            self._sizes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
            self._check_layout()
            self.frames, self._offsets = file.get_tensor("frames"), file.get_tensor("face_offsets")
        self._check_order()

    @contextlib.contextmanager
    def _open(self) -> Iterator[safe_open]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                yield file
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"clip file {self.path} cannot be read ({reason}); preprocess it again") from error

    def _check_layout(self) -> None:
        sizes = self._sizes
        known = {"frames": sizes["frames"][1][0] if sizes.get("frames", ("", ()))[1] else 0}
        known["frames + 1"] = known["frames"] + 1
        for name, (dtype, shape) in {**_LAYOUT, **{k: v for k, v in _OPTIONAL.items() if k in sizes}}.items():
            if name not in sizes:
                self._refuse(name, "is missing")
            expected = tuple(known.get(size, size) for size in shape)
            got_dtype, got = sizes[name]
            fits = len(got) == len(expected) and all(
                want is _ANY or size == want for size, want in zip(got, expected, strict=True)
            )
            if got_dtype != dtype or not fits:
                written = ", ".join("any" if size is _ANY else str(size) for size in expected)
                self._refuse(name, f"is {got_dtype} {got}, not {dtype} ({written})")
        if known["frames"] == 0:
            self._refuse("frames", "is empty")

    def _check_order(self) -> None:
        if self.frames[0] < 0 or (np.diff(self.frames) <= 0).any():
            self._refuse("frames", "does not rise from 0 on")
        end = self._sizes["faces"][1][0]
        if self._offsets[0] != 0 or self._offsets[-1] != end or (np.diff(self._offsets) <= 0).any():
            self._refuse("face_offsets", f"does not rise from 0 to the {end} bytes of faces")

    def _refuse(self, name: str, problem: str) -> None:
        raise InputError(f"clip file {self.path}: tensor {name} {problem}; preprocess the clip again")

    def _read(self, name: str) -> np.ndarray:
        with self._open() as file:
            return file.get_tensor(name)

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.frames)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(F, 131, 2) float32, in units of the box."""
        landmarks = self._read("landmarks")
        if not np.isfinite(landmarks).all():
            self._refuse("landmarks", "holds a number that is not finite")
        return landmarks

    @cached_property
    def boxes(self) -> np.ndarray:
        """(F, 4) int32, x1 y1 x2 y2 in the source frame."""
        boxes = self._read("boxes")
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            self._refuse("boxes", "holds a box without an area")
        return boxes

    @property
    def pcm(self) -> np.ndarray:
        """(samples,) int16 at 16 kHz."""
        return self._read("pcm")

    @property
    def wav(self) -> np.ndarray:
        """(samples,) float32 in [-1, 1] at 16 kHz."""
        return self.pcm.astype(np.float32) / 32767

    @property
    def samples(self) -> int:
        """Length of the sound, at 16 kHz."""
        return self._sizes["pcm"][1][0]

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return self.samples / SAMPLE_RATE

    @property
    def kinds(self) -> list[str]:
        """Kinds of audio features that the file holds: "mel", perhaps "wav2vec2"."""
        return [name.removeprefix("audio_") for name in self._sizes if name.startswith("audio_")]

    def audio(self, kind: str) -> np.ndarray:
        """Audio features (frames, channels) float32: "mel" at 80 Hz, "wav2vec2" at 50 Hz."""
        if kind not in self.kinds:
            raise InputError(f"clip file {self.path} has no {kind} features; preprocess again with --audio {kind}")
        return self._read(f"audio_{kind}")

    def face_bytes(self, positions: Sequence[int]) -> list[bytes]:
        """The JPEG files of some faces."""
        with self._open() as file:
            faces = file.get_slice("faces")
            return [bytes(faces[int(self._offsets[i]) : int(self._offsets[i + 1])]) for i in positions]

    def faces(self, positions: int | Sequence[int]) -> np.ndarray:
        """Decode faces: (128, 128, 3) uint8 RGB for one position, (n, 128, 128, 3) for several."""
        if isinstance(positions, int | np.integer):
            return self.faces([positions])[0]
        if self._decoded is None:
            return np.stack([self._decode(data) for data in self.face_bytes(positions)])
        pictures = np.memmap(self._decoded_copy, np.uint8, "r", shape=(len(self), CROP_SIZE, CROP_SIZE, 3))
        return np.asarray(pictures[np.asarray(positions)])

    @cached_property
    def _decoded_copy(self) -> Path:
        """The file of all faces' pixels, one after the other; made if it is not there."""
        state = self.path.stat()
        place = self._decoded / f"{self.id}.rgb"
        copy = place.with_name(f"{short_stem(place)}.{state.st_size:x}-{state.st_mtime_ns:x}.rgb")
        if not copy.is_file() or copy.stat().st_size != len(self) * CROP_SIZE * CROP_SIZE * 3:
            with replacing(copy) as temporary, open(temporary, "wb") as file:
                for data in self.face_bytes(range(len(self))):
                    file.write(self._decode(data).tobytes())
        return copy

    def _decode(self, data: bytes) -> np.ndarray:
        size = jpeg_size(data)
        if size not in (None, (CROP_SIZE, CROP_SIZE)):  # before it is decoded: it may be of any size
            self._refuse("faces", f"holds a picture of {size[0]}x{size[1]}, not {CROP_SIZE}x{CROP_SIZE}")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if size else None
        if image is None:
            self._refuse("faces", "holds something that is not a JPEG picture")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by a JPEG's header (ITU-T T.81, B.2.2), before it is decoded; None where there is none."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def clip_paths(folder: str | os.PathLike) -> list[Path]:
    """The clip files below `folder`, sorted; InputError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"data folder {folder} does not exist; make it with `python -m data_prep.preprocess`")
    paths = sorted(path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"data folder {folder} holds no clip file; make some with `python -m data_prep.preprocess`")
    return paths


def clip_id(path: Path, folder: str | os.PathLike) -> str:
    """What the clip file `path` below `folder` is called, as in the folder's manifest."""
    return path.relative_to(folder).as_posix().removesuffix(SUFFIX)


def window_starts(clip: Clip, length: int, late: int = 0) -> np.ndarray:
    """Positions of the faces from which `length` follow each other without a gap, with sound, so many frames late."""
    last = np.arange(length - 1, len(clip))
    first = last - (length - 1)
    in_a_row = clip.frames[last] - clip.frames[first] == length - 1
    with_sound = (clip.frames[last].astype(np.int64) + late) * SAMPLE_RATE < clip.samples * FPS
    with_sound &= clip.frames[first] + late >= 0
    return first[in_a_row & with_sound].astype(np.int32)


class ClipDataset(Dataset):
    """Windows of consecutive frames with their sound, and reference frames of the same clip.

    Item (index, seed): window `index` of all the folder's windows; everything random about it (the reference frames,
    the augmentation) comes from `seed`, so an item is the same whichever worker makes it. A dict of

        audio (T, C, W), frames (T, 3, H, W) RGB in [0, 1], heatmaps and pose_heatmaps (T, 1, H, W),
        landmarks (T, 57, 2), mel (1, 80, 16) the sync expert's five frames of sound from frame `mel_from` on,
        reference_images (N, 3, H, W), reference_heatmaps (N, 1, H, W),
        points (T, 131, 2) and reference_points (N, 131, 2), through which the heatmaps are drawn, all float32;
        clip, the clip's id, and start, the first frame's index on the 25 fps timeline.

    References are N different frames outside the window (repeated where the clip has fewer), in the order of time.

    Args:
        folder: clip files, in subfolders too.
        audio: "mel" or "wav2vec2", the kind of the windows in `audio`.
        window: T, frames in a row, without a gap in `frames` and with sound.
        references: N.
        size: H and W; 128 is what the files hold.
        augment: mirror half of the items, and vary brightness, contrast and colour, and of log-mel the loudness and
            the tilt, all frames of an item alike.
        warp: turn, stretch and shift the points, and with them the heatmaps but not the pictures, by up to this share
            of the crop, the frames of a window alike and each reference by itself; for networks that see no picture.
        max_offset: leave out clips whose sound the manifest says to be off by more frames; None keeps all.
        correct_offsets: move each clip's sound by the offset in the manifest.
        mel_from: the frame of the window with which `mel` begins.
        decoded: folder for decoded copies of the faces (see `Clip`); None decodes them each time.
        holdout: share at each clip's end that is kept apart: no window lies in it, nor in the second before it, and no
            reference.
        held_out: windows of what is kept apart instead, with references from what is not.

    Raises:
        InputError: a clip file cannot be used, lacks the audio, has no offset where one is needed, or no clip
            has a window.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        audio: str = "mel",
        window: int = 5,
        references: int = 5,
        size: int = CROP_SIZE,
        augment: bool = False,
        max_offset: int | None = None,
        mel_from: int = 0,
        warp: float = 0.0,
        decoded: str | os.PathLike | None = None,
        holdout: float = 0.0,
        held_out: bool = False,
        correct_offsets: bool = False,
    ):
        if not 0 <= holdout < 1:
            raise InputError(f"holdout={holdout} is a share of each clip; use 0 or more and less than 1")
        self.mel_from, self.holdout, self.held_out = mel_from, holdout, held_out
        self.kind, self.window, self.references, self.size, self.augment = audio, window, references, size, augment
        self.warp = warp
        self.clips: list[Clip] = []
        starts: list[np.ndarray] = []
        self._late: list[int] = []
        manifest = Manifest(Path(folder))
        for path in clip_paths(folder):
            clip = Clip(path, clip_id(path, folder), decoded)
            if audio not in clip.kinds:
                raise InputError(f"clip file {path} has no {audio} features; preprocess again with --audio {audio}")
            if len(clip) <= window or not len(self._windows(clip, 0)):
                continue
            late = manifest.lateness(clip.id, max_offset, correct_offsets)
            first = self._windows(clip, late or 0)
            if late is not None and len(first):
                self.clips.append(clip)
                starts.append(first)
                self._late.append(late)
        if not self.clips:
            raise InputError(
                f"data folder {folder}: no clip has {window} frames in a row and one more"
                f"{' beside what holdout keeps apart' if holdout else ''}; add longer clips"
            )
        self._starts = starts
        self._ends = np.cumsum([len(first) for first in starts])
        self._features: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def _windows(self, clip: Clip, late: int) -> np.ndarray:
        """Positions of the faces with which a window can start whose sound, so many frames late, is in the clip."""
        first = window_starts(clip, self.window, late)
        apart = self._apart(clip)
        if self.held_out:
            return first[first >= (apart or len(clip))]  # without anything before it there are no references
        return first[first + self.window <= (apart - FPS if self.holdout else apart)]

    def _apart(self, clip: Clip) -> int:
        """Position of the first face of what is kept apart."""
        return round(len(clip) * (1 - self.holdout))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: tuple[int, int] | int) -> dict:
        index, seed = item if isinstance(item, tuple | list) else (item, item)
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        cv2.setNumThreads(0)  # on pictures this small OpenCV's threads only wait for each other
        which = int(np.searchsorted(self._ends, index, side="right"))
        clip = self.clips[which]
        first = int(self._starts[which][index - (self._ends[which - 1] if which else 0)])
        random = np.random.default_rng([seed % 2**63, index])

        targets = np.arange(first, first + self.window)
        others = np.setdiff1d(np.arange(self._apart(clip)), targets)
        chosen = np.sort(random.choice(others, self.references, replace=len(others) < self.references))
        positions = np.concatenate([targets, chosen])
        images, landmarks = clip.faces(positions), clip.landmarks[positions]
        if self.augment:
            images, landmarks = _augmented(images, landmarks, random)
        if self.warp > 0:
            landmarks = warped(landmarks, self.window, self.warp, random)
        if self.size != CROP_SIZE:
            images = np.stack(
                [cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA) for image in images]
            )

        numbers = clip.frames[targets]
        sounding = numbers + self._late[which]
        features, mel = self._sound(which)
        windows = audio_windows(features, self.kind, sounding)
        if self.augment and self.kind == "mel":
            windows = _varied_mel(windows, random)
        pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(255)
        full = torch.from_numpy(draw_heatmaps(landmarks, FULL_FACE, self.size))
        pose = torch.from_numpy(draw_heatmaps(landmarks[: self.window], POSE, self.size))
        return {
            "audio": torch.from_numpy(windows),
            "frames": pictures[: self.window],
            "heatmaps": full[: self.window],
            "pose_heatmaps": pose,
            "landmarks": torch.from_numpy(np.ascontiguousarray(landmarks[: self.window, KEYPOINTS])),
            # Frame i's window starts two frames early, so frame 2's covers the window's own sound.
            "mel": torch.from_numpy(audio_windows(mel, "mel", sounding[:1] + self.mel_from + 2)),
            "reference_images": pictures[self.window :],
            "reference_heatmaps": full[self.window :],
            "points": torch.from_numpy(landmarks[: self.window]),
            "reference_points": torch.from_numpy(landmarks[self.window :]),
            "clip": clip.id,
            "start": int(numbers[0]),
        }

    def points(self) -> Iterator[np.ndarray]:
        """Yield each clip's points (F, 131, 2), less what `holdout` keeps apart."""
        for clip in self.clips:
            yield clip.landmarks[: self._apart(clip)]
            clip.__dict__.pop("landmarks", None)  # of thousands of clips they would fill the memory

    def sounds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each clip's windows of sound (F, C, W) and `points` (F, 131, 2), without its pictures."""
        for which, points in enumerate(self.points()):
            numbers = self.clips[which].frames[: len(points)] + self._late[which]
            yield audio_windows(self._sound(which)[0], self.kind, numbers), points

    def _sound(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of the clip's sound, of `kind` and log-mel, from a cache of at most 256 MB a process."""
        if which not in self._features:
            mel = self.clips[which].audio("mel")
            self._features[which] = (mel if self.kind == "mel" else self.clips[which].audio(self.kind)), mel
            while sum(map(_size, self._features.values())) > _CACHE and len(self._features) > 1:
                self._forget(next(iter(self._features)))
        self._features.move_to_end(which)
        return self._features[which]

    def _forget(self, which: int) -> None:
        """Drop what a clip keeps in memory."""
        del self._features[which]
        self.clips[which].__dict__.pop("landmarks", None)


def warped(points: np.ndarray, window: int, most: float, random: np.random.Generator) -> np.ndarray:
    """Points (M, 131, 2) under random affine maps near the identity: one for the first `window`, then one for each."""
    count = 1 + len(points) - window
    linear = np.eye(2) + random.uniform(-most, most, (count, 2, 2))
    linear[:, 0, 1] = random.uniform(-most, most, count) - linear[:, 1, 0]  # more turned than sheared
    shift = random.uniform(-most, most, (count, 1, 2)) / 2
    which = np.maximum(np.arange(len(points)) - window + 1, 0)
    return ((points - 0.5) @ linear[which] + 0.5 + shift[which]).astype(np.float32)


def _varied_mel(windows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Log-mel windows (T, 80, W) louder or softer by up to 10 dB, and tilted towards low or high voices, all alike."""
    loudness, tilt = random.uniform(-0.8, 0.8), random.uniform(-0.6, 0.6)
    change = loudness + tilt * np.linspace(-1, 1, windows.shape[1])[:, None]
    return np.clip(windows + change, -4, 4).astype(np.float32)


_CACHE = 256 * 2**20


def _size(features: tuple[np.ndarray, np.ndarray]) -> int:
    return sum(each.nbytes for each in features)


def mirrored(images: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, H, W, 3) and landmarks (m, 131, 2), in units of the crop, of faces seen in a mirror."""
    return images[:, :, ::-1], mirrored_points(landmarks)


def mirrored_points(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (m, 131, 2), in units of the crop, of faces seen in a mirror."""
    return landmarks[:, MIRROR] * np.float32([-1, 1]) + np.float32([1, 0])


def _augmented(images: np.ndarray, landmarks: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mirror (half of the time) and vary the light and colour of (n, H, W, 3) uint8 images, all alike."""
    if random.random() < 0.5:
        images, landmarks = mirrored(images, landmarks)
    # A gain a channel (brightness and white balance) and a contrast about the middle grey, as one lookup a channel.
    gain = random.uniform(0.85, 1.15) * random.uniform(0.95, 1.05, 3)
    contrast = random.uniform(0.85, 1.15)
    levels = np.arange(256)[:, None]
    table = np.clip(np.rint((levels * gain - 128) * contrast + 128), 0, 255).astype(np.uint8)
    return np.stack([table[images[..., channel], channel] for channel in range(3)], axis=-1), landmarks
