"""Scores of generated face crops in memory: what the training scripts validate with."""

import torch
from torch import Tensor

from metrics.image import psnr, ssim


def with_upper_half(faces: Tensor, true_faces: Tensor) -> Tensor:
    """`faces` with rows 0 to H/2 taken from `true_faces`, both (..., 3, H, W): what a dubbed crop consists of."""
    half = faces.shape[-2] // 2
    return torch.cat([true_faces[..., :half, :], faces[..., half:, :]], dim=-2)


def crop_scores(faces: Tensor, true_faces: Tensor) -> dict[str, Tensor]:
    """PSNR in dB and SSIM (Gaussian 11x11) of each crop, upper halves as given.

    Args:
        faces, true_faces: (M, 3, H, W), RGB in [0, 1].

    Returns:
        "PSNR" and "SSIM", each (M,).
    """
    faces = with_upper_half(faces, true_faces).clamp(0, 1)
    return {"PSNR": psnr(faces, true_faces), "SSIM": ssim(faces, true_faces)}
