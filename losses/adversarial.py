"""L_gan and L_feat of STSA eq. 10, L_GAN of G4G eq. 14: least squares (Mao et al., 2017) and feature matching.

All take the output of `PatchDiscriminator`: for each scale a list of its layers' features, the last of which are the
patch scores. As in pix2pixHD and IP-LAP, the adversarial terms are summed over the scales.
"""

from torch import Tensor

from models.precision import full_precision, total

Features = list[list[Tensor]]

FEATURE_WEIGHT = 2.5
LAYERS_WEIGHT = 4.0


def discriminator_loss(real: Features, generated: Features) -> Tensor:
    """The discriminator's loss, sum_scales (E[(D(x) - 1)^2] + E[D(G)^2]) / 2.

    `generated` comes from detached images.
    """
    return total(_distance(r, 1.0) + _distance(g, 0.0) for r, g in zip(real, generated, strict=True)) / 2


def generator_loss(generated: Features) -> Tensor:
    """The generator's loss, sum_scales E[(D(G) - 1)^2], with the discriminator frozen."""
    return total(_distance(scale, 1.0) for scale in generated)


def feature_matching_loss(generated: Features, real: Features) -> Tensor:
    """Sum over scales and layers of 2.5 / scales * 4 / (layers + 1) * mean |f(G) - f(x)|.

    The layers + 1 feature maps before the patch scores are compared; no gradient flows into `real`.
    """
    distances = []
    for generated_scale, real_scale in zip(generated, real, strict=True):
        weight = FEATURE_WEIGHT / len(generated) * LAYERS_WEIGHT / (len(generated_scale) - 1)
        for g, r in zip(generated_scale[:-1], real_scale[:-1], strict=True):
            distances.append(weight * (full_precision(g) - full_precision(r.detach())).abs().mean())
    return total(distances)


def _distance(features: list[Tensor], target: float) -> Tensor:
    return (full_precision(features[-1]) - target).square().mean()
