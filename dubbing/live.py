"""A live voice: the pictures of a prepared person, made as the sound arrives."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dubbing.options import DubOptions
from dubbing.pipeline import cast, generated
from dubbing.prepared import Prepared
from dubbing.speaker import Speaker
from media.audio import (
    FEATURES,
    MEL_HOP,
    MEL_WINDOW,
    SAMPLE_RATE,
    sound_features,
    window_rows,
)
from media.errors import InputError
from media.loudness import Leveller
from media.timeline import FPS
from media.video import probe

PATIENCE = 0.1  # seconds that sound may be late before silence takes its place
HORIZON = 3600 * FPS  # frames that the motion is laid out for at first


class Live:
    """Pictures of a prepared person that speaks sound which is still arriving. `Dubber.live` makes it.

    Picture k shows k/25 s of the sound. It is made when the sound `latency` seconds after that has arrived, because the
    networks take sound around each frame. With mel features the pictures are those of a dub of the whole sound.
    Features of a speech network depend on the whole sound; here they have some seconds of past sound, and of hama and
    Whisper a little of the future (`_HEARING`); docs/dubbing.md says how much they differ.
    The loudness of the whole sound must be given for that: else that of the sound so far takes its place (`Leveller`).

    Args:
        prepared: of 25 frames a second.
        speaker: the networks.
        options: whom to dub, and what else of `DubOptions` does not concern files and lengths.
        lock: held while the networks run.
        clock: seconds. While `hear` waits for its next call, time passes: see `hear`.
        lufs: the voice's loudness (`media.loudness.loudness`), where it is known beforehand.

    Raises:
        InputError: the video cannot be read, has another frame rate, or shows no face.
    """

    def __init__(
        self,
        prepared: Prepared,
        speaker: Speaker,
        options: DubOptions,
        lock: threading.Lock,
        clock: Callable[[], float] = time.monotonic,
        lufs: float | None = None,
    ):
        if prepared.fps != FPS:
            raise InputError(f"{prepared.file or prepared.video} was prepared with --keep-fps; prepare it without")
        self._options = prepared.check(probe(prepared.video), options)
        self._speaker, self._lock, self._clock = speaker, lock, clock
        self._cast = cast(prepared, speaker, self._options)
        self._ear = _Ear(speaker, lufs)
        self._known: list[dict] = [{} for _ in self._cast.people]
        self._horizon = HORIZON
        self._motions = self._cast.motions(self._horizon, self._options, speaker.crop)
        self._played = self._cast.source.play(sys.maxsize, self._options.when_short)
        self._made = 0  # pictures
        self._slack = 0.0  # seconds of sound that came before it was due; negative if it is late
        self._waiting: float | None = None  # since when

    @property
    def latency(self) -> float:
        """Seconds between the time that a picture shows and the arrival of the last sound that it depends on."""
        beats = np.arange(FPS, 2 * FPS)  # the windows' rows repeat every few frames
        return float(max(self._ear.needed(k + self._speaker.window // 2) / SAMPLE_RATE - k / FPS for k in beats))

    def hear(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Take the next sound and yield the pictures that it completes.

        Call it as often as pictures are wanted, with no samples if none came: where sound is more than `PATIENCE` late,
        silence takes its place, so that the pictures go on. Sound is late where less of it came, since the first call,
        than time passed between the calls.

        Args:
            samples: (n,) float32 in [-1, 1] at 16 kHz, n of any size.

        Yields:
            (H, W, 3) uint8 RGB, 25 for each second of sound.
        """
        samples = np.asarray(samples, np.float32).reshape(-1)
        if self._waiting is not None:
            self._slack -= self._clock() - self._waiting
        self._slack += len(samples) / SAMPLE_RATE
        if self._slack < -PATIENCE:
            self._ear.hear(np.zeros(round(-self._slack * SAMPLE_RATE), np.float32))
            self._slack = 0.0
        self._ear.hear(samples)
        half = self._speaker.window // 2
        stop = self._made
        while self._ear.needed(stop + half) <= self._ear.samples:
            stop += 1
        yield from self._pictures(stop)
        self._waiting = self._clock()

    def end(self) -> Iterator[np.ndarray]:
        """End the sound, and yield the pictures up to its end."""
        self._ear.end()
        length = math.ceil(self._ear.samples * FPS / SAMPLE_RATE)
        if length > self._made:
            self._motions = self._cast.motions(length, self._options, self._speaker.crop)
            yield from self._pictures(length)
        self._played.close()

    def _pictures(self, stop: int) -> Iterator[np.ndarray]:
        while stop + self._speaker.window > self._horizon:
            self._horizon *= 2
            self._motions = self._cast.motions(self._horizon, self._options, self._speaker.crop)
        start, self._made = self._made, stop
        frames = islice(self._played, stop - start)
        with self._lock:
            made = generated(
                frames, start, self._cast, self._motions, self._speaker, self._ear.features, self._options, self._known
            )
            results = [frame.result for frame in made]
        yield from results


@dataclass(frozen=True)
class _Hearing:
    """How live features of a kind are computed.

    hop: samples between two rows.
    needs: samples after a row's place, 320 k or 200 k, without which it is not computed.
    context: seconds of sound before the first new row; None: log-mel, which depends on its own window alone.
    step: rows that are computed together, because each computation takes the context's time.
    """

    hop: int
    needs: int
    context: int | None
    step: int = 1


_HEARING = {
    "mel": _Hearing(MEL_HOP, MEL_WINDOW // 2, None),
    "wav2vec2": _Hearing(320, 400, 10),
    "hama": _Hearing(320, 2560, 4, 4),  # 0.16 s of the future
    "whisper": _Hearing(320, 2560, 10, 4),
}


class _Ear:
    """Sound features of sound that arrives in pieces."""

    def __init__(self, speaker: Speaker, lufs: float | None = None):
        self.kind, self._device, self._weights = speaker.audio, str(speaker.device), speaker.ear
        self._leveller, self._way = Leveller(lufs), _HEARING[self.kind]
        self.samples = 0
        self._wav = np.zeros(0, np.float32)  # the latest samples
        self._rows = 0
        self._buffer = np.zeros((1024, FEATURES[self.kind][0]), np.float32)

    @property
    def features(self) -> np.ndarray:
        """(rows, channels) of the sound so far."""
        return self._buffer[: self._rows]

    def needed(self, frame: int) -> int:
        """Number of samples on which the window of `frame` depends."""
        way, last = self._way, int(window_rows(self.kind, [frame])[0, -1])
        return ((last // way.step + 1) * way.step - 1) * way.hop + way.needs

    def hear(self, samples: np.ndarray) -> None:
        self._wav = np.concatenate([self._wav, self._leveller.level(samples)])
        self.samples += len(samples)
        whole = ((self.samples - self._way.needs) // self._way.hop + 1) // self._way.step * self._way.step
        if whole > self._rows:
            self._extend(whole)

    def end(self) -> None:
        """Complete the rows whose windows reach beyond the sound."""
        if self.samples:
            self._extend(sys.maxsize)

    def _extend(self, rows: int) -> None:
        """Compute the rows from those known up to `rows`."""
        held, hop = self.samples - len(self._wav), self._way.hop
        if self._way.context is None:
            # The filter at the start of the samples, and a window that reaches before them, change three rows.
            start = max(0, (self._rows - 4) * hop)
        else:
            frame = SAMPLE_RATE // FPS
            start = max(0, self._rows * hop - self._way.context * SAMPLE_RATE) // frame * frame
        computed = sound_features(self._wav[start - held :], self.kind, self._device, self._weights)
        fresh = computed[self._rows - start // hop : rows - start // hop]
        while self._rows + len(fresh) > len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.zeros_like(self._buffer)])
        self._buffer[self._rows : self._rows + len(fresh)] = fresh
        self._rows += len(fresh)
        self._wav = self._wav[start - held :]
