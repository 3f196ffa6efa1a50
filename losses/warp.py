"""L_warp, IP-LAP's warp loss: the references' images, warped and summed as their features are, against the true frames.

L_warp = sum_i ||phi_i(sum_n w_n I_n(u_n) / sum_n w_n) - phi_i(I_g)||_1

u_n and w_n are the flow and the weight of reference n (STSA eq. 6), phi_i the features of eq. 9 at its scales; no Gram
matrices. Not in STSA's eq. 10. IP-LAP (Zhong et al., CVPR 2023; `train_video_renderer.py` of its code) gives it the
weight 2.5, trains by it alone for the first 25 epochs, and keeps it in the sum afterwards.
"""

import torch
from torch import Tensor

from losses.perceptual import PerceptualLoss
from losses.reconstruction import l1_loss
from models.face_synthesizer import Alignment
from models.layers import repeated
from models.precision import full_precision
from models.temporal import warp_and_sum


def warped_references(alignment: Alignment, reference_images: Tensor) -> Tensor:
    """The faces that the temporal path's flow and weights make of the references' own pixels.

    Args:
        alignment: of B windows of T frames, with `grid` and `weights`.
        reference_images: (B, N, 3, H, W) in [0, 1].

    Returns:
        (B, T, 3, H, W) in [0, 1], black where no reference is read from inside its image.
    """
    grid, weights = full_precision(alignment.grid), full_precision(alignment.weights)
    shape = grid.shape[:2]
    images = repeated(full_precision(reference_images), shape[1])
    return warp_and_sum(images, grid.flatten(0, 2), weights.flatten(0, 2)).unflatten(0, shape)


def warp_loss(
    alignment: Alignment, reference_images: Tensor, true_frames: Tensor, perceptual: PerceptualLoss | None
) -> Tensor:
    """L_warp, a scalar; without VGG-19 (`perceptual` None) the mean absolute difference of the same images.

    `true_frames` (B, T, 3, H, W) in [0, 1]; the rest as `warped_references` takes it.
    """
    warped = warped_references(alignment, reference_images)
    return l1_loss(warped, true_frames) if perceptual is None else perceptual(warped, true_frames, grams=False)


def warp_score(alignment: Alignment, batch: dict) -> dict[str, float]:
    """PSNR in dB of `warped_references`' lower half, the mean over frames, as a validation logs it.

    Empty without a temporal path.

    Args:
        alignment: of all frames of `batch`.
        batch: `reference_images` (B, N, 3, H, W) and true `frames` (B, T, 3, H, W).
    """
    if alignment.grid is None:
        return {}
    difference = warped_references(alignment, batch["reference_images"]) - full_precision(batch["frames"])
    hidden = difference[..., difference.shape[-2] // 2 :, :]
    return {"val/warp_PSNR": float(-10 * torch.log10(hidden.square().mean(dim=(-3, -2, -1))).mean())}
