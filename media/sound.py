"""Reads sound files and the sound of videos."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from media.audio import SAMPLE_RATE
from media.container import (
    REMEDY,
    UNREADABLE,
    audio_stream,
    audio_streams,
    believable,
    declared_end,
    decoded,
    open_media,
    reason,
    time_zero,
)
from media.errors import InputError
from media.mix import MonoMix, mix, usual_weights

# An MP4 declares where its sound ends, within the last AAC frame. The decoder returns whole frames, of at most 2048
# samples. Sound further beyond the end is real; the file's declared length is wrong.
PADDING = 2048

# Sound that is more than this many seconds from its timestamp is moved there. Smaller differences are clock jitter,
# common in files; larger ones are audible and accumulate.
DRIFT = Fraction(1, 25)

SILENT = 1e-3  # of full scale; a track whose samples are all below is silent

LOWEST_RATE = 2000  # Hz; at a lower rate, a small file would fill the memory

ToMono = Callable[[np.ndarray, av.AudioLayout], np.ndarray]  # (channels, n) samples in a layout -> (1, n)


@dataclass(frozen=True)
class SoundPart:
    """A part of a sound file or of a video's sound track, which begins at `at` seconds of an output.

    start, end: seconds in the file, on the timeline of `read_sound`; None is its end.
    track: as in `read_sound`.
    """

    path: str | os.PathLike
    start: float = 0.0
    end: float | None = None
    at: float = 0.0
    track: int | None = None


def sound_format(path: str | os.PathLike, track: int | None = None) -> tuple[int, int]:
    """The sample rate in Hz and the number of channels of a sound file or of a sound track as in `read_sound`.

    Raises:
        InputError: The file cannot be read or has no such sound track.
    """
    with open_media(path, "sound") as container:
        context = _sound_track(container, path, track).codec_context
        return context.sample_rate or 48000, max(1, context.channels)


def read_sound(path: str | os.PathLike, rate: int, layout: str, track: int | None = None) -> Iterator[np.ndarray]:
    """Stream a sound file or a video's sound track as (channels, samples) float32 blocks in [-1, 1].

    Sample n belongs to the time n/rate on the timeline of `media.video.read_frames`. Silence precedes a track that
    starts later than the picture, and fills its holes. Several channels become "mono" by `MonoMix`, for which the file
    is read twice.

    Args:
        path: Any file that PyAV decodes.
        rate: Samples a second to resample to.
        layout: FFmpeg's name of the channel layout to mix to ("mono", "stereo", "5.1", ...).
        track: Number of the sound track, from 0 on; None for the default one.

    Raises:
        InputError: The file cannot be read, or has no such sound track or no samples.
    """
    weights = MonoMix()
    if layout == "mono" and sound_format(path, track)[1] > 1:
        for _ in _blocks(path, SAMPLE_RATE, layout, _measuring(weights), track):
            pass
    yield from _blocks(path, rate, layout, _weighted(weights), track)


def read_parts(parts: Sequence[SoundPart], rate: int, layout: str) -> Iterator[np.ndarray]:
    """Stream `parts` one after the other like `read_sound`, with silence before those that begin later."""
    position = 0
    for part in parts:
        begin = round(part.at * rate)
        for first in range(position, begin, rate):
            yield np.zeros((av.AudioLayout(layout).nb_channels, min(rate, begin - first)), np.float32)
        position = max(position, begin)
        for block in _between(read_sound(part.path, rate, layout, part.track), *span_of(part, rate)):
            position += block.shape[1]
            yield block


def span_of(part: SoundPart, rate: int) -> tuple[int, int | None]:
    """The part's first sample and the one after its last, at `rate` samples a second; None: the end of the file."""
    return round(part.start * rate), None if part.end is None else round(part.end * rate)


def _between(blocks: Iterator[np.ndarray], first: int, last: int | None) -> Iterator[np.ndarray]:
    position = 0
    for block in blocks:
        part = block[:, max(0, first - position) : None if last is None else max(0, last - position)]
        position += block.shape[1]
        if part.size:
            yield part
        if last is not None and position >= last:
            return


def read_audio(path: str | os.PathLike, track: int | None = None) -> np.ndarray:
    """Read a sound file or a video's sound track as (samples,) float32 in [-1, 1], 16 kHz mono (`MonoMix`).

    Sample 0 coincides with the start of frame 0 of `media.video.read_frames`.

    Args:
        path: Any file that PyAV decodes.
        track: Number of the sound track, from 0 on; None for the default one.

    Raises:
        InputError: The file cannot be read, or has no such sound track or no samples.
    """
    weights = MonoMix()
    wav = np.concatenate([block[0] for block in _blocks(path, SAMPLE_RATE, "mono", _measuring(weights), track)])
    if weights.is_usual():
        return wav
    del wav
    return np.concatenate([block[0] for block in _blocks(path, SAMPLE_RATE, "mono", _weighted(weights), track)])


def track_with_sound(path: str | os.PathLike, wav: np.ndarray, track: int | None = None) -> int | None:
    """Number of the first track with sound of a file whose track `track` is silent; None if there is none.

    `wav` (samples,) is the sound of that track. A track is silent if no sample is above `SILENT`.
    """
    if np.abs(wav).max(initial=0) > SILENT:
        return None
    with open_media(path, "sound") as container:
        streams, read = audio_streams(container), _sound_track(container, path, track)
        others = [number for number, stream in enumerate(streams) if stream is not read]
    for number in others:
        with contextlib.suppress(InputError):  # a damaged track is no remedy
            if any(np.abs(block).max(initial=0) > SILENT for block in read_sound(path, SAMPLE_RATE, "stereo", number)):
                return number
    return None


def _measuring(weights: MonoMix) -> ToMono:
    """Mix by the usual weights, and measure what the channels hold."""

    def to_mono(samples: np.ndarray, layout: av.AudioLayout) -> np.ndarray:
        weights.measure(samples, layout)
        return mix(samples, usual_weights(layout, len(samples)))

    return to_mono


def _weighted(weights: MonoMix) -> ToMono:
    return lambda samples, layout: mix(samples, weights.weights(layout, len(samples)))


def _blocks(
    path: str | os.PathLike, rate: int, layout: str, to_mono: ToMono, track: int | None
) -> Iterator[np.ndarray]:
    """`read_sound`, mixing to "mono" by `to_mono`."""
    with open_media(path, "sound") as container:
        stream = _sound_track(container, path, track)
        samples = 0
        try:
            for block in _unpadded(container, stream, rate, _in_step(container, stream, rate, layout, to_mono)):
                samples += block.shape[1]
                yield np.clip(np.nan_to_num(block), -1, 1)
        except UNREADABLE as error:
            raise InputError(f"sound {path} cannot be decoded ({reason(error)}); {REMEDY}") from error
        if not samples:
            raise InputError(f"sound {path} has no samples; {REMEDY}")


def _sound_track(
    container: av.container.InputContainer, path: str | os.PathLike, track: int | None
) -> av.audio.stream.AudioStream:
    stream, streams = audio_stream(container), audio_streams(container)
    if stream is None:
        raise InputError(f"sound {path} has no sound that can be decoded; give a sound file or a video with sound")
    if track is None:
        return stream
    if track >= len(streams):
        numbers = "only track 0" if len(streams) == 1 else f"only tracks 0 to {len(streams) - 1}"
        raise InputError(f"sound {path} has no track {track}, {numbers}; give another --audio-track")
    return streams[track]


def _unpadded(
    container: av.container.InputContainer, stream: av.audio.stream.AudioStream, rate: int, blocks: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """Drop the encoder's padding of an MP4's last frame; other formats' decoders drop it themselves."""
    end = declared_end(container, stream) if stream.duration and "mp4" in container.format.name else None
    if not end or end < 0:
        yield from blocks
        return
    last = round(end * rate)
    furthest = last + PADDING * rate // (stream.codec_context.sample_rate or rate)
    position = 0
    held: list[np.ndarray] = []
    for block in blocks:
        inside = max(0, last - position)
        position += block.shape[1]
        if position > furthest:
            yield from held
            yield block
            held = []
            continue
        if inside:
            yield block[:, :inside]
        if inside < block.shape[1]:
            held.append(block[:, inside:])


def _in_step(
    container: av.container.InputContainer,
    stream: av.audio.stream.AudioStream,
    rate: int,
    layout: str,
    to_mono: ToMono,
) -> Iterator[np.ndarray]:
    """Decode, mix and resample a sound track; insert silence or drop samples to match its timestamps."""
    zero, declared = time_zero(container), declared_end(container, stream)
    silence = np.zeros((av.AudioLayout(layout).nb_channels, rate), np.float32)
    resampler: av.AudioResampler | None = None
    form: tuple[int, str, str] | None = None
    surplus = 0  # samples still to drop

    def resampled(frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        nonlocal surplus
        for block in resampler.resample(frame) if resampler else ():
            if block.samples > surplus:
                # Packed samples: with planar ones, PyAV reads beyond the eighth plane.
                samples = block.to_ndarray().reshape(block.samples, -1).T[:, surplus:]
                yield to_mono(samples, block.layout) if layout == "mono" else samples
            surplus = max(0, surplus - block.samples)

    end, shift, tolerance = Fraction(0), Fraction(0), Fraction(0)  # no tolerance for the first frame
    for frame in decoded(container, stream):
        if form != (frame.sample_rate, frame.layout.name, frame.format.name):
            if frame.sample_rate < LOWEST_RATE:
                raise ValueError(f"it claims {frame.sample_rate} samples a second")
            yield from resampled(None)  # the track's format may change midway
            form = (frame.sample_rate, frame.layout.name, frame.format.name)
            resampler = av.AudioResampler("flt", None if layout == "mono" else layout, rate)
        if frame.pts is not None and frame.time_base:
            start = frame.pts * frame.time_base - zero + shift
            if not believable(start, end, declared):
                shift += end - start
                start = end
            if abs(start - end) > tolerance:
                missing = round((start - end) * rate)
                surplus += max(0, -missing)
                for first in range(0, missing, rate):
                    yield silence[:, : missing - first]
                end = start
        tolerance = DRIFT
        end += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None  # the resampler must only count samples
        yield from resampled(frame)
    yield from resampled(None)
