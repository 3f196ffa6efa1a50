"""How one set of landmarks goes over into another: affine maps by least squares, and dense warps."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from media.crop import CropForm
from media.heatmap import KEYPOINTS, ORDER
from models.precision import full_precision, without_autocast

ANCHORS = [position for position in range(len(ORDER)) if position not in KEYPOINTS]  # the upper face
_SOFTNESS = 0.02  # of the crop: landmarks are no surer than that
_UNLIKE = 0.1  # of the crop: no two mouths of one person's lie further apart
_AROUND_THE_MOUTH = 0.15  # of the crop, where what lips look like tells what a mouth looks like


def fit_affine(source: Tensor, target: Tensor) -> Tensor:
    """The affine map that carries the points `source` nearest to `target`, in the sense of least squares.

    Args:
        source, target: (..., P, 2), P of at least 3 points that are not on a line; leading dimensions broadcast.

    Returns:
        (..., 3, 2): two rows for the linear part, one for the shift. For `apply_affine`.
    """
    with without_autocast(source):
        homogeneous = _homogeneous(source.double())
        transposed = homogeneous.transpose(-1, -2)
        # A hint of ridge keeps points on a line, as an untrained reader may read them, from being a division by zero.
        gram = transposed @ homogeneous + 1e-4 * torch.eye(3, device=source.device, dtype=torch.float64)
        return (_inverse(gram) @ (transposed @ target.double())).to(full_precision(target).dtype)


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """As `fit_affine`, of the maps that only turn, scale and shift.

    Seen from the points of an upper face, a chin lies far outside: an affine map would carry it off by what little a
    turned head stretches them.
    """
    with without_autocast(source):
        source, target = full_precision(source), full_precision(target)
        from_mean, to_mean = source.mean(dim=-2, keepdim=True), target.mean(dim=-2, keepdim=True)
        (x, y), (u, v) = (source - from_mean).unbind(-1), (target - to_mean).unbind(-1)
        size = (x.square() + y.square()).sum(dim=-1).clamp_min(1e-6)  # of points that are all one: no map, not NaN
        cosine, sine = (x * u + y * v).sum(dim=-1) / size, (x * v - y * u).sum(dim=-1) / size
        linear = torch.stack([cosine, sine, -sine, cosine], dim=-1).unflatten(-1, (2, 2))
        return torch.cat([linear, to_mean - from_mean @ linear], dim=-2)


def apply_affine(points: Tensor, affine: Tensor) -> Tensor:
    """Points (..., P, 2) carried by maps (..., 3, 2) of `fit_affine` or `fit_similarity`."""
    with without_autocast(points):
        return _homogeneous(full_precision(points)) @ affine


class Pose(NamedTuple):
    """How the upper faces of B people's T frames are posed beside those of their N references.

    turned: (B, T, 74, 2), what of the upper faces is not the mean reference's, once turned, scaled and shifted to it.
    still: (B, 1, 57, 2), the references' mean keypoints, beside that mean reference.
    home: (B, T, 3, 2), the similarity maps of the upper faces to the mean reference.
    away: (B, T, 3, 2), the similarity maps of the mean reference to the upper faces.
    """

    turned: Tensor
    still: Tensor
    home: Tensor
    away: Tensor


def pose_beside(anchors: Tensor, reference_anchors: Tensor, reference_keypoints: Tensor) -> Pose:
    """Upper faces (B, T, 74, 2) beside those of references (B, N, 74, 2), which have the keypoints (B, N, 57, 2)."""
    together = fit_similarity(reference_anchors, reference_anchors[:, :1])
    mean = apply_affine(reference_anchors, together).mean(dim=1, keepdim=True)
    still = apply_affine(reference_keypoints, together).mean(dim=1, keepdim=True)
    home = fit_similarity(anchors, mean)
    return Pose(apply_affine(anchors, home) - mean, still, home, fit_similarity(mean, anchors))


def landmark_warp(points: Tensor, references: Tensor, crop: CropForm) -> Tensor:
    """Where references show what lies at each pixel of the target, as far as landmarks tell.

    Each pixel is carried by the affine map between the landmarks, and then by the mean of what that leaves of their
    displacements, weighted by (distance^2 + softness^2)^-2 (Shepard, 1968).

    Args:
        points: (B, P, 2), of the targets in units of the face crop.
        references: (B, N, P, 2), the same landmarks of each target's N references.
        crop: the form of the faces.

    Returns:
        The points to read, (B N, 2, H, W), x and y in [-1, 1] as `grid_sample` with align_corners=False takes
        them; none lies outside of the outermost pixels' centres.
    """
    points, references = full_precision(points), full_precision(references)
    shape, count = references.shape[:2], references.shape[2]
    with without_autocast(points):
        targets = points[:, None].expand_as(references)
        affine = fit_affine(targets, references)
        left = references - apply_affine(targets, affine)  # (B, N, P, 2)
        half = crop.height // 2, crop.width // 2
        coarse = _pixel_centres(half, points)  # a smooth field, at full size it would cost four times as much
        distance = (coarse[None, :, None] - points[:, None]).square().sum(dim=-1)  # (B, pixels, P)
        shares = (distance + _SOFTNESS**2).square().reciprocal()
        shares = shares / shares.sum(dim=-1, keepdim=True)
        moved = left.permute(0, 1, 3, 2).reshape(shape[0], -1, count) @ shares.transpose(1, 2)  # (B, 2 N, pixels)
        moved = F.interpolate(moved.unflatten(2, half), size=crop.shape, mode="bilinear")
        carried = apply_affine(_pixel_centres(crop.shape, points), affine)  # (B, N, pixels, 2)
        carried = carried.transpose(2, 3).reshape(-1, 2, *crop.shape)
        x, y = (2 * (carried + moved.view_as(carried)) - 1).unbind(dim=1)
        within = [axis.clamp(1 / n - 1, 1 - 1 / n) for axis, n in ((x, crop.width), (y, crop.height))]
        return torch.stack(within, dim=1)


def unlike_lips(lips: Tensor, others: Tensor, crop: CropForm) -> Tensor:
    """How differently from the target's the lips of each reference are shaped, at each pixel around the target's mouth.

    What lies between the lips comes with their shape: no warp makes the teeth of an open mouth out of a closed one.

    Args:
        lips: (B, P, 2), the lips' landmarks of the targets, in units of the crop.
        others: (B, N, P, 2), those of each target's N references, carried to the target's pose.
        crop: the form of the faces.

    Returns:
        (B N, 1, H, W): the landmarks' mean distance, both mouths' middles laid upon each other, in units of the
        crop and squared; it fades away from the mouth.
    """
    middle = lips.mean(dim=1, keepdim=True)  # (B, 1, 2)
    shapes = lips - middle, others - others.mean(dim=2, keepdim=True)
    apart = (shapes[0][:, None] - shapes[1]).norm(dim=-1).mean(dim=-1).clamp_max(_UNLIKE)  # (B, N)
    far = (_pixel_centres(crop.shape, lips) - middle).square().sum(dim=-1) / _AROUND_THE_MOUTH**2  # (B, pixels)
    unlike = apart.square()[..., None] * torch.exp(-far / 2)[:, None]
    return unlike.reshape(-1, 1, *crop.shape)


def _pixel_centres(shape: tuple[int, int], like: Tensor) -> Tensor:
    """(H W, 2), x and y in units of a crop of `shape` (H, W), row by row."""
    y, x = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


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
