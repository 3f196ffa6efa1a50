"""G4G's training objective (eq. 17): L = l_v L_v + l_p L_p + l_GAN L_GAN + l_r L_r + l_con L_con.

A term of weight 0 is not computed, and networks that only it needs (VGG-19, the discriminator) are not loaded. The
paper defines neither the masks of L_r nor the sum of L_con's two forms; see `reconstruction_loss` and `G4GObjective`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from losses.adversarial import generator_loss
from losses.perceptual import ENDS, PerceptualLoss, perceptual_loss
from losses.reconstruction import hidden_weight, l1_loss, mouth_weight
from losses.sync import contrastive_loss, frozen_expert
from media.crop import CropForm
from media.errors import InputError
from models.g4g import G4GAlignment, G4GConfig, G4GSynthesizer
from models.precision import full_precision, total
from models.sync_expert import SyncExpert


@dataclass
class G4GLosses:
    """Weights of eq. 17's terms; the paper's by default."""

    attribute: float = 1.0  # L_v, eq. 12
    perceptual: float = 2.0  # L_p, eq. 13
    gan: float = 3.0  # L_GAN, eq. 14, summed over the discriminator's scales, of single frames and of windows
    reconstruction: float = 4.0  # L_r, eq. 15
    contrastive: float = 5.0  # L_con, eq. 10 and 16
    multi_scale: bool = True  # the masks of L_r, Table 2's "supervision"; false weighs the whole crop uniformly
    without_vgg: str = "stop"  # if VGG-19's weights are absent: "stop", or "skip" its term


def attribute_loss(visual: Tensor, landmarks: Tensor) -> Tensor:
    """L_v, eq. 12: 1 - cos of the aligned visual features (B, T, d) and the reference's landmark features (B, d).

    No gradient flows into the landmark features: otherwise both could collapse to one constant vector.
    """
    landmarks = full_precision(landmarks.detach())[:, None]
    return (1 - F.cosine_similarity(full_precision(visual), landmarks, dim=-1)).mean()


def reconstruction_loss(
    faces: Tensor, true_faces: Tensor, keypoints: Tensor, crop: CropForm, multi_scale: bool = True
) -> Tensor:
    """L_r, eq. 15: the mean L1 under N masks; here three of decreasing size: the crop, its hidden part and the mouth.

    Args:
        faces, true_faces: (B, T, 3, H, W), in [0, 1].
        keypoints: (B, T, 57, 2), in units of the crop.
        crop: the form of the faces.
        multi_scale: false takes the crop alone.
    """
    whole = l1_loss(faces, true_faces)
    if not multi_scale:
        return whole
    hidden = l1_loss(faces, true_faces, hidden_weight(crop, device=faces.device))
    mouth = l1_loss(faces, true_faces, mouth_weight(keypoints, crop, inside=1.0, outside=0.0))
    return (whole + hidden + mouth) / 3


def freeze_unread(synthesizer: G4GSynthesizer, weights: G4GLosses) -> None:
    """Freeze the heads that only terms of weight 0 use: several processes would wait for their gradients."""
    synthesizer.to_landmarks.requires_grad_(weights.attribute > 0)
    for head in (synthesizer.see, synthesizer.hear):
        if head is not None:
            head.requires_grad_(weights.contrastive > 0)


class G4GObjective(nn.Module):
    """Eq. 17: every term of non-zero weight, with the frozen networks that it needs.

    `training.learner.Learner` adds up the terms.

    L_con is half the sum of two contrastive losses:

    - eq. 10, on the aligned features of the windows' middle frames, if the network has the alignment;
    - eq. 16, on a sync expert's embeddings of the generated windows, if an expert is given.

    The negatives of both are the process's other windows. These are mostly of other speakers, whom face and voice
    distinguish without any lip-sync. Further negatives of a face are the batch's unsynced sounds of the same clip
    ("unsynced audio-image pairs", 3.3).

    Args:
        weights, frames, sync_expert: of the run's config; `sync_expert` may be empty.
        network: the synthesizer's config.
        say: prints which term is left out because its weights are absent; one of several processes prints.

    Raises:
        InputError: a term needs weights or a part of the network that are absent.
    """

    def __init__(
        self,
        weights: G4GLosses,
        network: G4GConfig,
        frames: int,
        sync_expert: str,
        say: Callable[[str], None] = print,
    ):
        super().__init__()
        if weights.without_vgg not in ("stop", "skip"):
            raise InputError(f"losses.without_vgg={weights.without_vgg} is unknown; use stop or skip")
        if weights.contrastive > 0 and not network.alignment and not sync_expert:
            raise InputError(
                "without model.alignment the contrastive loss needs an expert; give sync_expert=FOLDER "
                "(train_sync.py) or =lipsync_expert.pth (python -m checkpoints.fetch sync_expert), or set "
                "losses.contrastive=0"
            )
        self.weights = weights
        self.crop = network.crop
        self.perceptual: PerceptualLoss | None = None
        self.expert: SyncExpert | None = None
        self.adversarial = weights.gan > 0  # whether it needs a discriminator
        if weights.perceptual > 0:
            self.perceptual = perceptual_loss(weights.without_vgg, say, gram_weight=0.0)
        if weights.contrastive > 0 and sync_expert:
            self.expert = frozen_expert(sync_expert, frames, network.crop)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "G4GObjective":
        """The frozen networks stay in eval mode."""
        return super().train(False)

    def forward(
        self, faces: Tensor, batch: dict, discriminator: nn.Module | None, alignment: G4GAlignment
    ) -> dict[str, Tensor]:
        """The weighted terms for generated `faces` (B, T, 3, H, W).

        Args:
            batch: true `frames` (B, T, 3, H, W), `keypoints` (B, T, 57, 2), `sync_audio` (B, 1, C, W) and, with
                unsynced sounds, `sync_negatives` (B, K, 1, C, W).
            discriminator: takes (B, T, 3, H, W), scores frames and windows; None without the adversarial term.
            alignment: the network's alignment features of the same windows.
        """
        weights, true = self.weights, batch["frames"]
        terms = {}
        if weights.attribute > 0:
            terms["attribute"] = weights.attribute * attribute_loss(alignment.visual, alignment.landmarks)
        if self.perceptual is not None:  # eq. 13: a mean over two scales and the layers
            count = self.perceptual.scales * len(ENDS)
            terms["perceptual"] = weights.perceptual * self.perceptual(faces, true) / count
        if discriminator is not None:
            discriminator.requires_grad_(False)  # its own step comes later
            terms["gan"] = weights.gan * generator_loss(discriminator(faces))
            discriminator.requires_grad_(True)
        if weights.reconstruction > 0:
            difference = reconstruction_loss(faces, true, batch["keypoints"], self.crop, weights.multi_scale)
            terms["reconstruction"] = weights.reconstruction * difference
        if weights.contrastive > 0:
            pairs = []
            if alignment.visual_embedding is not None:
                assert alignment.audio_embedding is not None  # as `visual_embedding`, of a network that aligns
                middle = faces.shape[1] // 2
                pairs.append(
                    (alignment.audio_embedding[:, middle], alignment.visual_embedding[:, middle], alignment.unsynced)
                )
            if self.expert is not None:
                sound, face = self.expert(batch["sync_audio"], self.expert.lower_faces(faces))
                pairs.append((sound, face, _embed_unsynced(self.expert, batch)))
            losses = [contrastive_loss(sound, face, negatives=unsynced) for sound, face, unsynced in pairs]
            terms["contrastive"] = weights.contrastive / 2 * total(losses)
        return terms


def _embed_unsynced(expert: SyncExpert, batch: dict) -> Tensor | None:
    """The expert's embeddings of `sync_negatives`, (B, K, D); None without them."""
    if "sync_negatives" not in batch:
        return None
    sounds = batch["sync_negatives"]
    return expert.embed_audio(sounds.flatten(0, 1)).unflatten(0, sounds.shape[:2])
