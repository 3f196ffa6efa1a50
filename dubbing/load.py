"""From a checkpoint folder to what makes faces speak."""

import os

import torch

from dubbing.g4g import G4GSpeaker
from dubbing.speaker import Speaker
from dubbing.stsa import StsaSpeaker
from models import is_g4g, load_checkpoint, load_network


def load_speaker(
    folder: str | os.PathLike, device: torch.device, precision: str | None = None, batch_size: int | None = None
) -> Speaker:
    """The networks of a checkpoint folder, as dubbing uses them: G4G's where it holds that alone, else STSA's two.

    The other arguments are those of `Speaker`.

    Raises:
        InputError: a network is missing or wrong, or the device cannot compute so.
    """
    if is_g4g(folder):
        return G4GSpeaker(load_network(folder, "g4g_synthesizer"), device, precision, batch_size)
    return StsaSpeaker(*load_checkpoint(folder), device, precision, batch_size)
