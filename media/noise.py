"""Noise beside a voice, with which a network's hearing is trained and measured."""

import numpy as np


def pink_noise(samples: int, random: np.random.Generator) -> np.ndarray:
    """(samples,) float32 whose power falls by 3 dB an octave, of root mean square 1."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.sqrt((noise**2).mean())).astype(np.float32)


def voice_level(wav: np.ndarray) -> np.floating:
    """Root mean square of the louder half of the blocks of 25 ms of `wav`, (samples,) at 16 kHz."""
    blocks = np.sqrt((wav[: len(wav) // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1))
    return np.sqrt((blocks[blocks >= np.median(blocks)] ** 2).mean())
