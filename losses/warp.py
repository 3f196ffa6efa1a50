"""L_warp, IP-LAP's warp loss: compares the true frames with the warped and summed reference images.

L_warp = sum_i ||phi_i(sum_n w_n I_n(u_n) / sum_n w_n) - phi_i(I_g)||_1

u_n and w_n are the flow and the weight of reference n (STSA eq. 6), phi_i the features of eq. 9 at its scales; no Gram
matrices. STSA's eq. 10 has no such term. IP-LAP (Zhong et al., CVPR 2023; `train_video_renderer.py` of its code) gives
it the weight 2.5, trains with it alone for the first 25 epochs, and keeps it in the sum afterwards.
"""

import torch
from torch import Tensor

from losses.perceptual import PerceptualLoss
from losses.reconstruction import l1_loss
from media.crop import CropForm
from models.face_synthesizer import Alignment
from models.layers import repeated
from models.precision import full_precision
from models.temporal import warp_and_sum


def warped_references(alignment: Alignment, reference_images: Tensor) -> Tensor:
    """Warp the reference images by the temporal path's flow, and take their mean by its weights.

    Args:
        alignment: of B windows of T frames, with `grid` and `weights`.
        reference_images: (B, N, 3, H, W) in [0, 1].

    Returns:
        (B, T, 3, H, W) in [0, 1], black where the flow points outside every reference image.
    """
    assert alignment.grid is not None and alignment.weights is not None  # the network has a temporal path
    grid, weights = full_precision(alignment.grid), full_precision(alignment.weights)
    shape = grid.shape[:2]
    images = repeated(full_precision(reference_images), shape[1])
    return warp_and_sum(images, grid.flatten(0, 2), weights.flatten(0, 2)).unflatten(0, shape)


def warp_loss(
    alignment: Alignment, reference_images: Tensor, true_frames: Tensor, perceptual: PerceptualLoss | None
) -> Tensor:
    """L_warp, a scalar; without VGG-19 (`perceptual` None) the mean absolute difference of the same images.

    `true_frames`: (B, T, 3, H, W) in [0, 1]. The other arguments are those of `warped_references`.
    """
    warped = warped_references(alignment, reference_images)
    return l1_loss(warped, true_frames) if perceptual is None else perceptual(warped, true_frames, grams=False)


def warp_score(alignment: Alignment, batch: dict, crop: CropForm) -> dict[str, float]:
    """Validation scalar: PSNR in dB of the hidden part of `warped_references`, mean over frames.

    Empty for a network without a temporal path.

    Args:
        alignment: of all frames of `batch`.
        batch: `reference_images` (B, N, 3, H, W) and true `frames` (B, T, 3, H, W).
        crop: their form.
    """
    if alignment.grid is None:
        return {}
    difference = warped_references(alignment, batch["reference_images"]) - full_precision(batch["frames"])
    hidden = difference[..., *crop.hidden_pixels]
    return {"val/warp_PSNR": float(-10 * torch.log10(hidden.square().mean(dim=(-3, -2, -1))).mean())}
