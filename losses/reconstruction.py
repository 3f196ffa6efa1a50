"""The L1 loss of G4G's eq. 15, and the weights of the hidden part's and of the mouth's pixels (losses/g4g.py)."""

import torch
from torch import Tensor

from media.crop import CropForm
from media.heatmap import LIP_KEYPOINTS
from models.precision import full_precision

MOUTH_MARGIN = 0.08  # from the lips to the box of `mouth_weight`, share of the crop's width or height


def l1_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference.

    Args:
        faces, true_faces: (B, T, 3, H, W), in [0, 1].
        weight: non-negative weights of the pixels, which broadcast to (B, T, 1, H, W); None: equal weights.

    Returns:
        A scalar, sum(weight |difference|) / sum(weight): a constant weight changes nothing.
    """
    return weighted_mean((full_precision(faces) - full_precision(true_faces)).abs(), weight)


def hidden_weight(crop: CropForm, outside: float = 0.0, device=None) -> Tensor:
    """(H, W): 1 where `crop` is hidden, the part of the face that the network generates, `outside` elsewhere."""
    weight = torch.full(crop.shape, float(outside), device=device)
    weight[crop.hidden_pixels] = 1
    return weight


def mouth_weight(keypoints: Tensor, crop: CropForm, inside: float, outside: float = 1.0) -> Tensor:
    """Weights of the pixels: `inside` in a box around the lips with a margin of `MOUTH_MARGIN`, else `outside`.

    Args:
        keypoints: (B, T, 57, 2), x and y in units of the face crop, jaw first.
        crop: the form of the faces.

    Returns:
        (B, T, 1, H, W), without a gradient.
    """
    lips = full_precision(keypoints.detach())[..., LIP_KEYPOINTS, :]
    low = lips.amin(dim=-2)[..., None, None] - MOUTH_MARGIN  # (B, T, 2, 1, 1)
    high = lips.amax(dim=-2)[..., None, None] + MOUTH_MARGIN
    x, y = ((torch.arange(n, device=lips.device, dtype=lips.dtype) + 0.5) / n for n in (crop.width, crop.height))
    within_x = (x >= low[..., 0, :, :]) & (x <= high[..., 0, :, :])  # (B, T, 1, W)
    within_y = (y >= low[..., 1, :, :]) & (y <= high[..., 1, :, :])
    within = within_y[..., :, None] & within_x[..., None, :]  # (B, T, 1, H, W)
    return torch.where(within, inside, outside).to(lips.dtype)


def weighted_mean(x: Tensor, weight: Tensor | None) -> Tensor:
    """sum(weight x) / sum(weight), a scalar, with weights that broadcast to x; without them, the mean."""
    if weight is None:
        return x.mean()
    weight = full_precision(weight).expand_as(x)
    return (weight * x).sum() / weight.sum().clamp_min(torch.finfo(x.dtype).tiny)
