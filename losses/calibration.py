"""The level of L_sync: whether a lip-sync expert's -log cos is near 0 where sound and lips belong together.

L_sync of STSA's eq. 10 is -log of a cosine and has its minimum at a cosine of 1. Binary cross-entropy (`loss: bce` of
train_sync.py) trains cosines near 1 for true pairs and near 0 for unsynced ones. A contrastive loss depends on
differences of cosines only: any level of theirs is as good, and L_sync would then pull true lips away from the truth.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from losses.sync import cosine, negative_log
from models.sync_expert import SyncExpert, lower_faces

FURTHEST = 0.5  # the largest mean -log cos of true windows; cosines of 1/2, which tell nothing, have 0.69
CLOSEST = 0.2  # how much larger it has to be with unsynced sound
_WINDOWS = 16  # that are embedded together


def calibrated(true: float, unsynced: float | None) -> bool:
    """Whether mean -log cos of true and of unsynced windows fit L_sync; None where there are no unsynced ones."""
    return true <= FURTHEST and (unsynced is None or unsynced - true >= CLOSEST)


class SyncLevel:
    """Mean -log cos of generated validation windows, and of the true ones, which it should come near to.

    Args:
        expert: the frozen expert of L_sync; the work is done on its device.
        frames: (W, 5, 3, H, W') true RGB windows in [0, 1].
        mel: (W, 1, 80, 16), their sounds.
        say: prints that the expert is not calibrated; None where it supervises no L_sync.

    Attributes:
        true: mean -log cos of the true windows.
        unsynced: of the true windows with the sound of another window; None of a single window.
    """

    @torch.no_grad()
    def __init__(self, expert: SyncExpert, frames: Tensor, mel: Tensor, say: Callable[[str], None] | None = print):
        self.expert, self.device = expert, next(expert.parameters()).device
        parts = mel.split(_WINDOWS)
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
        """Of generated `faces` and of the true ones; `faces` has the shape of `frames`."""
        return {"sync": self._level(self.sound, self._embed(faces)), "sync_true": self.true}

    def _embed(self, faces: Tensor) -> Tensor:
        parts = faces.split(_WINDOWS)
        return torch.cat([self.expert.embed_faces(lower_faces(part.to(self.device))) for part in parts])

    def _level(self, sound: Tensor, lips: Tensor) -> float:
        return float(negative_log(cosine(sound, lips)).mean())
