"""Loads the networks of a checkpoint folder for dubbing."""

import os
from pathlib import Path

import cv2
import torch

from dubbing.g4g import G4GSpeaker
from dubbing.speaker import Speaker
from dubbing.stsa import StsaSpeaker
from media import hama
from models import is_g4g, load_checkpoint, load_network


def load_speaker(
    folder: str | os.PathLike, device: torch.device, precision: str | None = None, batch_size: int | None = None
) -> Speaker:
    """Load a checkpoint folder's networks as a `Speaker`: G4G's if the folder holds it alone, else STSA's two.

    The other arguments are those of `Speaker`.

    Raises:
        InputError: a network is missing or wrong, or the device does not support the precision.
    """
    speaker: Speaker
    if is_g4g(folder):
        speaker = G4GSpeaker(load_network(folder, "g4g_synthesizer"), device, precision, batch_size)
    else:
        speaker = StsaSpeaker(*load_checkpoint(folder), device, precision, batch_size)
    speaker.folder = Path(folder)
    if speaker.audio == "hama":
        speaker.ear = hama.encoder_file(folder)
    return speaker


def share_cores(device: torch.device) -> None:
    """Where the networks run on the CPU, run OpenCV in one thread: stages that run at once take the cores."""
    if device.type == "cpu":
        cv2.setNumThreads(1)
