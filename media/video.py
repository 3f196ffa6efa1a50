"""Reads video files as upright RGB frames on a constant-rate timeline; `VideoWriter` writes them."""

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.stream import VideoStream

from media.colour import UNSPECIFIED, Colour, ToRGB, output_colour
from media.container import (
    LONGEST_DECLARED_PAUSE,
    REMEDY,
    UNREADABLE,
    audio_stream,
    believable,
    check_size,
    declared_end,
    decoded,
    description,
    open_media,
    reason,
    time_zero,
    video_stream,
)
from media.errors import InputError
from media.fields import CONTEXT, DEINTERLACED, Timed, progressive
from media.files import existing_file
from media.pillow_pictures import pillow_format, pillow_frames
from media.timeline import FPS
from media.video_writer import VideoWriter, check_suffix

__all__ = ["Colour", "VideoInfo", "VideoWriter", "check_suffix", "probe", "read_frames", "watchable"]

INDEXED = {"mov", "mp4", "matroska", "webm"}  # formats in which seeking is reliable
SEEK_MARGIN = 5  # seconds; an index by decoding time may point past the frame displayed at that time
LONGEST_FRAME = 60  # seconds; the longest display time that a frame may have beyond the file's declared length
FOREIGN_SPACES = {14, 15}  # H.273 matrices of ICtCp and IPT, which swscale does not convert
# Dolby Vision whose pictures are in no other space: profiles 5, 10.0 and 20.0
DOLBY_VISION = re.compile(r"^ *DOVI configuration record: .*profile: (?:5|10|20),.*compatibility id: 0\b", re.MULTILINE)


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
        colour: The colour space of the frames that `read_frames` yields; pass it to a `VideoWriter` to keep it.
        changes: What `read_frames` changes in the pictures, a clause each; of the first frame.
    """

    path: Path
    width: int
    height: int
    duration: float
    frame_rate: Fraction
    pixel_aspect: Fraction
    has_sound: bool
    colour: Colour
    changes: tuple[str, ...] = ()


@dataclass
class _Track:
    """The pictures of an open file.

    `frames(wanted)` yields each, not deinterlaced, with its interval [start, end) in seconds from the file's start;
    starts never decrease. It may skip frames that end before the one displayed at `wanted` seconds and more than
    `CONTEXT` frames before that one. `end` is what the file declares.
    """

    rate: Fraction
    aspect: Fraction
    end: Fraction | None
    has_sound: bool
    frames: Callable[[Fraction], Iterator[Timed]]


def probe(path: str | os.PathLike) -> VideoInfo:
    """Describe the video `path`; decodes its first frame. InputError if it has none or cannot be read."""
    with _opened(path) as track:
        frame, start, end = next(track.frames(Fraction(0)))
        duration = track.end
        if duration is None:
            duration = _packets(path) * (end - start)  # raw streams and single images declare none
        changes = {DEINTERLACED} if frame.interlaced_frame else set()
        picture, colour = _Picture(frame, changes), output_colour(frame)
        picture.rgb(frame)
        return VideoInfo(
            path=Path(path),
            width=picture.height if picture.transpose else picture.width,
            height=picture.width if picture.transpose else picture.height,
            duration=float(max(duration, end)),
            frame_rate=track.rate,
            pixel_aspect=1 / track.aspect if picture.transpose else track.aspect,
            has_sound=track.has_sound,
            colour=colour,
            changes=tuple(sorted(changes)),
        )


def read_frames(
    path: str | os.PathLike, fps: int | Fraction | None = FPS, start: int = 0, changes: set[str] | None = None
) -> Iterator[np.ndarray]:
    """Read a video, an animation or a single image as a stream of frames at a constant rate.

    Frame i covers the interval [i/fps, (i+1)/fps). It is the frame that the source displays at the middle of the
    interval, by its timestamps, so a source of another or of a varying rate keeps its duration. Interlaced frames are
    deinterlaced; `media.colour.ToRGB` says what becomes of HDR and of transparency.

    Args:
        path: Any file that PyAV decodes, or a HEIC picture or an animated WebP.
        fps: Frames per second; None for the source's average rate if it is `watchable`, else 25.
        start: Index of the first frame to yield. Earlier frames are skipped by seeking where the file has an index,
            else by decoding; the frames are the same either way.
        changes: Receives a clause for each of these changes that a frame read so far had, as `VideoInfo.changes`.

    Yields:
        (H, W, 3) uint8 RGB, rotated upright as the metadata says; the caller may modify each array.

    Raises:
        InputError: The file cannot be read or has no frame.
    """
    picture = _first_picture(path, changes) if start else None  # all frames get its size
    with _opened(path) as track:
        step = 1 / Fraction(fps or watchable(track.rate))
        middle = (start + Fraction(1, 2)) * step
        shown: av.VideoFrame | None = None
        end = Fraction(0)
        for frame, begin, frame_end in progressive(track.frames(middle if start else Fraction(0)), changes):
            while picture is not None and shown is not None and middle < begin:
                yield picture.rgb(shown)
                middle += step
            picture = picture or _Picture(frame, changes)
            shown, end = frame, frame_end
        assert picture is not None and shown is not None  # `_timed` raises where there is no frame
        while middle < end or middle == step / 2:
            yield picture.rgb(shown)
            middle += step


def _first_picture(path: str | os.PathLike, changes: set[str] | None) -> "_Picture":
    with _opened(path) as track:
        return _Picture(next(track.frames(Fraction(0)))[0], changes)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Track]:
    whole = existing_file(path, "video")
    if (form := pillow_format(whole)) is not None:
        if form == "HEIF":
            with open_media(path, "video"):
                pass  # refuses a truncated file; pillow-heif makes grey tiles of it
        yield _pillow_track(whole, form)
        return
    with open_media(path, "video") as container:
        stream = _picture_track(container, path)
        about = description(container) if stream.codec_context.name in ("hevc", "av1", "libdav1d") else ""
        if DOLBY_VISION.search(about):
            raise InputError(f"video {path} is in the colours of Dolby Vision (profile 5); convert it to HDR10 or SDR")
        if len(container.streams.video) > 1 and "avif" in container.metadata.get("compatible_brands", ""):
            yield _pillow_track(whole, "AVIF")
            return
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        yield _Track(
            rate=_frame_rate(stream),
            aspect=Fraction(aspect or 1) or Fraction(1),
            end=declared_end(container, stream),
            has_sound=audio_stream(container) is not None,
            frames=lambda wanted: _timed(container, stream, path, wanted),
        )


def _pillow_track(path: Path, form: str) -> _Track:
    ends = [Fraction(1, FPS)] if form == "HEIF" else [end for _, _, end in pillow_frames(path, form)]
    return _Track(len(ends) / ends[-1], Fraction(1), ends[-1], False, lambda wanted: pillow_frames(path, form))


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
) -> Iterator[Timed]:
    """`_Track.frames` of a file that PyAV decodes."""
    rate = _frame_rate(stream)
    if rate * LONGEST_DECLARED_PAUSE < 1:
        raise InputError(f"video {path} claims to show {float(rate):.3g} frames a second; {REMEDY}")
    zero, declared = time_zero(container), declared_end(container, stream)
    # AVI stores no presentation times, and with B-frames FFmpeg's guesses are late or out of order. The decoder returns
    # frames in the order of presentation, so each takes the next packet time.
    times: deque[int | None] | None = deque() if container.format.name == "avi" else None
    start = end = shift = Fraction(0)
    found = False
    try:
        if wanted > 0 and INDEXED & set(container.format.name.split(",")):
            start = end = _seek(container, stream, zero, max(Fraction(0), wanted - CONTEXT / rate))
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
            longest = LONGEST_FRAME
            if declared is not None and start + length <= declared + 1:  # a still may be one frame of minutes
                longest = LONGEST_DECLARED_PAUSE
            end = start + (length if length <= longest else min(1 / rate, Fraction(LONGEST_FRAME)))
            if not found:
                _refuse_foreign(frame, path)
            found = True
            check_size(path, frame.width, frame.height)
            # The last frame of a variable-rate MP4 may carry a longer duration than the file declares for it.
            yield frame, start, declared if declared is not None and start < declared < end else end
    except UNREADABLE as error:
        raise InputError(f"video {path} cannot be decoded ({reason(error)}); {REMEDY}") from error
    if not found:
        raise InputError(f"video {path} has no frame that can be decoded; {REMEDY}")


def _refuse_foreign(frame: av.VideoFrame, path: str | os.PathLike) -> None:
    """Refuse colour spaces that FFmpeg does not convert: Dolby Vision's own, which is untagged, and ICtCp."""
    own = frame.color_trc == UNSPECIFIED and SideData.DOVI_RPU_BUFFER in (_side_data(frame) or {})
    if own or frame.colorspace in FOREIGN_SPACES:
        raise InputError(
            f"video {path} is in the colours of {'Dolby Vision (profile 5)' if own else 'ICtCp'}; "
            f"convert it to HDR10 or SDR"
        )


class _Picture:
    """Converts a video's frames to upright RGB arrays of the first frame's size."""

    def __init__(self, first: av.VideoFrame, changes: set[str] | None):
        self.width, self.height = first.width, first.height
        self.convert = ToRGB(first.width, first.height, changes)
        self._last: tuple[av.VideoFrame, np.ndarray] | None = None
        kinds = _side_data(first)
        if kinds is None:  # PyAV does not know every kind of side data that FFmpeg gives
            turns = round(first.rotation / 90) % 4
            a, b, c, d = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
        else:
            matrix = kinds.get(SideData.DISPLAYMATRIX)
            numbers = [1, 0, 0, 0, 1] if matrix is None else np.frombuffer(matrix, np.int32)[:5].tolist()
            a, b, _, c, d = numbers
        # The stored pixel (x, y) is displayed at (a x + c y, b x + d y), up to a translation.
        self.transpose = abs(b) + abs(c) > abs(a) + abs(d)
        self.flip_columns, self.flip_rows = (c < 0, b < 0) if self.transpose else (a < 0, d < 0)

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if self._last is not None and self._last[0] is frame:  # displayed for longer than one step
            return self._last[1].copy()
        image = self.convert(frame)
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        image = np.ascontiguousarray(image)
        self._last = frame, image
        return image.copy()


def _side_data(frame: av.VideoFrame) -> dict[SideData, memoryview] | None:
    """A frame's side data by kind; None if PyAV does not know one of the kinds."""
    try:
        held = cast(SideDataContainer, frame.side_data)  # PyAV's stub names the class of its items
        return {data.type: memoryview(data) for data in held}
    except ValueError:
        return None
