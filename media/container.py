"""Opens media files with PyAV: picks the streams, finds time zero, reports what is wrong."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast, overload

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.errors import InputError
from media.files import existing_file

av.logging.set_level(None)  # FFmpeg's lines on stderr would bury the command's one-line error

# PyAV raises these for unreadable files; it turns some of FFmpeg's errors into built-in exceptions.
UNREADABLE = (av.error.FFmpegError, ValueError, LookupError, ArithmeticError, MemoryError, NotImplementedError)
REMEDY = "copy or download it again, or convert it to MP4 or WAV"

STILL_CODECS = {"mjpeg", "png", "bmp", "webp", "tiff"}

PRIMING = Fraction(1, 10)  # seconds

# Seconds. A pause in the timestamps above the first limit is accepted only within the file's declared length: one
# flipped bit would otherwise hold a frame for days. A pause above the second limit is never accepted: a file of a few
# kilobytes may declare any length, which would be filled with frames and silence.
LONGEST_PAUSE, LONGEST_DECLARED_PAUSE = 10, 3600


LARGEST_SIDE, LARGEST_AREA = 16384, 2**26  # px; H.264's largest side, and 200 MB a frame


@contextlib.contextmanager
def open_media(path: str | os.PathLike, what: str) -> Iterator[InputContainer]:
    """Open the file `path` for reading; `what` names it in messages.

    A playlist may refer to other files, but not to the network.

    Raises:
        InputError: The file does not exist, is not a media file, or is truncated.
    """
    path = existing_file(path, what)
    try:
        container = av.open(
            f"file:{path.absolute()}",  # with this prefix, a colon or a percent sign in the name is literal
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except UNREADABLE as error:
        raise InputError(f"{what} {path} cannot be read ({reason(error)}); {REMEDY}") from error
    with container:
        _refuse_truncated(container, path, what)
        yield container


def check_size(path: str | os.PathLike, width: int, height: int) -> None:
    """InputError if pictures of this size, in pixels, are too large."""
    if max(width, height) > LARGEST_SIDE or width * height > LARGEST_AREA:
        raise InputError(
            f"video {path} has pictures of {width}x{height}; scale it down to {LARGEST_SIDE} pixels a side and "
            f"{LARGEST_AREA // 2**20} megapixels at most"
        )


def reason(error: BaseException) -> str:
    """FFmpeg's error message, first line only."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0]


def description(container: InputContainer) -> str:
    """FFmpeg's description of an open file, of several lines: has what PyAV's attributes lack."""
    with _describing, av.logging.Capture(local=False):  # other threads' messages end here too
        av.logging.set_level(av.logging.INFO)
        try:
            return container.dumps_format()  # type: ignore[attr-defined]  # lacking in PyAV's stub
        finally:
            av.logging.set_level(None)


_describing = threading.Lock()  # the level of the log is the process's


def video_stream(container: InputContainer) -> VideoStream | None:
    """The default video stream, the first if there are several; the largest if none is marked as default; or None.

    Streams without a decoder and cover pictures do not count. A cover may also be a stream like any other: one of a
    single picture is taken only if all are such.
    """
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    streams = [s for s in streams if not _still(s)] or streams
    marked = next((s for s in streams if s.disposition & Disposition.default), None)
    return marked or max(streams, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


def audio_streams(container: InputContainer) -> list[AudioStream]:
    """The audio streams that have a decoder."""
    return [s for s in container.streams.audio if s.codec_context]


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The default audio stream that has a decoder, the first if none or several are marked; or None."""
    streams = audio_streams(container)
    return next((s for s in streams if s.disposition & Disposition.default), streams[0] if streams else None)


def time_zero(container: InputContainer) -> Fraction:
    """The file's start in seconds of its own clock: the start of its picture, or of sound that starts well before it.

    Frames and samples are both counted from here, so they stay in step whatever the first timestamps are. Sound that
    starts slightly before the picture is usually an encoder's priming; counting from it would shift every frame.
    """
    picture, sound = _start(video_stream(container)), _start(audio_stream(container))
    if picture is None or sound is None:
        return picture or sound or Fraction(0)
    return sound if sound < picture - PRIMING else picture


def declared_end(container: InputContainer, stream: VideoStream | AudioStream) -> Fraction | None:
    """The end of `stream` that the file declares, in seconds from `time_zero`; None if it declares none."""
    if stream.duration and stream.time_base:
        return (_start(stream) or Fraction(0)) - time_zero(container) + stream.duration * stream.time_base
    if container.duration:
        return Fraction(container.duration, av.time_base)
    return None


def believable(start: Fraction, previous_end: Fraction, declared: Fraction | None) -> bool:
    """Whether a frame of sound or picture can start at `start` seconds if the previous one ended at `previous_end`."""
    if start < previous_end:
        return previous_end - start < 1  # overlaps occur; a larger step back is a clock that restarts
    pause = start - previous_end
    if pause <= LONGEST_PAUSE:
        return True
    return declared is not None and start <= declared + 1 and pause <= LONGEST_DECLARED_PAUSE


@overload
def decoded(
    container: InputContainer, stream: VideoStream, times: deque[int | None] | None = None
) -> Iterator[av.VideoFrame]: ...
@overload
def decoded(
    container: InputContainer, stream: AudioStream, times: deque[int | None] | None = None
) -> Iterator[av.AudioFrame]: ...
def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, times: deque[int | None] | None = None
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Decode `stream` and skip damaged packets, as players do.

    Args:
        container: An open file.
        stream: One of its streams.
        times: Receives the decoding timestamp of every non-empty packet that is decoded.
    """
    packets, decode = container.demux(stream), _decoder(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.InvalidDataError, av.error.EOFError):
            packets = iter(())  # nothing further is readable: flush the decoder
            packet = av.Packet()
            packet.stream = stream
        if packet is None:
            return
        if times is not None and packet.size:
            times.append(packet.dts)
        try:
            frames = decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
        yield from frames


def _decoder(stream: VideoStream | AudioStream) -> Callable[[av.Packet], list]:
    """The stream's decoder; for VP8 and VP9 with transparency libvpx's, as FFmpeg's own ignore it."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return stream.decode
    decoder = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
    decoder.extradata = stream.codec_context.extradata

    def decode(packet: av.Packet) -> list:
        return decoder.decode(packet if packet.size else None)

    return decode


def _still(stream: VideoStream) -> bool:
    """Whether the stream is probably a single picture. Of a codec of pictures, AVI declares three, Matroska none."""
    return stream.frames == 1 or (stream.codec_context.name in STILL_CODECS and stream.frames < 5)


def _start(stream: VideoStream | AudioStream | None) -> Fraction | None:
    if stream is None or stream.start_time is None or not stream.time_base:
        return None
    return stream.start_time * stream.time_base


def _refuse_truncated(container: InputContainer, path: Path, what: str) -> None:
    """Refuse a file whose index lists data beyond its end: a truncated MP4 with its index in front still opens."""
    size = path.stat().st_size
    for stream in (*container.streams.video, *container.streams.audio):
        entries = stream.index_entries
        if len(entries) and entries[-1].pos + entries[-1].size > size:
            raise InputError(f"{what} {path} is cut short or damaged: it lists more data than it holds; {REMEDY}")
