"""Plays the frames of a video for any length, in bounded memory: forward and back, in a loop, or held at its end."""

import contextlib
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import islice, repeat
from typing import overload

import numpy as np

from media.container import REMEDY
from media.errors import InputError
from media.video import VideoInfo, read_frames

MEMORY = 512 * 2**20  # most bytes of decoded frames to hold: 27 s of 512x512, 3.4 s of 1920x1080 at 25 frames a second


def check_start(info: VideoInfo, start: float) -> None:
    """InputError if the video ends before `start` seconds."""
    if start >= info.duration:
        raise InputError(f"--start {start:g}: video {info.path} is {info.duration:.2f} s long; give less")


@overload
def source_index(position: int, frames: int, when_short: str = "bounce") -> int: ...
@overload
def source_index(position: np.ndarray, frames: int, when_short: str = "bounce") -> np.ndarray: ...
def source_index(position: int | np.ndarray, frames: int, when_short: str = "bounce") -> int | np.ndarray:
    """Index of the frame shown at `position` when a video of `frames` frames goes on beyond its end.

    Args:
        when_short: "bounce" plays it forward, then back, and so on; it reverses at the end of the last frame, so the
            first and the last frame are shown twice in a row. "loop" plays it from its start again. "freeze" holds the
            last frame.
    """
    if when_short == "loop":
        return position % frames
    if when_short == "freeze":
        return np.minimum(position, frames - 1)
    phase = position % (2 * frames)
    return np.minimum(phase, 2 * frames - 1 - phase)


class Source:
    """A video read in two passes: `scan` once, then `play` for any length.

    A video whose frames fit in `memory` bytes is decoded once and held. Of a longer one, the first frames are held, and
    stretches played backward, one at a time, at most half of `memory` bytes each.

    Args:
        path: any file that `media.video.read_frames` reads.
        fps: frames per second of the timeline.
        memory: bytes.
        start: number of frames to skip at the video's beginning; indices count from the first one after these.
    """

    def __init__(self, path: str | os.PathLike, fps: int | Fraction, memory: int = MEMORY, start: int = 0):
        self.path, self.fps, self.memory, self.start = path, fps, memory, start
        self.frames = 0  # known after `scan`
        self.changes: set[str] = set()  # what reading changed in the pictures so far, as `VideoInfo.changes`
        self._frame_bytes = 0
        self._held: list[np.ndarray] = []  # the first frames

    def scan(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3) uint8 from the first on, `limit` at most, and count them."""
        self.frames, self._held, holding = 0, [], True
        for frame in islice(read_frames(self.path, self.fps, self.start, self.changes), limit):
            self.frames += 1
            self._frame_bytes = frame.nbytes
            if holding:
                self._held.append(frame)
                holding = self.frames * frame.nbytes <= self.memory
                if not holding:
                    kept = self.memory // 2 // frame.nbytes
                    del self._held[kept:]
            yield frame

    def skip_scan(self, frames: int, frame_bytes: int) -> None:
        """Take the number of frames, and the size of one, as known instead of scanning."""
        self.frames, self._frame_bytes, self._held = frames, frame_bytes, []

    def play(self, length: int, when_short: str = "bounce") -> Generator[tuple[int, np.ndarray], None, None]:
        """Yield `length` pairs (frame index, frame) of the scanned frames, in the order of `source_index`."""
        done = 0
        while done < length:
            last = None
            backward = when_short == "bounce" and (done // self.frames) % 2 == 1
            for last in self._backward() if backward else self._forward():
                yield last
                done += 1
                if done == length:
                    return
            if when_short == "freeze" and last is not None:
                yield from repeat(last, length - done)
                return

    def frame(self, index: int) -> np.ndarray:
        """The frame at `index`, which is below the number of scanned frames."""
        return next(self._span(index, index + 1))

    def _forward(self) -> Iterator[tuple[int, np.ndarray]]:
        return enumerate(self._span(0, self.frames))

    def _backward(self) -> Iterator[tuple[int, np.ndarray]]:
        stretch = max(1, self.memory // 2 // self._frame_bytes)
        stop = self.frames
        while stop > 0:
            start = max(0, stop - stretch)
            held = list(self._span(start, stop))
            while held:
                yield start + len(held) - 1, held.pop()
            stop = start

    def _span(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield exactly the frames from `start` to `stop`.

        A damaged file may end sooner when it is read from the middle or read again. Missing frames are then searched
        for from the first frame on; the last frame found replaces those still missing.
        """
        yield from self._held[start:stop]
        start = max(start, len(self._held))
        if start >= stop:
            return
        position, frame = start, self._held[-1] if self._held else None
        for frame in self._read(start, stop):
            yield frame
            position += 1
        if position < stop:
            for number, frame in enumerate(self._read(0, stop)):
                if number >= position:
                    yield frame
                    position += 1
        if frame is None:
            raise InputError(f"video {self.path} could be read once, but not again; {REMEDY}")
        yield from repeat(frame, stop - position)

    def _read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        with contextlib.suppress(InputError):
            yield from islice(read_frames(self.path, self.fps, self.start + start, self.changes), stop - start)
