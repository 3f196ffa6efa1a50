"""Audio features: log-mel spectrograms, MFCCs and hidden states of speech networks; windows for video frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

SAMPLE_RATE = 16000
# By kind: channels, and width of a video frame's window. Log-mel has 80 rows a second, the others 50.
FEATURES = {"mel": (80, 16), "wav2vec2": (768, 10), "hama": (288, 10), "whisper": (512, 10)}
SILENCE = {"mel": -4.0, "wav2vec2": 0.0, "hama": 0.0, "whisper": 0.0}  # padding beyond either end of the sound

MEL_WINDOW, MEL_HOP = 800, 200
MFCC_WINDOW, MFCC_HOP = 400, 160
PREEMPHASIS = 0.97
BLOCK = 4096  # feature frames computed at a time; bounds the memory of long sound


def mel_spectrogram(wav: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram as the field's lip-sync networks expect it (Wav2Lip, G4G).

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.

    Returns:
        (1 + samples // 200, 80) float32 in [-4, 4] at 80 Hz, frame k centred on sample 200 k; silence is -4.
    """
    import librosa

    # A sparse product: BLAS's order of summation depends on the number of threads, and clip files must not.
    basis = csr_array(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=MEL_WINDOW, n_mels=80, fmin=55, fmax=7600))
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
    """Last hidden state of Wav2Vec 2.0, computed in pieces; `media.wav2vec2` says how this equals one run.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        model: A folder with the model's files, or a name on huggingface.co whose files have been fetched before.
        device: Where torch computes.

    Returns:
        (frames, channels) float32 at 50 Hz; 768 channels for the base model. The convolutions of frame k cover the 400
        samples from 320 k on.

    Raises:
        InputError: The model's files are missing, or hold another kind of network.
    """
    from media.wav2vec2 import features, load

    return features(load(os.fspath(model), str(device)), np.asarray(wav, np.float32))


def hama_features(wav: np.ndarray, weights: str | os.PathLike | None = None, device: str = "cpu") -> np.ndarray:
    """Hidden states of hama's phoneme recogniser after its second and its third block; see `media.hama`.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        weights: the file of `checkpoints.import_hama`; None: the one among the downloads.
        device: where torch computes.

    Returns:
        (1 + samples // 320, 288) float32 at 50 Hz, frame k centred on sample 320 k.

    Raises:
        InputError: the weights are missing or damaged.
    """
    from media.hama import encoder_file, features, load

    return features(
        load(encoder_file() if weights is None else Path(weights), str(device)), np.asarray(wav, np.float32)
    )


def whisper_features(
    wav: np.ndarray, model: str | os.PathLike = "openai/whisper-base", device: str = "cpu"
) -> np.ndarray:
    """The hidden state of Whisper's encoder after its fourth layer; see `media.whisper`.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        model: a folder with the model's files, or a name on huggingface.co whose files have been fetched before.
        device: where torch computes.

    Returns:
        (1 + samples // 320, channels) float32 at 50 Hz, frame k centred on sample 320 k; 512 channels for the base
        model.

    Raises:
        InputError: the model's files are missing, or hold another kind of network.
    """
    from media.whisper import features, load

    return features(load(os.fspath(model), str(device)), np.asarray(wav, np.float32))


def sound_features(
    wav: np.ndarray, kind: str, device: str = "cpu", weights: str | os.PathLike | None = None
) -> np.ndarray:
    """The features of `kind`, a key of `FEATURES`: (frames, channels) float32.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        device: where torch computes; log-mel needs none.
        weights: of the encoder of `hama`, if these are not among the downloads.

    Raises:
        InputError: the network's weights are missing or damaged.
    """
    if kind == "mel":
        return mel_spectrogram(wav)
    if kind == "hama":
        return hama_features(wav, weights, device)
    return (wav2vec2_features if kind == "wav2vec2" else whisper_features)(wav, device=device)


def audio_windows(features: np.ndarray, kind: str, indices: Sequence[float] | np.ndarray) -> np.ndarray:
    """Cut the window of sound around each frame i of a 25 fps video: five frames, i-2 to i+2.

    Args:
        features: (frames, channels), from `sound_features`.
        kind: of the features, a key of `FEATURES`.
        indices: Frame numbers on the 25 fps timeline: any integers, or fractions for video at another rate.

    Returns:
        (len(indices), channels, width) float32, padded with silence beyond either end of the sound.
    """
    return at_rows(features, kind, window_rows(kind, indices))


def window_rows(kind: str, indices: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rows of the features in the window of each frame of `audio_windows`: (len(indices), width) int64.

    They may lie beyond either end of the sound.
    """
    first = np.asarray(indices, dtype=np.float64) - 2
    start = np.floor(first * (80 / 25 if kind == "mel" else 2) + 1e-6).astype(np.int64)  # 80 and 50 features a second
    return start[:, None] + np.arange(FEATURES[kind][1])


def at_rows(features: np.ndarray, kind: str, position: np.ndarray) -> np.ndarray:
    """Windows (n, channels, width) of `features` (frames, channels) at rows (n, width); silence outside of them."""
    windows = np.full((*position.shape, FEATURES[kind][0]), SILENCE[kind], np.float32)
    inside = (position >= 0) & (position < len(features))
    windows[inside] = features[position[inside]]
    return np.ascontiguousarray(windows.transpose(0, 2, 1))


def _emphasized(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples start to stop after the pre-emphasis filter y[n] = x[n] - 0.97 x[n-1], float64; 0 outside the sound."""
    inside = slice(max(start - 1, 0), min(stop, len(samples)))
    padded = np.zeros(stop - start + 1)
    padded[inside.start - start + 1 : inside.stop - start + 1] = samples[inside]
    filtered = padded[1:] - PREEMPHASIS * padded[:-1]
    filtered[max(0, len(samples) - start) :] = 0  # the filter's tail is not part of the sound
    return filtered
