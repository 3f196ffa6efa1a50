"""Reads the part of a video that a `Source` is: its span of time, its window in the frame."""

import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from data_prep.layout import Cut, Source
from media.audio import SAMPLE_RATE
from media.errors import InputError
from media.place import resize
from media.sound import read_audio, read_sound, sound_format
from media.timeline import FPS
from media.video import VideoWriter, read_frames

_CRF = 4  # of a written part: invisible, and small next to the codec's loss in the download


def source_frames(source: Source) -> Iterator[np.ndarray]:
    """Yield the source's frames, (H, W, 3) uint8 RGB on the 25 fps timeline; frame 0 is the first of its part.

    Raises:
        InputError: the video cannot be read, ends before the part begins, or does not show its window.
    """
    cut = source.cut
    if cut is None:
        yield from read_frames(source.video, FPS)
        return
    first, last = _span(cut, FPS)
    found = False
    for frame in islice(read_frames(source.video, FPS, first), last - first):
        found = True
        yield _windowed(frame, cut, source.video)
    if not found:
        raise InputError(f"video {source.video} ends before {cut.start:g} s, where {source.id} begins")


def source_sound(source: Source) -> np.ndarray:
    """The source's sound, (samples,) float32 in [-1, 1] at 16 kHz mono; sample 0 is the start of frame 0.

    A sound that is too early begins with silence; the start of one that is too late is left out.
    """
    wav = read_audio(source.sound)
    shift = round(source.later * SAMPLE_RATE)
    wav = np.pad(wav, (shift, 0)) if shift > 0 else wav[-shift:]
    return wav if source.cut is None else wav[slice(*_span(source.cut, SAMPLE_RATE))]


def write_part(source: Source, path: str | os.PathLike) -> None:
    """Write the source's part with its sound to the video file `path`, completely or not at all."""
    frames = source_frames(source)
    first = next(frames)
    with tempfile.TemporaryDirectory() as folder:
        sound = source.sound if source.cut is None else _part_of_sound(source.sound, source.cut, Path(folder))
        with VideoWriter(path, first.shape[1], first.shape[0], FPS, sound, metadata={}, crf=_CRF) as video:
            video.write(first)
            for frame in frames:
                video.write(frame)


def _part_of_sound(path: Path, cut: Cut, folder: Path) -> Path:
    rate = sound_format(path)[0]
    samples = np.concatenate([block[0] for block in read_sound(path, rate, "mono")])[slice(*_span(cut, rate))]
    if not len(samples):
        raise InputError(f"sound {path} ends before {cut.start:g} s, where the part of it begins")
    wavfile.write(folder / "sound.wav", rate, samples)
    return folder / "sound.wav"


def _span(cut: Cut, rate: int) -> tuple[int, int]:
    """First and last-plus-one frame or sample; the sound's begins and ends where the frames do."""
    first = round(cut.start * FPS)
    last = max(first + 1, round(cut.end * FPS))
    return first * rate // FPS, last * rate // FPS


def _windowed(frame: np.ndarray, cut: Cut, video: Path) -> np.ndarray:
    if cut.window is None:
        return frame
    scale = frame.shape[0] / cut.height if cut.height else 1.0
    x, y, width, height = (round(scale * number) for number in cut.window)
    part = frame[max(0, y) : y + height, max(0, x) : x + width]
    if not part.size:
        raise InputError(f"video {video} has no pixel in the window x={x} y={y} {width}x{height}; download it again")
    return resize(part, cut.side, cut.side) if cut.side else np.ascontiguousarray(part)
