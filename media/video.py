"""Reads video files as upright RGB frames on a constant-rate timeline; `VideoWriter` writes them."""

import contextlib
import functools
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from media.container import (
    REMEDY,
    UNREADABLE,
    audio_stream,
    believable,
    declared_end,
    decoded,
    open_media,
    reason,
    time_zero,
    video_stream,
)
from media.errors import InputError
from media.timeline import FPS
from media.video_writer import BT601, Colour, VideoWriter, check_suffix

__all__ = ["Colour", "VideoInfo", "VideoWriter", "check_suffix", "probe", "read_frames", "watchable"]

RGB_SPACE = 0  # H.273 matrix of RGB images
# swscale's default lowers the brightness by one level; these flags do not.
EXACT = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
SWS_BT601 = 5  # swscale's name for the H.273 matrix 6
INDEXED = {"mov", "mp4", "matroska", "webm"}  # formats in which seeking is reliable
SEEK_MARGIN = 5  # seconds; an index by decoding time may point past the frame displayed at that time
LONGEST_FRAME = 60  # seconds; the longest display time that a frame may declare
LARGEST_SIDE, LARGEST_AREA = 16384, 2**26  # px; H.264's largest side, and 200 MB a frame


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, as displayed.

    Attributes:
        path: The file.
        width, height: Size in stored pixels, after the metadata's rotation.
        duration: Seconds from the file's start to the end of its last frame, as the file declares.
        frame_rate: The source's average number of frames per second.
        pixel_aspect: Width over height of a pixel, after the rotation.
        has_sound: Whether there is a sound track.
        colour: The source's colour space; pass it to a `VideoWriter` to keep it.
    """

    path: Path
    width: int
    height: int
    duration: float
    frame_rate: Fraction
    pixel_aspect: Fraction
    has_sound: bool
    colour: Colour


def probe(path: str | os.PathLike) -> VideoInfo:
    """Describe the video `path`; decodes its first frame. InputError if it has none or cannot be read."""
    with open_media(path, "video") as container:
        stream = _picture_track(container, path)
        frame, start, end = next(_timed(container, stream, path))
        duration = declared_end(container, stream)
        if duration is None:
            duration = _packets(path) * (end - start)  # raw streams and single images declare none
        picture = _Picture(frame)
        aspect = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or Fraction(1)
        matrix = BT601 if frame.colorspace == RGB_SPACE else int(frame.colorspace)
        return VideoInfo(
            path=Path(path),
            width=picture.height if picture.transpose else picture.width,
            height=picture.width if picture.transpose else picture.height,
            duration=float(max(duration, end)),
            frame_rate=_frame_rate(stream),
            pixel_aspect=1 / aspect if picture.transpose else aspect,
            has_sound=audio_stream(container) is not None,
            colour=Colour(matrix, int(frame.color_primaries), int(frame.color_trc)),
        )


def read_frames(path: str | os.PathLike, fps: int | Fraction | None = FPS, start: int = 0) -> Iterator[np.ndarray]:
    """Read a video, an animation or a single image as a stream of frames at a constant rate.

    Frame i covers the interval [i/fps, (i+1)/fps). It is the frame that the source displays at the middle of the
    interval, by its timestamps, so a source of another or of a varying rate keeps its duration.

    Args:
        path: Any file that PyAV decodes.
        fps: Frames per second; None for the source's average rate if it is `watchable`, else 25.
        start: Index of the first frame to yield. Earlier frames are skipped by seeking where the file has an index,
            else by decoding; the frames are the same either way.

    Yields:
        (H, W, 3) uint8 RGB, rotated upright as the metadata says; the caller may modify each array.

    Raises:
        InputError: The file cannot be read or has no frame.
    """
    picture = _first_picture(path) if start else None  # all frames get its size
    with open_media(path, "video") as container:
        stream = _picture_track(container, path)
        step = 1 / Fraction(fps or watchable(_frame_rate(stream)))
        middle = (start + Fraction(1, 2)) * step
        shown: av.VideoFrame | None = None
        end = Fraction(0)
        for frame, begin, frame_end in _timed(container, stream, path, middle if start else Fraction(0)):
            while picture is not None and shown is not None and middle < begin:
                yield picture.rgb(shown)
                middle += step
            picture = picture or _Picture(frame)
            shown, end = frame, frame_end
        assert picture is not None and shown is not None  # `_timed` raises where there is no frame
        while middle < end or middle == step / 2:
            yield picture.rgb(shown)
            middle += step


def _first_picture(path: str | os.PathLike) -> "_Picture":
    with open_media(path, "video") as container:
        frame, *_ = next(_timed(container, _picture_track(container, path), path))
        return _Picture(frame)


def watchable(rate: Fraction) -> Fraction:
    """`rate` if it is in [1, 240], else 25; the average of a varying rate may be anything."""
    return rate if 1 <= rate <= 240 else Fraction(FPS)


def _picture_track(container: InputContainer, path: str | os.PathLike) -> VideoStream:
    stream = video_stream(container)
    if stream is None:
        raise InputError(f"video {path} has no picture that can be decoded; give a video or an image")
    stream.thread_type = "AUTO"
    return stream


def _seek(container: InputContainer, stream: VideoStream, zero: Fraction, wanted: Fraction) -> Fraction:
    """Seek to a key frame that starts at or before `wanted` seconds, and return its start.

    If none is found, as in a damaged file, seeks to the first frame.
    """
    assert stream.time_base is not None  # FFmpeg sets it for every stream that it reads
    for earlier in (0, SEEK_MARGIN):
        place = int((zero + wanted - earlier) / stream.time_base)
        with contextlib.suppress(*UNREADABLE):
            container.seek(place, stream=stream)
            frame = next(decoded(container, stream), None)
            if frame is not None and frame.pts is not None and frame.pts * stream.time_base - zero <= wanted:
                container.seek(place, stream=stream)
                return frame.pts * stream.time_base - zero
    container.seek(0, backward=True)
    return Fraction(0)


def _packets(path: str | os.PathLike) -> int:
    """Number of video packets in a file, counted without decoding."""
    count = 0
    with open_media(path, "video") as container, contextlib.suppress(*UNREADABLE):
        for packet in container.demux(_picture_track(container, path)):
            count += packet.size > 0
    return count


def _frame_rate(stream: VideoStream) -> Fraction:
    return next((rate for rate in (stream.average_rate, stream.guessed_rate) if rate), Fraction(FPS))


def _timed(
    container: InputContainer, stream: VideoStream, path: str | os.PathLike, wanted: Fraction = Fraction(0)
) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction]]:
    """Yield each frame with its interval [start, end) in seconds from the file's start; starts never decrease.

    May skip frames that end before the frame displayed at `wanted` seconds.
    """
    rate = _frame_rate(stream)
    if rate < Fraction(1, 60):
        raise InputError(f"video {path} claims to show {float(rate):.3g} frames a second; {REMEDY}")
    zero, declared = time_zero(container), declared_end(container, stream)
    # AVI stores no presentation times, and with B-frames FFmpeg's guesses are late or out of order. The decoder returns
    # frames in the order of presentation, so each takes the next packet time.
    times: deque[int | None] | None = deque() if container.format.name == "avi" else None
    start = end = shift = Fraction(0)
    found = False
    try:
        if wanted > 0 and INDEXED & set(container.format.name.split(",")):
            start = end = _seek(container, stream, zero, wanted)
        for frame in decoded(container, stream, times):
            stamp, time_base = frame.pts, frame.time_base or stream.time_base
            if times is not None:
                stamp = times.popleft() if times else None
            at = end
            if stamp is not None and time_base:
                at = stamp * time_base - zero + shift
                if not believable(at, end, declared):
                    shift += end - at
                    at = end
            start = max(start, at)
            length = frame.duration * time_base if frame.duration and time_base else 1 / rate
            end = start + (length if length <= LONGEST_FRAME else 1 / rate)
            found = True
            if max(frame.width, frame.height) > LARGEST_SIDE or frame.width * frame.height > LARGEST_AREA:
                raise InputError(
                    f"video {path} has pictures of {frame.width}x{frame.height}; scale it down to "
                    f"{LARGEST_SIDE} pixels a side and {LARGEST_AREA // 2**20} megapixels at most"
                )
            # The last frame of a variable-rate MP4 may carry a longer duration than the file declares for it.
            yield frame, start, declared if declared is not None and start < declared < end else end
    except UNREADABLE as error:
        raise InputError(f"video {path} cannot be decoded ({reason(error)}); {REMEDY}") from error
    if not found:
        raise InputError(f"video {path} has no frame that can be decoded; {REMEDY}")


class _Picture:
    """Converts a video's frames to upright RGB arrays of the first frame's size."""

    def __init__(self, first: av.VideoFrame):
        self.width, self.height = first.width, first.height
        self.reformatter = VideoReformatter()
        try:
            held = cast(SideDataContainer, first.side_data)  # PyAV's stub names the class of its items
            matrix = next((data for data in held if data.type == SideData.DISPLAYMATRIX), None)
        except ValueError:  # PyAV does not know every kind of side data that FFmpeg gives
            turns = round(first.rotation / 90) % 4
            a, b, c, d = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
        else:
            numbers = [1, 0, 0, 0, 1] if matrix is None else np.frombuffer(memoryview(matrix), np.int32)[:5].tolist()
            a, b, _, c, d = numbers
        # The stored pixel (x, y) is displayed at (a x + c y, b x + d y), up to a translation.
        self.transpose = abs(b) + abs(c) > abs(a) + abs(d)
        self.flip_columns, self.flip_rows = (c < 0, b < 0) if self.transpose else (a < 0, d < 0)

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        convert = functools.partial(
            self.reformatter.reformat, frame, self.width, self.height, "rgb24", interpolation=EXACT
        )
        try:
            converted = convert()
        except (OSError, av.error.FFmpegError):  # swscale refuses rare and undefined matrices
            converted = convert(src_colorspace=SWS_BT601)
        image = converted.to_ndarray()
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)
