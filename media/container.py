"""Opening a media file with PyAV: one place that picks its streams, finds its time zero and says what is wrong."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.errors import InputError
from media.files import existing_file

av.logging.set_level(None)  # FFmpeg's own lines on stderr would bury the one line that says what to do

# What PyAV raises for a file that it cannot make sense of; some of FFmpeg's findings come as Python's own exceptions.
UNREADABLE = (av.error.FFmpegError, ValueError, LookupError, ArithmeticError, MemoryError, NotImplementedError)
REMEDY = "copy or download it again, or convert it to MP4 or WAV"

PRIMING = Fraction(1, 10)  # seconds

# Seconds. A pause in the timestamps longer than the first is believed only within the length that the file declares:
# one flipped bit would otherwise hold a frame for days. One longer than the second is not: a file of a few kilobytes
# may declare any length, which would be filled with frames and silence.
LONGEST_PAUSE, LONGEST_DECLARED_PAUSE = 10, 3600


@contextlib.contextmanager
def open_media(path: str | os.PathLike, what: str) -> Iterator[InputContainer]:
    """Open the file `path` for reading; `what` names it in messages.

    Playlists and the like may refer to other files, but to nothing on the network.

    Raises:
        InputError: There is no such file, it is no media file, or its end is missing.
    """
    path = existing_file(path, what)
    try:
        container = av.open(
            f"file:{path.absolute()}",  # a prefix, so that a colon or a percent sign in the name means nothing
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except UNREADABLE as error:
        raise InputError(f"{what} {path} cannot be read ({reason(error)}); {REMEDY}") from error
    with container:
        _refuse_truncated(container, path, what)
        yield container


def reason(error: BaseException) -> str:
    """FFmpeg's few words on what went wrong, on one line."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0]


def video_stream(container: InputContainer) -> VideoStream | None:
    """The largest picture track that there is a decoder for; the cover of a sound file is none."""
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The first sound track that there is a decoder for, which is the one that players start with."""
    return next((s for s in container.streams.audio if s.codec_context), None)


def time_zero(container: InputContainer) -> Fraction:
    """When the file begins, in seconds of its own clock: with its picture, or with sound that starts well before it.

    Frames and samples are both counted from here, which keeps them in step whatever the first timestamps are. Sound
    that starts a little earlier than the picture is mostly an encoder's priming, which would move every frame.
    """
    picture, sound = _start(video_stream(container)), _start(audio_stream(container))
    if picture is None or sound is None:
        return picture or sound or Fraction(0)
    return sound if sound < picture - PRIMING else picture


def declared_end(container: InputContainer, stream: VideoStream | AudioStream) -> Fraction | None:
    """When `stream` ends by the file's own account, in seconds from `time_zero`; None where it does not say."""
    if stream.duration and stream.time_base:
        return (_start(stream) or Fraction(0)) - time_zero(container) + stream.duration * stream.time_base
    if container.duration:
        return Fraction(container.duration, av.time_base)
    return None


def believable(start: Fraction, previous_end: Fraction, declared: Fraction | None) -> bool:
    """Whether a frame of sound or picture may start at `start` seconds where the one before ended at `previous_end`."""
    if start < previous_end:
        return previous_end - start < 1  # overlaps happen; a clock that starts anew does not count
    pause = start - previous_end
    if pause <= LONGEST_PAUSE:
        return True
    return declared is not None and start <= declared + 1 and pause <= LONGEST_DECLARED_PAUSE


def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, times: deque | None = None
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Decode `stream` to the end of what can be decoded, as players do: a damaged packet is passed over.

    Args:
        container: An open file.
        stream: One of its streams.
        times: Receives the decoding time stamp of every packet with data that goes into the decoder.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.InvalidDataError, av.error.EOFError):
            packets = iter(())  # nothing further can be made sense of: have the decoder give what it still holds
            packet = av.Packet()
            packet.stream = stream
        if packet is None:
            return
        if times is not None and packet.size:
            times.append(packet.dts)
        try:
            frames = packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
        yield from frames


def _start(stream: VideoStream | AudioStream | None) -> Fraction | None:
    if stream is None or stream.start_time is None or not stream.time_base:
        return None
    return stream.start_time * stream.time_base


def _refuse_truncated(container: InputContainer, path: Path, what: str) -> None:
    """An MP4 with its index in front opens however little of it is there; its index tells."""
    size = path.stat().st_size
    for stream in (*container.streams.video, *container.streams.audio):
        entries = stream.index_entries
        if len(entries) and entries[-1].pos + entries[-1].size > size:
            raise InputError(f"{what} {path} is cut short or damaged: it lists more data than it holds; {REMEDY}")
