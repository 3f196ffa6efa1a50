"""Writes videos without loss: FFV1 in RGB, which `media.video.read_frames` reads back bit for bit."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from media.container import reason
from media.errors import InputError
from media.files import replacing
from media.timeline import FPS

SUFFIX = ".mkv"


def check_lossless(paths: Iterable[Path | None]) -> None:
    """InputError if one of `paths` (None: no file) does not end in .mkv."""
    for path in paths:
        if path is not None and path.suffix.lower() != SUFFIX:
            raise InputError(f"output {path} must end in {SUFFIX} to be written without loss; rename it")


@contextlib.contextmanager
def lossless_writer(
    path: str | os.PathLike, width: int, height: int, fps: int | Fraction = FPS
) -> Iterator["Lossless"]:
    """Open a silent .mkv file; it appears under its name only when the `with` block ends without an exception.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary, av.open(f"file:{temporary.absolute()}", "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(fps))
            stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
            yield Lossless(container, stream)
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be written ({reason(error)}); free some space") from error


class Lossless:
    """An open video of `lossless_writer`."""

    def __init__(self, container: av.container.OutputContainer, stream: av.video.stream.VideoStream):
        self._container, self._stream, self._frames = container, stream, 0

    def write(self, frame: np.ndarray) -> None:
        """Append `frame`, (height, width, 3) uint8 RGB."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format="bgr0")
        picture.pts, picture.time_base = self._frames, 1 / Fraction(self._stream.codec_context.framerate)
        self._frames += 1
        self._container.mux(self._stream.encode(picture))
