"""L_face, STSA eq. 10: the weighted sum of the face synthesis's loss terms.

L_face = l1 L_perc + l2 L_gan + l3 L_feat + l4 L_sync + l5 L_mi

A term at weight 0 is not computed, and what only it needs (VGG-19, the sync expert, the discriminator) is not loaded.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extensions.losses import landmark_flow_loss
from losses.adversarial import feature_matching_loss, generator_loss
from losses.mutual_information import StepInformation
from losses.perceptual import check_perceptual, perceptual_loss
from losses.reconstruction import gradient_loss, hidden_weight, l1_loss, mouth_weight, ssim_loss
from losses.sync import frozen_expert, sync_loss
from losses.warp import warp_loss
from media.crop import CropForm
from media.errors import InputError
from models.face_synthesizer import Alignment, FaceSynthesizerConfig, MutualInformation
from models.sync_expert import lower_faces


@dataclass
class FaceLosses:
    """Weights of eq. 10's terms, the paper's by default, and of terms that the paper does not have."""

    perceptual: float = 4.0  # tuned with perceptual_input: released, as configs/stsa_face.yaml has it
    perceptual_input: str = "imagenet"  # or "released", the authors' normalisation of VGG-19's input
    gram: float = 250.0  # weight of eq. 9's Gram term within L_perc; the paper gives none, this is IP-LAP's
    perceptual_scales: int = 2  # image sizes at which L_perc compares features, each half the one before; IP-LAP's
    gan: float = 0.25  # of L_gan
    feature: float = 1.0  # of L_feat, feature matching in the discriminator
    sync: float = 0.1  # of L_sync, which needs `sync_expert`
    mutual_information: float = 0.01  # of L_mi, eq. 7
    l1: float = 0.0  # of the pixels' L1 distance
    gradient: float = 0.0  # of the L1 distance of the images' finite differences
    ssim: float = 0.0  # of 1 - SSIM
    mouth: float = 1.0  # weight of the pixels around the lips in the pixel terms; 1: as all others
    upper: float = 1.0  # weight of the upper half in the pixel terms, which dubbing takes from the source
    flow: float = 0.0  # of the distance in pixels between the landmarks that the flow reads and the references' own
    warp: float = 0.0  # of IP-LAP's warp loss, 2.5 there: the warped references' perceptual distance; train.warp_steps
    without_vgg: str = "stop"  # where VGG-19's weights are absent: "stop", "skip" its term, or "l1" in its place
    l1_without_vgg: float = 1.0  # the weight that `l1` then has, with without_vgg: l1; `warp` keeps its weight


class FaceObjective(nn.Module):
    """Eq. 10: every term that has a weight, with the frozen networks it needs.

    Args:
        weights, frames, sync_expert: of the run's config.
        network: the synthesizer's config.
        say: prints what takes the place of a term whose weights are absent; of several processes, in one.
        cil: the synthesizer's CIL module, where L_mi has a weight.

    Attributes:
        information: the pairs of L_mi in a step, whose `begin` is called before each; None where L_mi has no weight.

    Raises:
        InputError: a term needs weights that are not there, or a part that the network lacks.
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
        if weights.flow > 0 and not network.temporal:
            raise InputError("the synthesizer has no temporal path, whose flow it is; set losses.flow=0")
        if weights.warp > 0 and not network.temporal:
            raise InputError("the synthesizer has no temporal path, whose flow warps; set losses.warp=0")
        if weights.without_vgg not in ("stop", "skip", "l1"):
            raise InputError(f"losses.without_vgg={weights.without_vgg} is unknown; use stop, skip or l1")
        self.perceptual = self.expert = None
        self.crop = CropForm.square(network.size)
        options = {"gram_weight": weights.gram, "inputs": weights.perceptual_input, "scales": weights.perceptual_scales}
        check_perceptual(**options, size=min(self.crop.shape))
        if weights.perceptual > 0 or weights.warp > 0:
            instead = weights.without_vgg == "l1"
            at = f"the L1 term at weight {weights.l1_without_vgg:g}" if weights.perceptual > 0 else "L1"
            said = f", with {at} in its place" if instead else ""
            self.perceptual = perceptual_loss(weights.without_vgg, say, said, **options)
            if self.perceptual is None and not instead:
                weights = dataclasses.replace(weights, perceptual=0.0, warp=0.0)
            elif self.perceptual is None and weights.perceptual > 0:
                weights = dataclasses.replace(weights, perceptual=0.0, l1=weights.l1_without_vgg)
        self.weights = weights
        self.information = StepInformation(cil) if weights.mutual_information > 0 else None
        self.adversarial = weights.gan > 0 or weights.feature > 0  # whether it asks a discriminator
        if weights.sync > 0:
            self.expert = frozen_expert(sync_expert, frames)
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
        """The weighted terms for generated `faces` (B,T,3,H,W).

        Args:
            batch: true `frames` (B,T,3,H,W), `landmarks` (B,T,57,2), `points` (B,T,131,2), `reference_images`
                (B,N,3,H,W), `reference_points` (B,N,131,2) and `mel` (B,1,80,16).
            discriminator: maps (B,T,3,H,W) to the features of each scale; None without adversarial terms.
            alignment: of the synthesis of `faces`.
        """
        weights, true = self.weights, batch["frames"]
        terms = {}
        if weights.l1 > 0 or weights.gradient > 0 or weights.ssim > 0:
            pixels = mouth_weight(batch["landmarks"], self.crop, weights.mouth)
            pixels = pixels * hidden_weight(self.crop, outside=weights.upper, device=pixels.device)
            if weights.l1 > 0:
                terms["l1"] = weights.l1 * l1_loss(faces, true, pixels)
            if weights.gradient > 0:
                terms["gradient"] = weights.gradient * gradient_loss(faces, true, pixels)
            if weights.ssim > 0:
                terms["ssim"] = weights.ssim * ssim_loss(faces, true, pixels)
        if weights.perceptual > 0:
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
            sound, lips = self.expert(batch["mel"], lower_faces(faces))
            terms["sync"] = weights.sync * sync_loss(sound, lips)
        if self.information is not None:
            information = self.information(alignment.information, faces.shape[1])
            terms["mutual_information"] = weights.mutual_information * information
        if weights.flow > 0:
            terms["flow"] = weights.flow * landmark_flow_loss(
                alignment.grid, batch["points"], batch["reference_points"]
            )
        if weights.warp > 0:
            terms |= self.of_flow(batch, alignment)
        return terms

    def of_flow(self, batch: dict, alignment: Alignment) -> dict[str, Tensor]:
        """The weighted warp loss alone, by which the flow trains for the first `train.warp_steps` steps."""
        loss = warp_loss(alignment, batch["reference_images"], batch["frames"], self.perceptual)
        return {"warp": self.weights.warp * loss}
