"""The clip file: one `.safetensors` per source video, with its faces, landmarks and sound."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from media.audio import SAMPLE_RATE, at_rows, window_rows
from media.crop import STSA, CropForm
from media.errors import InputError
from media.files import replacing, short_stem
from media.heatmap import ORDER

SUFFIX = ".safetensors"
JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip

_F, _ANY = "frames", None  # a dimension shared by a clip's tensors, and a free one
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
    """Contents of a clip file with F faces; see `Clip`.

    faces: JPEG bytes of each face, RGB, with `crop`'s height and width.
    landmarks: (131, 2) float32 of each face, in units of its box.
    boxes: (4,) int32 of each face, x1 y1 x2 y2 in the source frame.
    frames: index of each face on the 25 fps timeline, ascending.
    wav: (samples,) float32 in [-1, 1] at 16 kHz.
    audio: features by kind, (frames, channels) float32; always includes "mel".
    crop: the form of the faces.
    """

    faces: list[bytes]
    landmarks: list[np.ndarray]
    boxes: list[np.ndarray]
    frames: list[int]
    wav: np.ndarray
    audio: dict[str, np.ndarray]
    crop: CropForm = STSA


def encode_face(face: np.ndarray) -> bytes:
    """JPEG (quality 95, 4:4:4) of a (H, W, 3) uint8 RGB face."""
    return cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()


def write_clip(path: str | os.PathLike, data: ClipData) -> None:
    """Write a clip file, completely or not at all. InputError if it cannot be written."""
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
        temporary.write_bytes(save(tensors, {"crop": json.dumps(dataclasses.asdict(data.crop))}))


class Clip:
    """A clip file, read on demand; every tensor's name, type and shape is checked on opening.

    `crop` is the form of its faces, from the file's header. In a file without this header it is STSA's.

    Args:
        path: the file.
        id: its name in messages and manifests; by default the file's name.
        decoded: folder for a copy of the faces as raw pixels, written when the first face is read. A changed clip file
            gets a new copy next to the old one. The copy is some ten times as large and as fast as the JPEGs.

    Raises:
        InputError: the file is not a clip file: it is unreadable, a tensor is missing or of the wrong type or shape,
            offsets or frame numbers do not ascend, or its header describes no crop.
    """

    def __init__(self, path: str | os.PathLike, id: str | None = None, decoded: str | os.PathLike | None = None):
        self.path = Path(path)
        self.id = id if id is not None else self.path.name.removesuffix(SUFFIX)
        self._decoded = Path(decoded) if decoded else None
        with self._open() as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            self._sizes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
            self._check_layout()
            self.crop = self._read_crop(file.metadata() or {})
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

    def _read_crop(self, header: dict[str, str]) -> CropForm:
        if "crop" not in header:  # older files
            return STSA
        try:
            fields = json.loads(header["crop"])
        except (json.JSONDecodeError, RecursionError):
            fields = header["crop"]
        try:
            return CropForm.read(fields, f"clip file {self.path}")
        except InputError as error:
            raise InputError(f"{error}; preprocess the clip again") from error

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

    def _refuse(self, name: str, problem: str) -> NoReturn:
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
        return self._finite(self._read("landmarks"))

    def landmarks_at(self, positions: np.ndarray) -> np.ndarray:
        """`landmarks` of the faces at `positions` (n,), of which it reads these alone: (n, 131, 2) float32."""
        with self._open() as file:
            landmarks = file.get_slice("landmarks")
            return self._finite(np.stack([landmarks[int(i)] for i in positions]))

    def _finite(self, landmarks: np.ndarray) -> np.ndarray:
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
        """Length of the sound in samples at 16 kHz."""
        return self._sizes["pcm"][1][0]

    @property
    def seconds(self) -> float:
        """Length of the sound in seconds."""
        return self.samples / SAMPLE_RATE

    @property
    def kinds(self) -> list[str]:
        """Kinds of audio features in the file: "mel", possibly "wav2vec2"."""
        return [name.removeprefix("audio_") for name in self._sizes if name.startswith("audio_")]

    def audio(self, kind: str) -> np.ndarray:
        """Audio features (frames, channels) float32: "mel" at 80 Hz, "wav2vec2" at 50 Hz."""
        self.check_kind(kind)
        return self._read(f"audio_{kind}")

    def audio_windows(self, kind: str, numbers: np.ndarray) -> np.ndarray:
        """`media.audio.audio_windows` around the frames `numbers` (n,); reads the features between these alone."""
        self.check_kind(kind)
        rows = window_rows(kind, numbers)
        with self._open() as file:
            part = file.get_slice(f"audio_{kind}")
            length, channels = part.get_shape()
            first, end = (int(i) for i in np.clip([rows.min(), rows.max() + 1], 0, length))
            # safetensors refuses an empty slice at the end.
            features = part[first:end] if first < end else np.empty((0, channels), np.float32)
        return at_rows(features, kind, rows - first)

    def check_kind(self, kind: str) -> None:
        """InputError if the file has no audio features of `kind`."""
        if kind not in self.kinds:
            raise InputError(f"clip file {self.path} has no {kind} features; preprocess again with --audio {kind}")

    def face_bytes(self, positions: Sequence[int] | np.ndarray) -> list[bytes]:
        """JPEG bytes of the faces at `positions`."""
        with self._open() as file:
            faces = file.get_slice("faces")
            return [bytes(faces[int(self._offsets[i]) : int(self._offsets[i + 1])]) for i in positions]

    def faces(self, positions: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode faces: (H, W, 3) uint8 RGB for one position, (n, H, W, 3) for several; H and W are `crop`'s."""
        if isinstance(positions, int | np.integer):
            return self.faces([positions])[0]
        if self._decoded is None:
            return np.stack([self._decode(data) for data in self.face_bytes(positions)])
        pictures = np.memmap(self._decoded_copy, np.uint8, "r", shape=(len(self), *self.crop.shape, 3))
        return np.asarray(pictures[np.asarray(positions)])

    @cached_property
    def _decoded_copy(self) -> Path:
        """The file of all faces' pixels in order; written if it does not exist."""
        assert self._decoded is not None  # without that folder, `faces` decodes each time
        state = self.path.stat()
        place = self._decoded / f"{self.id}.rgb"
        copy = place.with_name(f"{short_stem(place)}.{state.st_size:x}-{state.st_mtime_ns:x}.rgb")
        if not copy.is_file() or copy.stat().st_size != len(self) * self.crop.height * self.crop.width * 3:
            with replacing(copy) as temporary, open(temporary, "wb") as file:
                for data in self.face_bytes(range(len(self))):
                    file.write(self._decode(data).tobytes())
        return copy

    def _decode(self, data: bytes) -> np.ndarray:
        size, width, height = jpeg_size(data), self.crop.width, self.crop.height
        if size is not None and size != (width, height):  # before decoding: a huge picture would fill the memory
            self._refuse("faces", f"holds a picture of {size[0]}x{size[1]}, not {width}x{height}")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if size else None
        if image is None:
            self._refuse("faces", "holds something that is not a JPEG picture")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a JPEG's header (ITU-T T.81, B.2.2), without decoding; None if they are not found."""
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
    """Name of the clip file `path` below `folder`, as in the folder's manifest."""
    return path.relative_to(folder).as_posix().removesuffix(SUFFIX)
