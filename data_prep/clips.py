"""The clip file: one `.safetensors` per source video, with its faces, landmarks and sound.

A face is stored once, wider than any crop and at the source's resolution. `Clip` cuts the crops of any `CropForm`.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from media.audio import FEATURES, SAMPLE_RATE, at_rows, window_rows
from media.crop import CROPS, PICTURE, STSA, CropForm
from media.errors import InputError
from media.files import replacing, short_stem
from media.landmarks import TRACKED, select131
from media.place import Place, crop_face
from media.timeline import FPS

SUFFIX = ".safetensors"
WIDER = 1.5  # a stored picture shows at least this many times the face's box
_LARGEST = 4096  # px, longest side of a picture that is decoded
_SECOND_FORM = {"form": "2"}  # in the header

_F, _ANY = "frames", None  # a dimension shared by a clip's tensors, and a free one
_LAYOUT: dict[str, tuple[str, tuple]] = {
    "frames": ("I32", (_F,)),
    "faces": ("U8", (_ANY,)),
    "face_offsets": ("I64", ("frames + 1",)),
    "points": ("F32", (_F, len(TRACKED), 2)),
    "boxes": ("I32", (_F, 4)),
    "pcm": ("I16", (_ANY,)),
    "audio_mel": ("F16", (_ANY, 80)),
}
_OPTIONAL: dict[str, tuple[str, tuple]] = {
    **{f"audio_{kind}": ("F16", (_ANY, size)) for kind, (size, _) in FEATURES.items() if kind != "mel"},
    "heard": ("F32", (1,)),
}


@dataclass
class ClipData:
    """Contents of a clip file with F faces; see `Clip`.

    faces: JPEG bytes of each face, RGB, of the part `boxes` of its source frame or of that part made smaller.
    points: (132, 2) float32 tracked points of each face, in pixels of the source frame.
    boxes: (4,) int32 of each face: x1 y1 x2 y2 of the stored part.
    frames: index of each face on the 25 fps timeline, ascending.
    wav: (samples,) float32 in [-1, 1] at 16 kHz.
    audio: features by kind, (frames, channels) float32; always includes "mel". They are stored in float16.
    heard: LUFS to which the sound was brought before they were computed; None for its own level.
    """

    faces: list[bytes]
    points: list[np.ndarray]
    boxes: list[np.ndarray]
    frames: list[int]
    wav: np.ndarray
    audio: dict[str, np.ndarray]
    heard: float | None = None


def stored_part(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of a frame that is stored of a face: (4,) int32 x1 y1 x2 y2, inside the frame.

    It shows `WIDER` times the face's box, and the crops of all named forms.

    Args:
        points: (132, 2) tracked points, in pixels of a frame of `width` by `height`.
    """
    box = CropForm(margin=(WIDER - 1) / 2).place(points)
    corners = np.concatenate([box.corners, *(form.place(points).corners for form in CROPS.values())])
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    sides = np.clip([*low, *high], 0, [width, height, width, height]).astype(np.int32)
    sides[:2] = np.minimum(sides[:2], [width - 1, height - 1])  # a face beyond the frame keeps one pixel
    sides[2:] = np.maximum(sides[2:], sides[:2] + 1)
    return sides


def encode_face(frame: np.ndarray, box: np.ndarray, quality: int, longest_side: int) -> bytes:
    """JPEG (4:2:0) of the part `box` of `frame` (H, W, 3) uint8 RGB, made smaller to at most `longest_side` px."""
    x1, y1, x2, y2 = (int(side) for side in box)
    scale = min(1.0, longest_side / max(x2 - x1, y2 - y1))
    wide, tall = (max(1, round(scale * side)) for side in (x2 - x1, y2 - y1))
    picture = crop_face(frame, Place(x1, y1, x2, y2), (tall, wide))
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded[1].tobytes()


def write_clip(path: str | os.PathLike, data: ClipData) -> None:
    """Write a clip file, completely or not at all. InputError if it cannot be written."""
    tensors = {
        "faces": np.frombuffer(b"".join(data.faces), np.uint8),
        "face_offsets": np.cumsum([0, *map(len, data.faces)], dtype=np.int64),
        "points": np.stack(data.points).astype(np.float32),
        "boxes": np.stack(data.boxes).astype(np.int32),
        "frames": np.asarray(data.frames, np.int32),
        "pcm": np.rint(np.clip(data.wav, -1, 1) * 32767).astype(np.int16),
    }
    for kind, features in data.audio.items():
        tensors[f"audio_{kind}"] = np.ascontiguousarray(features, np.float16)
    if data.heard is not None:  # no second entry of the header, whose entries have no fixed order
        tensors["heard"] = np.array([data.heard], np.float32)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, _SECOND_FORM))


@dataclass(frozen=True)
class Outline:
    """What a folder's index knows of a clip file, so that a dataset need not open it.

    runs: the stretches of consecutive frames that show a face: the first frame's index and the length of each.
    samples: length of the sound at 16 kHz.
    kinds: of audio features.
    face_width: median width of the 131 landmarks in pixels of the source frame.
    """

    runs: tuple[tuple[int, int], ...]
    samples: int
    kinds: tuple[str, ...]
    face_width: float


class _Header(NamedTuple):
    sizes: dict[str, tuple[str, tuple[int, ...]]]
    frames: np.ndarray
    offsets: np.ndarray


def _kinds(header: _Header) -> list[str]:
    return [name.removeprefix("audio_") for name in header.sizes if name.startswith("audio_")]


class Clip:
    """A clip file, read on demand, whose faces are cut as a `CropForm` says.

    Every tensor's name, type and shape is checked when the file is first opened.

    Args:
        path: the file.
        id: its name in messages and manifests; by default the file's name.
        decoded: folder for a copy of the crops as raw pixels, written when the first crop is read. A changed clip file
            or another form gets a new copy next to the old one.
        crop: the form of the crops.
        outline: known from the folder's index; None opens the file at once.

    Raises:
        InputError: the file is not a clip file: it is unreadable, a tensor is missing or of the wrong type or shape,
            offsets or frame numbers do not ascend, or it is a clip file of the first form. With `outline` the first
            reading raises this.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        id: str | None = None,
        decoded: str | os.PathLike | None = None,
        crop: CropForm = STSA,
        outline: Outline | None = None,
    ):
        self._place = path
        self.id = id if id is not None else self.path.name.removesuffix(SUFFIX)
        self.crop = crop
        self._decoded = Path(decoded) if decoded else None
        self._known = outline
        self._file: safe_open | None = None
        if outline is None:
            _ = self._header

    @cached_property
    def path(self) -> Path:
        """The file."""
        return Path(self._place)  # late: it would take most of the time to open an indexed folder

    @cached_property
    def _header(self) -> _Header:
        with self.reading() as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            sizes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
            self._check_form(sizes, file.metadata() or {})
            self._check_layout(sizes)
            header = _Header(sizes, file.get_tensor("frames"), file.get_tensor("face_offsets"))
        self._check_order(header)
        if self._known is not None and (self._known.runs, self._known.samples) != (
            runs_of(header.frames),
            header.sizes["pcm"][1][0],
        ):
            raise InputError(f"clip file {self.path} is not what its folder's index.jsonl says; delete that file")
        return header

    @cached_property
    def outline(self) -> Outline:
        """What the folder's index says of the file; read from the file where the index is not known."""
        if self._known is not None:
            return self._known
        header = self._header
        widths = np.ptp(select131(self._finite(self._read("points")))[..., 0], axis=1)
        samples, width = header.sizes["pcm"][1][0], round(float(np.median(widths)), 2)
        return Outline(runs_of(header.frames), samples, tuple(_kinds(header)), width)

    @contextlib.contextmanager
    def reading(self) -> Iterator[safe_open]:
        """Keep the file open: calls inside this context do not open it again."""
        if self._file is not None:
            yield self._file
            return
        try:
            with safe_open(self.path, framework="numpy") as file:
                self._file = file
                try:
                    yield file
                finally:
                    self._file = None
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"clip file {self.path} cannot be read ({reason}); preprocess it again") from error

    def _check_form(self, sizes: dict, header: dict[str, str]) -> None:
        if header != _SECOND_FORM and "faces" in sizes and "landmarks" in sizes:
            raise InputError(
                f"clip file {self.path} is of the first form, which held faces cut to one size; make it again from "
                f"its video with `python -m data_prep.preprocess`"
            )

    def _check_layout(self, sizes: dict) -> None:
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

    def _check_order(self, header: _Header) -> None:
        frames, offsets = header.frames, header.offsets
        if frames[0] < 0 or (np.diff(frames) <= 0).any():
            self._refuse("frames", "does not rise from 0 on")
        end = header.sizes["faces"][1][0]
        if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) <= 0).any():
            self._refuse("face_offsets", f"does not rise from 0 to the {end} bytes of faces")

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise InputError(f"clip file {self.path}: tensor {name} {problem}; preprocess the clip again")

    def _read(self, name: str) -> np.ndarray:
        with self.reading() as file:
            return file.get_tensor(name)

    def _rows(self, name: str, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of a tensor at `positions`, of which it reads these alone."""
        with self.reading() as file:
            part = file.get_slice(name)
            return np.stack([part[int(i)] for i in positions])

    def __len__(self) -> int:
        """Number of faces."""
        return sum(length for _, length in self.outline.runs) if self._known else len(self.frames)

    @property
    def frames(self) -> np.ndarray:
        """(F,) int32: index of each face on the 25 fps timeline, ascending."""
        return self._header.frames

    @cached_property
    def points(self) -> np.ndarray:
        """(F, 132, 2) float32 tracked points (`media.landmarks.TRACKED`), in pixels of the source frame."""
        return self._finite(self._read("points"))

    def points_at(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """`points` of the faces at `positions` (n,), of which it reads these alone: (n, 132, 2) float32."""
        return self._finite(self._rows("points", positions))

    def _finite(self, points: np.ndarray) -> np.ndarray:
        if not np.isfinite(points).all():
            self._refuse("points", "holds a number that is not finite")
        return points

    def forget(self) -> None:
        """Free the landmarks that were read."""
        self.__dict__.pop("points", None)
        self.__dict__.pop("landmarks", None)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(F, 4) int32, x1 y1 x2 y2 of the stored part in the source frame."""
        return self._with_area(self._read("boxes"))

    def _with_area(self, boxes: np.ndarray) -> np.ndarray:
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
        return self.outline.samples if self._known else self._header.sizes["pcm"][1][0]

    @property
    def seconds(self) -> float:
        """Length of the sound in seconds."""
        return self.samples / SAMPLE_RATE

    @property
    def kinds(self) -> list[str]:
        """Kinds of audio features in the file: "mel" and possibly others of `media.audio.FEATURES`."""
        return list(self._known.kinds) if self._known else _kinds(self._header)

    @property
    def heard(self) -> float | None:
        """LUFS of the sound that the features were computed from; None for the level of `pcm`, as in older files."""
        return float(self._read("heard")[0]) if "heard" in self._header.sizes else None

    def audio(self, kind: str) -> np.ndarray:
        """Audio features (frames, channels) float32: "mel" at 80 Hz, the others at 50 Hz."""
        self.check_kind(kind)
        return self._read(f"audio_{kind}").astype(np.float32)

    def audio_windows(self, kind: str, numbers: np.ndarray) -> np.ndarray:
        """`media.audio.audio_windows` around the frames `numbers` (n,); reads the features between these alone."""
        self.check_kind(kind)
        return self.audio_at(kind, window_rows(kind, numbers))

    def audio_at(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """`media.audio.at_rows` of the features, at rows (n, width); reads the features between these alone."""
        self.check_kind(kind)
        with self.reading() as file:
            part = file.get_slice(f"audio_{kind}")
            length, channels = part.get_shape()
            first, end = (int(i) for i in np.clip([rows.min(), rows.max() + 1], 0, length))
            # safetensors refuses an empty slice at the end.
            features = part[first:end] if first < end else np.empty((0, channels), np.float16)
        return at_rows(features.astype(np.float32), kind, rows - first)

    def check_kind(self, kind: str) -> None:
        """InputError if the file has no audio features of `kind`."""
        if kind not in self.kinds:
            raise InputError(f"clip file {self.path} has no {kind} features; preprocess again with --audio {kind}")

    def face_bytes(self, positions: Sequence[int] | np.ndarray) -> list[bytes]:
        """JPEG bytes of the stored pictures at `positions`."""
        with self.reading() as file:
            faces = file.get_slice("faces")
            return [bytes(faces[int(self._header.offsets[i]) : int(self._header.offsets[i + 1])]) for i in positions]

    def pictures(self, positions: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The stored pictures at `positions`, (h, w, 3) uint8 RGB each: what `boxes` frame, possibly made smaller."""
        boxes = self._with_area(self._rows("boxes", positions))
        return [self._decode(data, box) for data, box in zip(self.face_bytes(positions), boxes, strict=True)]

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(F, 131, 2) float32, in units of the crops, each frame framed alone."""
        return np.stack([self.crop.place(points).to_crop(select131(points)) for points in self.points])

    def faces(self, positions: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """The crops at `positions`, each frame framed alone: (n, H, W, 3) uint8 RGB, (H, W, 3) for one position."""
        if isinstance(positions, int | np.integer):
            return self.faces([positions])[0]
        with self.reading():
            return self.crops(positions, [self.crop.place(points) for points in self.points_at(positions)])

    def crops(self, positions: Sequence[int] | np.ndarray, places: Sequence[Place]) -> np.ndarray:
        """Cut crops at `positions`: (n, H, W, 3) uint8 RGB.

        Args:
            places: of each crop, from `crop`, in pixels of the source frame.

        Raises:
            InputError: a picture is damaged, or `decoded` is set and the places depend on a window.
        """
        if self._decoded is None:
            return self._cut(positions, places)
        if self.crop.framing == "dinet":
            raise InputError(
                f"data.decoded={self._decoded} cannot hold crops of framing dinet, whose scale depends on the window; "
                f"leave data.decoded out"
            )
        pictures = np.memmap(self._decoded_copy, np.uint8, "r", shape=(len(self), *self.crop.shape, 3))
        return np.asarray(pictures[np.asarray(positions)])

    def _cut(self, positions: Sequence[int] | np.ndarray, places: Sequence[Place]) -> np.ndarray:
        height, width = self.crop.shape
        with self.reading():
            boxes = self._with_area(self._rows("boxes", positions))
            pictures = self.face_bytes(positions)
        crops = np.empty((len(boxes), height, width, 3), np.uint8)
        for crop, data, box, place in zip(crops, pictures, boxes, places, strict=True):
            picture = self._decode(data, box, min(place.width / width, place.height / height))
            across, down = picture.shape[1] / (box[2] - box[0]), picture.shape[0] / (box[3] - box[1])
            crop[:] = crop_face(picture, place.within(box, (across, down)), (height, width))
        return crops

    @cached_property
    def _decoded_copy(self) -> Path:
        """The file of all crops' pixels in order; written if it does not exist."""
        assert self._decoded is not None  # without that folder, `crops` decodes each time
        state = self.path.stat()
        place = self._decoded / f"{self.id}.rgb"
        form = hashlib.sha256(repr([getattr(self.crop, name) for name in PICTURE]).encode()).hexdigest()[:8]
        copy = place.with_name(f"{short_stem(place)}.{state.st_size:x}-{state.st_mtime_ns:x}-{form}.rgb")
        if not copy.is_file() or copy.stat().st_size != len(self) * self.crop.height * self.crop.width * 3:
            with replacing(copy) as temporary, open(temporary, "wb") as file:
                for position, points in enumerate(self.points):
                    file.write(self._cut([position], [self.crop.place(points)]).tobytes())
        return copy

    def _decode(self, data: bytes, box: np.ndarray, reduce: float = 1.0) -> np.ndarray:
        """Decode a stored picture; at half, a quarter or an eighth of its size if it is larger by `reduce` or more."""
        size = jpeg_size(data)
        if size is not None:  # before decoding: a huge picture would fill the memory
            wide, tall = (int(side) for side in box[2:] - box[:2])
            scale = min(1.0, max(size) / max(wide, tall))
            other = any(abs(got - scale * side) > 1 for got, side in zip(size, (wide, tall), strict=True))
            if other or max(size) > _LARGEST:
                self._refuse("faces", f"holds a picture of {size[0]}x{size[1]} for a box of {wide}x{tall}")
            reduce *= scale
        factor = next((factor for factor in (8, 4, 2) if reduce >= factor), 1)
        flags = _REDUCED[factor]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if size else None
        if image is None:
            self._refuse("faces", "holds something that is not a JPEG picture")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


_REDUCED = {  # the decoder's own averaging: much faster than decoding a large picture whole
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def runs_of(frames: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The stretches of consecutive numbers in `frames` (F,), ascending: the first number and the length of each."""
    starts = np.flatnonzero(np.diff(frames, prepend=frames[0] - 2) != 1)
    lengths = np.diff(starts, append=len(frames))
    return tuple((int(frames[start]), int(length)) for start, length in zip(starts, lengths, strict=True))


def window_spans(clip: Clip, length: int, late: int = 0) -> list[tuple[int, int]]:
    """Stretches [low, high) of the positions of the faces that start `length` consecutive frames with sound.

    The sound is `late` frames late.
    """
    sounding = -(-clip.samples * FPS // SAMPLE_RATE)  # frames that begin before the sound ends
    spans, position = [], 0
    for first, count in clip.outline.runs:
        low = max(0, -(first + late))
        high = min(count - length + 1, sounding - (first + length - 1 + late))
        if low < high:
            spans.append((position + low, position + high))
        position += count
    return spans


def window_starts(clip: Clip, length: int, late: int = 0) -> np.ndarray:
    """The positions of `window_spans`: (n,) int64."""
    spans = window_spans(clip, length, late)
    return np.concatenate([np.arange(low, high) for low, high in spans] or [np.zeros(0, np.int64)])


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a JPEG's header (ITU-T T.81, B.2.2), without decoding; None if they are not found."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
