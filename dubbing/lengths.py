"""The length of an output, how much of it is dubbed, and what it sounds like."""

import os
from fractions import Fraction

import numpy as np

from dubbing.options import DubOptions
from media.audio import SAMPLE_RATE
from media.errors import InputError
from media.sound import SoundPart, read_audio, sound_format, span_of


def check_lengths(options: DubOptions) -> None:
    """InputError if the options of the lengths contradict each other."""
    for kind, start, end in (("", options.start, options.end), ("audio-", options.audio_start, options.audio_end)):
        if end is not None and end <= start:
            raise InputError(f"--{kind}end {end:g} is not after --{kind}start {start:g}; give more")
    if options.when_long == "keep" and options.length == "shorter":
        raise InputError("--when-long keep contradicts --length shorter; leave one of them out")


def read_voice(audio: str | os.PathLike, options: DubOptions) -> tuple[np.ndarray, np.ndarray]:
    """The sound that the mouth follows, and the one that the output has.

    Returns:
        Both (samples,) float32 in [-1, 1] at 16 kHz.

    Raises:
        InputError: a sound cannot be read, or ends before `options.audio_start`.
    """

    def read(path: str | os.PathLike, track: int | None = None) -> np.ndarray:
        wav = read_audio(path, track)
        part = wav[slice(*span_of(SoundPart(path, options.audio_start, options.audio_end), SAMPLE_RATE))]
        if not len(part):
            seconds = len(wav) / SAMPLE_RATE
            raise InputError(f"--audio-start {options.audio_start:g}: sound {path} is {seconds:.2f} s long; give less")
        return part

    own = read(audio, options.audio_track)
    return own if options.voice is None else read(options.voice), own


def output_length(spoken: int, shown: int, options: DubOptions) -> tuple[int, int]:
    """The number of frames of the output, and how many of them, from the first on, are dubbed.

    Args:
        spoken: frames that the sound lasts.
        shown: frames of the part of the video.
    """
    if options.when_long == "keep" and shown > spoken:
        return shown, spoken
    length = {"sound": spoken, "video": shown, "shorter": min(spoken, shown)}[options.length]
    return length, length


def sound_parts(
    audio: str | os.PathLike, video: str | os.PathLike, length: int, dubbed: int, fps: Fraction, options: DubOptions
) -> list[SoundPart]:
    """What the output sounds like: `audio`, and after the `dubbed` frames of `length`, the video's own sound if any."""
    parts = [SoundPart(audio, options.audio_start, options.audio_end, track=options.audio_track)]
    if dubbed < length:
        try:
            sound_format(video)
        except InputError:  # an animation, or a video without sound
            return parts
        first = Fraction(round(options.start * fps)) / fps  # the source's first frame
        parts.append(SoundPart(video, float(first + dubbed / fps), float(first + length / fps), float(dubbed / fps)))
    return parts
