"""Pixel terms that the STSA paper does not have, for small models trained without VGG-19.

Eq. 10 has no pixel term: the perceptual loss draws the face. Where the weights of VGG-19 are absent, a config names
these in its place: L1, the L1 of the images' gradients (Mathieu et al., 2016), which punishes blur that a plain L1
forgives, and 1 - SSIM. All take a weight a pixel, so that the lips, some 5 % of the crop, are not lost in the mean.
G4G's eq. 15 takes `l1_loss` under three masks (losses/g4g.py).
"""

import torch
from torch import Tensor

from media.crop import CropForm
from media.heatmap import LIP_KEYPOINTS
from models.precision import exact, full_precision, without_autocast


def l1_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference.

    Args:
        faces, true_faces: (B, T, 3, H, W), in [0, 1].
        weight: weights a pixel, not negative, that broadcast to (B, T, 1, H, W); None weighs all alike.

    Returns:
        A scalar, sum(weight |difference|) / sum(weight): a constant weight changes nothing.
    """
    return _weighted_mean((full_precision(faces) - full_precision(true_faces)).abs(), weight)


def gradient_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the images' finite differences, the mean of the two directions.

    Arguments as in `l1_loss`. A constant offset in brightness costs nothing.
    """
    difference = full_precision(faces) - full_precision(true_faces)
    down = _weighted_mean(difference.diff(dim=-2).abs(), None if weight is None else weight[..., 1:, :])
    across = _weighted_mean(difference.diff(dim=-1).abs(), None if weight is None else weight[..., :, 1:])
    return (down + across) / 2


def ssim_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - SSIM (Gaussian 11x11, as `metrics.image.ssim` measures it), the weighted mean over pixels and colours.

    Arguments as in `l1_loss`, H and W at least 11.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    made, true = (exact(x).flatten(0, 1).contiguous(memory_format=torch.channels_last) for x in (faces, true_faces))
    with without_autocast(faces):
        _, similarity = structural_similarity_index_measure(made, true, data_range=1.0, return_full_image=True)
    return _weighted_mean(1 - similarity.view_as(faces), weight).to(full_precision(faces).dtype)


def hidden_weight(crop: CropForm, inside: float = 1.0, outside: float = 0.0, device=None) -> Tensor:
    """(H, W): `inside` where `crop` is hidden, the part of the face that the network generates, `outside` elsewhere."""
    weight = torch.full(crop.shape, float(outside), device=device)
    weight[crop.hidden_pixels] = inside
    return weight


def mouth_weight(
    landmarks: Tensor, crop: CropForm, inside: float, outside: float = 1.0, margin: float = 0.08
) -> Tensor:
    """Weights with a box around the lips.

    Args:
        landmarks: (B, T, 57, 2), x and y in units of the face crop, jaw first.
        crop: the form of the faces.
        inside, outside: the weights inside and outside of the box.
        margin: by how much of the crop the box is wider than the lips on each side.

    Returns:
        (B, T, 1, H, W), without a gradient.
    """
    lips = full_precision(landmarks.detach())[..., LIP_KEYPOINTS, :]
    low = lips.amin(dim=-2)[..., None, None] - margin  # (B, T, 2, 1, 1)
    high = lips.amax(dim=-2)[..., None, None] + margin
    x, y = ((torch.arange(n, device=lips.device, dtype=lips.dtype) + 0.5) / n for n in (crop.width, crop.height))
    within_x = (x >= low[..., 0, :, :]) & (x <= high[..., 0, :, :])  # (B, T, 1, W)
    within_y = (y >= low[..., 1, :, :]) & (y <= high[..., 1, :, :])
    within = within_y[..., :, None] & within_x[..., None, :]  # (B, T, 1, H, W)
    return torch.where(within, inside, outside).to(lips.dtype)


def _weighted_mean(x: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return x.mean()
    weight = full_precision(weight).expand_as(x)
    return (weight * x).sum() / weight.sum().clamp_min(torch.finfo(x.dtype).tiny)
