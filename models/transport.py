"""Least-squares affine maps between point sets: what a head's pose does to its points, and what is left."""

import torch
from torch import Tensor

from media.heatmap import KEYPOINTS, ORDER

ANCHORS = [position for position in range(len(ORDER)) if position not in KEYPOINTS]  # the upper face


def fit_affine(source: Tensor, target: Tensor) -> Tensor:
    """The affine map that carries the points `source` nearest to `target`, in the sense of least squares.

    Args:
        source, target: (..., P, 2), P of at least 3 points that are not on a line; leading dimensions broadcast.

    Returns:
        (..., 3, 2): two rows for the linear part, one for the shift. For `apply_affine`.
    """
    with torch.autocast(source.device.type, enabled=False):
        homogeneous = _homogeneous(source.double())
        transposed = homogeneous.transpose(-1, -2)
        # A hint of ridge keeps points on a line, as an untrained network reads them, from being a division by zero.
        gram = transposed @ homogeneous + 1e-4 * torch.eye(3, device=source.device, dtype=torch.float64)
        return (_inverse(gram) @ (transposed @ target.double())).float()


def apply_affine(points: Tensor, affine: Tensor) -> Tensor:
    """Points (..., P, 2) carried by maps (..., 3, 2) of `fit_affine`."""
    with torch.autocast(points.device.type, enabled=False):
        return _homogeneous(points.float()) @ affine


def mouth_motion(points: Tensor) -> Tensor:
    """Points (F, 131, 2) of a clip -> how its keypoints differ from their median, (F, 57, 2), its head held still."""
    anchors = points[:, ANCHORS]
    still = apply_affine(points[:, KEYPOINTS], fit_affine(anchors, anchors.median(dim=0).values))
    return still - still.median(dim=0).values


def _inverse(matrices: Tensor) -> Tensor:
    """Of matrices (..., 3, 3), by cross products: `torch.linalg` waits for the device's answer, a CUDA graph cannot."""
    first, second, third = matrices.unbind(-2)
    columns = [torch.linalg.cross(*pair) for pair in ((second, third), (third, first), (first, second))]
    determinant = (first * columns[0]).sum(dim=-1)[..., None, None]
    return torch.stack(columns, dim=-1) / determinant


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
