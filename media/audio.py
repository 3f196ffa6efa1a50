"""Sound files, and the features of speech that the networks hear."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np

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
)
from media.errors import InputError

SAMPLE_RATE = 16000
FEATURES = {"mel": (80, 16), "wav2vec2": (768, 10)}  # channels, width of a video frame's window
SILENCE = {"mel": -4.0, "wav2vec2": 0.0}  # what lies beyond either end of the sound

MEL_WINDOW, MEL_HOP = 800, 200
MFCC_WINDOW, MFCC_HOP = 400, 160
PREEMPHASIS = 0.97
BLOCK = 4096  # feature frames computed at a time, to keep the memory of long sound small

# How loud a channel is in the mono mix (ITU-R BS.775), before the weights are brought to a sum of 1 so that nothing
# clips: FFmpeg's own mix of float samples does not do that.
MONO_MIX = {"FC": 1.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
SURROUND = 0.5  # every other channel

# An MP4 file says where its sound ends, within the last frame of AAC; the decoder gives frames whole, of 2048 samples
# at most. What lies further beyond is sound that the file has wrongly not counted.
PADDING = 2048

# Sound that is this many seconds from where its timestamps say is moved there: less is the clock's own unsteadiness
# in many files, more is heard, and it adds up.
DRIFT = Fraction(1, 25)


def sound_format(path: str | os.PathLike) -> tuple[int, int]:
    """The sample rate in Hz and the number of channels of a sound file or a video's sound track.

    Raises:
        InputError: The file cannot be read or has no sound track.
    """
    with open_media(path, "sound") as container:
        context = _sound_track(container, path).codec_context
        return context.sample_rate or 48000, max(1, context.channels)


def read_sound(path: str | os.PathLike, rate: int, layout: str) -> Iterator[np.ndarray]:
    """Stream a sound file or a video's sound track as (channels, samples) float32 blocks in [-1, 1].

    Sample n belongs to the time n/rate on the timeline of `media.video.read_frames`: a track that starts later than
    the picture is preceded by silence, one with a hole has silence there.

    Args:
        path: Any file that PyAV decodes.
        rate: Samples a second to resample to.
        layout: FFmpeg's name of the channel layout to mix to ("mono", "stereo", "5.1", ...).

    Raises:
        InputError: The file cannot be read, or has no sound or no samples.
    """
    with open_media(path, "sound") as container:
        stream = _sound_track(container, path)
        samples = 0
        try:
            for block in _unpadded(container, stream, rate, _in_step(container, stream, rate, layout)):
                samples += block.shape[1]
                yield np.clip(np.nan_to_num(block), -1, 1)
        except UNREADABLE as error:
            raise InputError(f"sound {path} cannot be decoded ({reason(error)}); {REMEDY}") from error
        if not samples:
            raise InputError(f"sound {path} has no samples; {REMEDY}")


def read_audio(path: str | os.PathLike) -> np.ndarray:
    """Read a sound file or a video's sound track as (samples,) float32 in [-1, 1], 16 kHz mono.

    Sample 0 is heard with frame 0 of `media.video.read_frames`.

    Raises:
        InputError: The file cannot be read, or has no sound or no samples.
    """
    return np.concatenate([block[0] for block in read_sound(path, SAMPLE_RATE, "mono")])


def mel_spectrogram(wav: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram as the field's lip-sync networks expect it (Wav2Lip, G4G).

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (1 + samples // 200, 80) float32 in [-4, 4] at 80 Hz, frame k centred on sample 200 k; silence is -4.
    """
    import librosa

    basis = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=MEL_WINDOW, n_mels=80, fmin=55, fmax=7600)
    count = 1 + len(wav) // MEL_HOP
    blocks = []
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK) - 1
        segment = _emphasized(wav, first * MEL_HOP - MEL_WINDOW // 2, last * MEL_HOP + MEL_WINDOW // 2)
        spectrum = librosa.stft(segment.astype(np.float32), n_fft=MEL_WINDOW, hop_length=MEL_HOP, center=False)
        decibels = 20 * np.log10(np.maximum(1e-5, basis @ np.abs(spectrum))) - 20
        blocks.append(np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).T.astype(np.float32))
    return np.concatenate(blocks)


def mfcc(wav: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients as Chung's SyncNet expects them.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (frames, 13) float64 at 100 Hz, computed from the 16-bit samples; the last frame is filled up with silence.
    """
    from python_speech_features import mfcc as coefficients

    pcm = (np.asarray(wav) * 32767).astype(np.int16)
    count = 1 + max(0, -(-(len(pcm) - MFCC_WINDOW) // MFCC_HOP))
    blocks = []
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK) - 1
        segment = _emphasized(pcm, first * MFCC_HOP, last * MFCC_HOP + MFCC_WINDOW)
        blocks.append(coefficients(segment, SAMPLE_RATE, preemph=0))
    return np.concatenate(blocks)


def wav2vec2_features(
    wav: np.ndarray, model: str | os.PathLike = "facebook/wav2vec2-base-960h", device: str = "cpu"
) -> np.ndarray:
    """Last hidden state of Wav2Vec 2.0, computed piece by piece; see `media.wav2vec2` for what that leaves the same.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        model: A folder with the model's files, or a name on huggingface.co whose files have been fetched before.
        device: Where torch computes.

    Returns:
        (frames, channels) float32 at 50 Hz; 768 channels for the base model. Frame k hears 400 samples from 320 k on.

    Raises:
        InputError: The model's files are not there, or are of another kind of network.
    """
    from media.wav2vec2 import features, load

    return features(load(os.fspath(model), str(device)), np.asarray(wav, np.float32))


def audio_windows(features: np.ndarray, kind: str, indices: Sequence[float]) -> np.ndarray:
    """Cut, for each frame of a 25 fps video, the five frames of sound around it (i-2 to i+2).

    Args:
        features: (frames, channels), from `mel_spectrogram` or `wav2vec2_features`.
        kind: "mel" or "wav2vec2".
        indices: Frame numbers on the 25 fps timeline, any integers; or places between frames, for pictures at another
            rate.

    Returns:
        (len(indices), channels, width) float32; silence beyond either end of the sound.
    """
    channels, width = FEATURES[kind]
    first = np.asarray(indices, dtype=np.float64) - 2
    start = np.floor(first * (80 / 25 if kind == "mel" else 2) + 1e-6).astype(np.int64)  # 80 and 50 features a second
    position = start[:, None] + np.arange(width)
    windows = np.full((len(position), width, channels), SILENCE[kind], np.float32)
    inside = (position >= 0) & (position < len(features))
    windows[inside] = features[position[inside]]
    return np.ascontiguousarray(windows.transpose(0, 2, 1))


def _sound_track(container: av.container.InputContainer, path: str | os.PathLike) -> av.audio.stream.AudioStream:
    stream = audio_stream(container)
    if stream is None:
        raise InputError(f"sound {path} has no sound that can be decoded; give a sound file or a video with sound")
    return stream


def _unpadded(
    container: av.container.InputContainer, stream: av.audio.stream.AudioStream, rate: int, blocks: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """Leave out the samples with which the encoder has filled up its last frame; other formats' decoders do so."""
    end = declared_end(container, stream) if stream.duration and "mp4" in container.format.name else None
    if not end or end < 0:
        yield from blocks
        return
    last = round(end * rate)
    furthest = last + PADDING * rate // (stream.codec_context.sample_rate or rate)
    position, held = 0, []
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
    container: av.container.InputContainer, stream: av.audio.stream.AudioStream, rate: int, layout: str
) -> Iterator[np.ndarray]:
    """Decode, mix and resample a sound track, with silence put in or samples left out where its timestamps ask."""
    zero, declared = time_zero(container), declared_end(container, stream)
    silence = np.zeros((av.AudioLayout(layout).nb_channels, rate), np.float32)
    resampler = form = None
    surplus = 0  # samples yet to be left out

    def resampled(frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        nonlocal surplus
        for block in resampler.resample(frame) if resampler else ():
            if block.samples > surplus:
                # Packed samples, as PyAV reads beyond the eighth plane of planar ones.
                samples = block.to_ndarray().reshape(block.samples, -1).T[:, surplus:]
                yield _mono(samples, block.layout) if layout == "mono" else samples
            surplus = max(0, surplus - block.samples)

    end, shift, tolerance = Fraction(0), Fraction(0), 0  # the first frame is put exactly where it belongs
    for frame in decoded(container, stream):
        if form != (frame.sample_rate, frame.layout.name, frame.format.name):
            yield from resampled(None)  # the track may change its form on the way
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
        frame.pts = None  # the resampler is only to count samples
        yield from resampled(frame)
    yield from resampled(None)


def _mono(samples: np.ndarray, layout: av.AudioLayout) -> np.ndarray:
    """(channels, samples) -> (1, samples)"""
    weights = np.array(
        [MONO_MIX.get(channel.name, SURROUND) for channel in layout.channels][: len(samples)], np.float32
    )
    if len(weights) != len(samples) or not weights.any():
        weights = np.ones(len(samples), np.float32)
    return (weights / weights.sum())[None] @ samples


def _emphasized(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples start to stop after the pre-emphasis filter y[n] = x[n] - 0.97 x[n-1], float64; 0 outside the sound."""
    inside = slice(max(start - 1, 0), min(stop, len(samples)))
    padded = np.zeros(stop - start + 1)
    padded[inside.start - start + 1 : inside.stop - start + 1] = samples[inside]
    filtered = padded[1:] - PREEMPHASIS * padded[:-1]
    filtered[max(0, len(samples) - start) :] = 0  # the filter's tail is no part of the sound
    return filtered
