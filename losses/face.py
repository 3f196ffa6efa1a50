"""L_face, STSA eq. 10: the weighted sum of the face synthesis's loss terms.

L_face = l1 L_perc + l2 L_gan + l3 L_feat + l4 L_sync + l5 L_mi

A term of weight 0 is not computed. A network that no other term needs (VGG-19, sync expert, discriminator) is then not
loaded.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.adversarial import feature_matching_loss, generator_loss
from losses.mutual_information import StepInformation
from losses.perceptual import PerceptualLoss, check_perceptual, perceptual_loss
from losses.sync import frozen_expert, sync_loss
from losses.warp import warp_loss
from media.errors import InputError
from models.face_synthesizer import Alignment, FaceSynthesizerConfig, MutualInformation
from models.sync_expert import SyncExpert


@dataclass
class FaceLosses:
    """Weights of eq. 10's terms, the paper's by default."""

    perceptual: float = 4.0  # weight of L_perc; the authors tuned it with perceptual_input: released
    # Normalisation of VGG-19's input: "imagenet", or "released", the authors', for which the paper's weight 4 is right
    # (configs/stsa_face.yaml).
    perceptual_input: str = "imagenet"
    gram: float = 250.0  # weight of eq. 9's Gram term within L_perc; IP-LAP's, because the paper gives none
    perceptual_scales: int = 2  # image sizes at which L_perc compares features, each half the one before; IP-LAP's
    gan: float = 0.25  # weight of L_gan
    feature: float = 1.0  # weight of L_feat, feature matching in the discriminator
    sync: float = 0.1  # weight of L_sync, which needs `sync_expert`
    mutual_information: float = 0.01  # weight of L_mi, eq. 7
    warp: float = 0.0  # weight of L_warp, not in eq. 10, to pretrain the flow (train.warp_steps); 2.5 in IP-LAP
    without_vgg: str = "stop"  # if VGG-19's weights are absent: "stop", or "skip" L_perc; L_warp then compares pixels


class FaceObjective(nn.Module):
    """The terms of eq. 10, each with its weight, and the frozen networks that they need; and L_warp (losses/warp.py).

    `training.learner.Learner` adds up the terms and takes the gradient of their sum, L_face.

    Args:
        weights, frames, sync_expert: of the run's config.
        network: the synthesizer's config.
        say: prints a term that is left out because its weights are absent; one of several processes prints.
        cil: the synthesizer's CIL module; needed if the weight of L_mi is above 0.

    Attributes:
        information: the pairs of L_mi in a step. Call its `begin` before each step. None without L_mi.

    Raises:
        InputError: a term needs weights or a part of the network that are absent.
    """

    def __init__(
        self,
        weights: FaceLosses,
        network: FaceSynthesizerConfig,
        frames: int,
        sync_expert: str,
        say: Callable[[str], None] = print,
        cil: MutualInformation | None = None,
    ):
        super().__init__()
        if weights.mutual_information > 0 and cil is None:
            raise InputError("the synthesizer has no mutual-information network; set losses.mutual_information=0")
        if weights.warp > 0 and not network.temporal:
            raise InputError("the synthesizer has no temporal path, whose flow warps; set losses.warp=0")
        if weights.without_vgg not in ("stop", "skip"):
            raise InputError(f"losses.without_vgg={weights.without_vgg} is unknown; use stop or skip")
        self.perceptual: PerceptualLoss | None = None
        self.expert: SyncExpert | None = None
        gram, inputs, scales = weights.gram, weights.perceptual_input, weights.perceptual_scales
        check_perceptual(gram, inputs, scales, min(network.crop.shape))
        if weights.perceptual > 0 or weights.warp > 0:
            self.perceptual = perceptual_loss(weights.without_vgg, say, gram_weight=gram, inputs=inputs, scales=scales)
            if self.perceptual is None:
                weights = dataclasses.replace(weights, perceptual=0.0)
        self.weights = weights
        self.information = StepInformation(cil) if cil is not None and weights.mutual_information > 0 else None
        self.adversarial = weights.gan > 0 or weights.feature > 0  # whether it needs a discriminator
        if weights.sync > 0:
            self.expert = frozen_expert(sync_expert, frames, network.crop)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FaceObjective":
        """The frozen networks stay in eval mode."""
        return super().train(False)

    def forward(
        self,
        faces: Tensor,
        batch: dict,
        discriminator: nn.Module | None,
        alignment: Alignment,
    ) -> dict[str, Tensor]:
        """The weighted terms of generated `faces` (B,T,3,H,W).

        Args:
            batch: true `frames` (B,T,3,H,W), `reference_images` (B,N,3,H,W) and
                `sync_audio` (B,1,C,W).
            discriminator: maps (B,T,3,H,W) to the features of each scale; None without adversarial terms.
            alignment: returned by the synthesizer together with `faces`.
        """
        weights, true = self.weights, batch["frames"]
        terms = {}
        if self.perceptual is not None and weights.perceptual > 0:
            terms["perceptual"] = weights.perceptual * self.perceptual(faces, true)
        if discriminator is not None:
            discriminator.requires_grad_(False)  # its own step comes later
            generated = discriminator(faces)
            if weights.gan > 0:
                terms["gan"] = weights.gan * generator_loss(generated)
            if weights.feature > 0:
                with torch.no_grad():
                    real = discriminator(true)
                terms["feature"] = weights.feature * feature_matching_loss(generated, real)
            discriminator.requires_grad_(True)
        if self.expert is not None:
            sound, lips = self.expert(batch["sync_audio"], self.expert.lower_faces(faces))
            terms["sync"] = weights.sync * sync_loss(sound, lips)
        if self.information is not None:
            assert alignment.information is not None  # of a synthesizer with the CIL module
            information = self.information(alignment.information, faces.shape[1])
            terms["mutual_information"] = weights.mutual_information * information
        if weights.warp > 0:
            terms |= self.of_flow(batch, alignment)
        return terms

    def of_flow(self, batch: dict, alignment: Alignment) -> dict[str, Tensor]:
        """Only the weighted warp loss, which trains the flow for the first `train.warp_steps` steps."""
        loss = warp_loss(alignment, batch["reference_images"], batch["frames"], self.perceptual)
        return {"warp": self.weights.warp * loss}
