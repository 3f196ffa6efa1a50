"""Further supervision of a lip-sync expert that is trained on few people: visemes, and the mouth's motion.

Not in the papers. From similarities only, a network that is trained on few people learns speaker identity and no lip
sync. `train_sync.py` imports this file if a config has `speech`, `motion` or `freeze_speech`; README.md has the
results.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.sync import SyncDataset
from data_prep.windows import mirrored_landmarks
from extensions.landmark_maps import mouth_motion
from extensions.lessons import VisemeTraining, learn_visemes
from media.heatmap import LIP_KEYPOINTS, LIP_POINTS
from models.layers import scaled
from models.sync_expert import FRAMES, SyncExpert

_CACHE = 64 * 2**20  # bytes of cached motions in a process
_STEP = 0.02  # unit of the head's outputs, about the amplitude of a mouth's motion, in units of the crop


class MotionDataset(SyncDataset):
    """`SyncDataset` whose items also have the motion of the mouth.

    motion (5, 57, 2): the frames' pose-normalised keypoints minus the clip's median keypoints, in units of the crop; 17
    of the jaw, then 40 of the lips. It is computed from the landmarks of all frames of a clip.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._motions: OrderedDict[tuple[int, bool], Tensor] = OrderedDict()

    def more(self, which: int, first: int, mirrored: bool) -> dict[str, Tensor]:
        return {"motion": self._motion(which, mirrored)[first : first + FRAMES]}

    def _motion(self, which: int, mirrored: bool) -> Tensor:
        """Motion of a clip's keypoints, (F, 57, 2), from a cache of at most 64 MB a process."""
        if (which, mirrored) not in self._motions:
            points = self.clips[which].landmarks
            motion = mouth_motion(torch.from_numpy(mirrored_landmarks(points) if mirrored else points))
            self.clips[which].forget()  # the landmarks of thousands of clips would fill the memory
            self._motions[which, mirrored] = motion
            while sum(each.nbytes for each in self._motions.values()) > _CACHE and len(self._motions) > 1:
                self._motions.popitem(last=False)
        self._motions.move_to_end((which, mirrored))
        return self._motions[which, mirrored]


class ExpertAndMotion(nn.Module):
    """The expert and, in training only, a linear head that predicts the lips' motion from either embedding.

    Both embeddings share the head, so that both represent the mouth's motion.
    """

    def __init__(self, expert: SyncExpert):
        super().__init__()
        self.expert = expert
        self.head = nn.Linear(scaled(512, expert.config.width), FRAMES * len(LIP_POINTS) * 2)

    def forward(self, mel: Tensor, lower_faces: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embed sounds (B, 1 + N, 1, 80, 16), each face's own sound first, and faces (B, 15, 48, 96).

        Returns:
            The embeddings of the sounds (B, 1 + N, D) and faces (B, D); the motions that the head predicts from the
            faces and from their own sounds, (B, 5, 40, 2) each in units of the crop.
        """
        sounds, face = self.expert(mel.flatten(0, 1), lower_faces)
        sounds = sounds.unflatten(0, mel.shape[:2])
        read = [self.head(x * x.shape[1] ** 0.5) for x in (face, sounds[:, 0])]
        motions = [_STEP * motion.unflatten(1, (FRAMES, len(LIP_POINTS), 2)) for motion in read]
        return sounds, face, *motions


def motion_terms(of_faces: Tensor, of_sounds: Tensor, motion: Tensor, weight: float) -> dict[str, Tensor]:
    """The weighted mean distances of predicted motions (B, 5, 40, 2) from a batch's true `motion` (B, 5, 57, 2)."""
    true = motion[..., LIP_KEYPOINTS, :]
    predicted = {"face_motion": of_faces, "sound_motion": of_sounds}
    return {name: weight * F.l1_loss(each.float(), true) for name, each in predicted.items()}


def learn_speech(expert: SyncExpert, config: VisemeTraining, seed: int, output: str | Path) -> None:
    """Pretrain the expert's audio encoder on the visemes of synthetic speech; its parameters stay trainable."""
    places = range(1, 16, 3)  # the middles of the five frames
    encoder = expert.audio_encoder
    learn_visemes(encoder, lambda mel: encoder(mel[:, None]).flatten(1), config, seed, output, places)
    encoder.requires_grad_(True)
