"""Calibration of a lip-sync expert for L_sync: its -log cos of true pairs of sound and lips should be near 0.

L_sync of STSA's eq. 10 is -log of a cosine and has its minimum at a cosine of 1. Binary cross-entropy (`loss: bce` of
train_sync.py) trains cosines near 1 for true pairs and near 0 for unsynced ones. A contrastive loss depends on
differences of cosines only and does not fix their level: L_sync with such an expert would move correct lips.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from losses.sync import cosine, negative_log
from models.sync_expert import SyncExpert

FURTHEST = 0.5  # largest mean -log cos of true windows; uninformative cosines of 1/2 have 0.69
CLOSEST = 0.2  # smallest difference between unsynced and true windows
_WINDOWS = 16  # embedded in one batch


def calibrated(true: float, unsynced: float | None) -> bool:
    """Whether the mean -log cos of true and of unsynced windows fit L_sync; `unsynced` is None without such windows."""
    return true <= FURTHEST and (unsynced is None or unsynced - true >= CLOSEST)


class SyncLevel:
    """Mean -log cos of generated validation windows, and that of the true windows, which is its target.

    Args:
        expert: the frozen expert of L_sync; its device computes.
        frames: (W, 5, 3, H, W') true RGB windows in [0, 1].
        sounds: (W, 1, C, W''), theirs, as the expert takes them (`data_prep.unsynced.sync_sounds`).
        say: prints a line if the expert is not calibrated; None if no L_sync uses it.

    Attributes:
        true: mean -log cos of the true windows.
        unsynced: mean -log cos of the true windows, each with another window's sound; None for a single window.
    """

    @torch.no_grad()
    def __init__(self, expert: SyncExpert, frames: Tensor, sounds: Tensor, say: Callable[[str], None] | None = print):
        self.expert, self.device = expert, next(expert.parameters()).device
        parts = sounds.split(_WINDOWS)
        self.sound = torch.cat([expert.embed_audio(part.to(self.device)) for part in parts])
        lips = self._embed(frames)
        self.true = self._level(self.sound, lips)
        self.unsynced = self._level(self.sound.roll(1, dims=0), lips) if len(lips) > 1 else None
        if say is not None and not calibrated(self.true, self.unsynced):
            others = "" if self.unsynced is None else f", with the sound of other windows {self.unsynced:.2f}"
            say(
                f"the sync expert is not calibrated for L_sync: -log cos of true validation windows is "
                f"{self.true:.2f}{others}, where {FURTHEST:g} or less and {CLOSEST:g} more are expected; train it with "
                f"loss=bce (configs/stsa_sync.yaml) or set losses.sync=0"
            )

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> dict[str, float]:
        """Mean -log cos of generated `faces` and of the true ones; `faces` has the shape of `frames`."""
        return {"sync": self._level(self.sound, self._embed(faces)), "sync_true": self.true}

    def _embed(self, faces: Tensor) -> Tensor:
        parts = faces.split(_WINDOWS)
        embed = self.expert.embed_faces
        return torch.cat([embed(self.expert.lower_faces(part.to(self.device))) for part in parts])

    def _level(self, sound: Tensor, lips: Tensor) -> float:
        return float(negative_log(cosine(sound, lips)).mean())
