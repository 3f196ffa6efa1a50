"""Brings speech to one loudness before its features are computed: networks take loud and soft speech alike."""

from fractions import Fraction

import numpy as np
from av import AudioFrame
from av.error import BlockingIOError as NothingYet
from av.filter import Graph

from media.audio import SAMPLE_RATE

TARGET = -20.0  # LUFS of the sound that features are computed from; near the median of the training clips
GATE = -70.0  # LUFS; BS.1770's absolute gate, below which a sound counts as silence
MOST_GAIN = 40.0  # dB
FADE = 10.0  # LU above the gate, over which the largest gain rises from 0 to MOST_GAIN: noise alone stays soft
SHORTEST = 2 * SAMPLE_RATE // 5  # samples; BS.1770 measures blocks of 0.4 s
STEP = SAMPLE_RATE // 10  # samples between two results of the filter


class LoudnessMeter:
    """Gated loudness (ITU-R BS.1770-4) of mono sound at 16 kHz that arrives in pieces; FFmpeg's filter measures it.

    `lufs` is the loudness of all sound so far, `GATE` if nothing of it is louder or it lasts less than 0.4 s.
    """

    def __init__(self) -> None:
        self.lufs = GATE
        self._samples = 0
        self._graph = Graph()
        source = self._graph.add_abuffer(
            sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=Fraction(1, SAMPLE_RATE)
        )
        meter = self._graph.add("ebur128", "metadata=1:framelog=quiet")
        self._graph.link_nodes(source, meter, self._graph.add("abuffersink")).configure()

    def add(self, samples: np.ndarray) -> None:
        """Measure further `samples`, (n,) float32 in [-1, 1]."""
        for first in range(0, len(samples), SAMPLE_RATE):
            piece = np.ascontiguousarray(samples[None, first : first + SAMPLE_RATE], np.float32)
            frame = AudioFrame.from_ndarray(piece, "flt", "mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._samples, Fraction(1, SAMPLE_RATE)
            self._samples += piece.shape[1]
            self._graph.push(frame)
            self._read()

    def _read(self) -> None:
        while True:
            try:
                self.lufs = float(self._graph.pull().metadata["lavfi.r128.I"])
            except NothingYet:
                return


def loudness(wav: np.ndarray) -> float:
    """Gated loudness in LUFS of `wav`, (samples,) float32 in [-1, 1] at 16 kHz; `GATE` for silence.

    A sound of less than 0.4 s is measured as if it were repeated.
    """
    meter = LoudnessMeter()
    meter.add(np.resize(wav, SHORTEST) if 0 < len(wav) < SHORTEST else wav)
    return meter.lufs


def gain_at(lufs: float) -> float:
    """Gain in dB that brings a sound of `lufs` to `TARGET`.

    It is 0 dB for silence, and at most `MOST_GAIN` dB, less for sounds within 10 LU of the gate.
    """
    most = MOST_GAIN * np.clip((lufs - GATE) / FADE, 0, 1)
    return float(min(TARGET - lufs, most))


def heard(wav: np.ndarray, lufs: float | None = None) -> np.ndarray:
    """`wav` at the loudness `TARGET`, as networks hear it in training and in dubbing.

    Args:
        wav: (samples,) float32 in [-1, 1] at 16 kHz.
        lufs: its loudness, where it is known.

    Returns:
        (samples,) float32; peaks may lie beyond 1.
    """
    return wav * decibels(gain_at(loudness(wav) if lufs is None else lufs))


def decibels(gain: float | np.ndarray) -> np.ndarray:
    """The float32 factor of a gain in dB."""
    return np.float32(10) ** (np.asarray(gain, np.float32) / 20)


class Leveller:
    """`heard` for sound that arrives in pieces: the gain follows the loudness of the sound so far.

    The gain changes linearly in dB over each 0.1 s, towards that of the loudness before; the pieces' lengths do not
    matter. The first 0.4 s pass as they are.

    Args:
        lufs: loudness of the whole sound, where it is known: the gain is then that of `heard` throughout.
    """

    def __init__(self, lufs: float | None = None) -> None:
        self._meter = LoudnessMeter() if lufs is None else None
        self._gain = self._next = 0.0 if lufs is None else gain_at(lufs)  # dB at the step's start and end
        self._done = 0  # samples of the step

    def level(self, samples: np.ndarray) -> np.ndarray:
        """The next `samples`, (n,) float32, at their gain."""
        if self._meter is None:
            return samples * decibels(self._gain)
        parts = [samples[:0]]
        while len(samples):
            part, samples = samples[: STEP - self._done], samples[STEP - self._done :]
            way = (self._done + np.arange(len(part))) / STEP
            parts.append(part * decibels(self._gain + way * (self._next - self._gain)))
            self._meter.add(part)
            self._done = (self._done + len(part)) % STEP
            if not self._done:
                self._gain, self._next = self._next, gain_at(self._meter.lufs)
        return np.concatenate(parts)
