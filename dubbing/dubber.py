"""`Dubber`: the Python interface to dubbing."""

import argparse
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from dubbing.live import Live
from dubbing.load import load_speaker
from dubbing.options import DubOptions, usual_load
from dubbing.pipeline import Summary, dub, prepare
from dubbing.prepared import Prepared
from media.errors import InputError
from media.files import DEMO
from models.devices import usable_device


class Dubber:
    """The networks of a checkpoint, loaded once for any number of dubs.

        dubber = Dubber()
        summary = dubber.dub("person.mp4", "speech.wav", "dubbed.mp4")
        print(summary.frames, summary.untouched)

    Threads may share a `Dubber`: it dubs one video at a time, and further calls wait.

    Args:
        checkpoint: folder of networks, of STSA or G4G.
        device: "cpu", "cuda", a `torch.device`, or "auto" for CUDA where there is one.
        precision: of the networks' matrix products: "float32", "bf16" or "fp16"; None is fp16 on CUDA, else float32.
        batch_size: faces generated at once; None is 32 on CUDA, else 4.

    Raises:
        InputError: a network is missing or wrong, the device cannot be used or does not support the precision.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEMO,
        device: str | torch.device = "auto",
        precision: str | None = None,
        batch_size: int | None = None,
    ):
        try:
            self.device = usable_device(str(device))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"device {error}") from error
        self._usual = usual_load(self.device.type)
        if batch_size is not None:
            self._usual["batch_size"] = batch_size
        self.speaker = load_speaker(checkpoint, self.device, precision, self._usual["batch_size"])
        self._lock = threading.Lock()

    def options(self, **options: Any) -> DubOptions:
        """The options of a dub, with this `Dubber`'s defaults; shows no progress unless `progress` is given.

        Args:
            options: fields of `DubOptions`.
        """
        return DubOptions(**{"progress": None, **self._usual, **options})

    def dub(
        self, video: str | os.PathLike | Prepared, audio: str | os.PathLike, output: str | os.PathLike, **options: Any
    ) -> Summary:
        """Dub `video` with the speech in `audio` and write the result to `output`; see `dubbing.dub`.

        Args:
            options: fields of `DubOptions`.

        Raises:
            InputError: an input cannot be used, or the output cannot be written; no file is left behind.
        """
        with self._lock:
            return dub(video, audio, output, self.speaker, self.options(**options))

    def prepare(self, video: str | os.PathLike, **options: Any) -> Prepared:
        """Track a video's faces and encode its references once, for several dubs of it; see `dubbing.pipeline.prepare`.

        `Prepared.save` and `Prepared.load` keep the result in a file.

        Args:
            options: fields of `DubOptions`.

        Raises:
            InputError: the video cannot be read, or shows no face.
        """
        with self._lock:
            return prepare(video, [self.speaker], self.options(**options))

    def live(
        self,
        prepared: Prepared,
        clock: Callable[[], float] = time.monotonic,
        lufs: float | None = None,
        **options: Any,
    ) -> Live:
        """Pictures of a prepared person that speaks sound which is still arriving; see `Live`.

        On CUDA, make the `Dubber` with a `batch_size` of 4 or less: the networks run on so many faces at a time.

        Args:
            clock: seconds, by which sound is late.
            lufs: the voice's loudness (`media.loudness.loudness`), where it is known beforehand.
            options: fields of `DubOptions`.

        Raises:
            InputError: the video cannot be read, has another frame rate, or shows no face.
        """
        with self._lock:
            return Live(prepared, self.speaker, self.options(**options), self._lock, clock, lufs)
