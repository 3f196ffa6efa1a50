"""Small media files for the tests, of many kinds: pictures that show their number, and sound whose beats are known."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

SIDE = 64
CELL = SIDE // 4


def numbered(number: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A (height, width, 3) uint8 picture that shows `number` (0 to 65535) as 4 x 4 cells of dark and light grey."""
    bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.repeat((60 + 130 * bits[rows][:, columns])[..., None], 3, axis=2).astype(np.uint8)


def number_of(picture: np.ndarray) -> int:
    """The number that a picture shows."""
    height, width = picture.shape[:2]
    middle = picture[height // 8 :: height // 4, width // 8 :: width // 4][:4, :4].mean(axis=2)
    return int(((middle > 125).ravel() << np.arange(16)).sum())


def write_video(
    path: Path,
    codec: str = "libx264",
    pictures: Iterable[np.ndarray] | int = 20,
    rate: int | Fraction = 25,
    times: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    matrix: list[int] | None = None,
    beats: tuple[Fraction | int, Fraction | int] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Encode `pictures`, or that many numbered ones, at `times` in units of `time_base`; `beats` as in `beat_sound`."""
    pictures = [numbered(i) for i in range(pictures)] if isinstance(pictures, int) else list(pictures)
    time_base = time_base or 1 / Fraction(rate)
    times = range(len(pictures)) if times is None else times
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        video = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(video, VideoStream)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = time_base
        if rotation is not None:
            video.set_display_rotation(rotation)
        if matrix is not None:
            video.set_display_matrix(matrix)
        if beats is not None:
            audio = container.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000, layout="mono")
            start, duration = beats
            encode_sound(container, audio, beat_sound(48000, float(duration)), start)
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
    share_the_cores()
    return path


def share_the_cores() -> None:
    """Undo the real-time priority that SVT-AV1 gives the whole process where root encodes: others would starve."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def beat_sound(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """(channels, samples) float32: 50 ms of a 1 kHz tone at every full half second, and silence in between."""
    time = np.arange(int(rate * seconds)) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time) * (time % 0.5 < 0.05)).astype(np.float32)
    return np.tile(tone, (channels, 1))


def beat_times(sound: np.ndarray, rate: int = 16000) -> np.ndarray:
    """When the tones of (samples,) `sound` begin, in seconds."""
    loud = np.convolve(np.abs(sound), np.ones(rate // 500) / (rate // 500), "same") > 0.05
    starts = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    starts = np.concatenate([[0], starts]) if loud[0] else starts
    return starts[np.diff(starts, prepend=-rate) > rate // 4] / rate


def write_sound(
    path: Path,
    codec: str,
    rate: int,
    layout: str = "mono",
    seconds: float = 2.0,
    sound: np.ndarray | None = None,
    format: str | None = None,
) -> Path:
    """Encode `sound`, or `beat_sound`, in the sample format that the codec takes."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        channels = av.AudioLayout(layout).nb_channels
        encode_sound(container, stream, beat_sound(rate, seconds, channels) if sound is None else sound)
    return path


def encode_sound(container, stream, sound: np.ndarray, start: Fraction | int = 0) -> None:
    rate = stream.codec_context.sample_rate
    for first in range(0, sound.shape[1], 4096):
        packed = np.ascontiguousarray(sound[:, first : first + 4096].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "flt", stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate) + first, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_heic(path: Path, picture: np.ndarray, tile: int = 64, quarters: int = 0) -> Path:
    """Write (H, W, 3) `picture` as phones do: HEVC tiles of `tile` px, put together by a grid item and then turned.

    `quarters` counts the quarter turns, anticlockwise, by which the picture is displayed.
    """
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(picture, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), "edge")
    tiles = padded.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    coded = path.with_suffix(".tiles.mp4")
    write_video(coded, "libx265", list(tiles), options={"x265-params": "keyint=1:log-level=none:crf=4", "crf": "4"})
    with av.open(str(coded)) as container:
        stream = container.streams.video[0]
        setup, packets = stream.codec_context.extradata, [bytes(p) for p in container.demux(stream) if p.size]
    coded.unlink()
    assert setup is not None and len(packets) == len(tiles)
    items, grid = range(1, len(tiles) + 1), len(tiles) + 1

    def box(kind: bytes, *parts: bytes, full: int | None = None) -> bytes:
        body = (b"" if full is None else full.to_bytes(4, "big")) + b"".join(parts)
        return (8 + len(body)).to_bytes(4, "big") + kind + body

    def numbers(size: int, *values: int) -> bytes:
        return b"".join(value.to_bytes(size, "big") for value in values)

    def meta(data: int) -> bytes:  # `data`: the first tile's place in the file
        starts = data + np.cumsum([0, *map(len, packets)])
        infe = [box(b"infe", numbers(2, k, 0), b"hvc1\0", full=2 << 24) for k in items]
        infe.append(box(b"infe", numbers(2, grid, 0), b"grid\0", full=2 << 24))
        sizes = [box(b"ispe", numbers(4, tile, tile), full=0), box(b"ispe", numbers(4, width, height), full=0)]
        properties = [box(b"hvcC", setup), *sizes, box(b"irot", bytes([quarters]))]
        owned = [numbers(2, k) + bytes([2, 0x81, 2]) for k in items] + [numbers(2, grid) + bytes([2, 3, 0x84])]
        places = [numbers(2, k, 0, 0, 1) + numbers(4, int(starts[k - 1]), len(packets[k - 1])) for k in items]
        inside = bytes([0, 0, rows - 1, columns - 1]) + numbers(2, width, height)
        places.append(numbers(2, grid, 1, 0, 1) + numbers(4, 0, len(inside)))
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), full=0),
            box(b"pitm", numbers(2, grid), full=0),
            box(b"iinf", numbers(2, grid), *infe, full=0),
            box(b"iref", box(b"dimg", numbers(2, grid, len(tiles), *items)), full=0),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", numbers(4, grid), *owned, full=0)),
            box(b"iloc", bytes([0x44, 0]), numbers(2, grid), *places, full=1 << 24),
            box(b"idat", inside),
            full=0,
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *packets))
    return path
