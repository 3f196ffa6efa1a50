"""Maps between landmark sets: similarity and affine fits by least squares, and dense warps."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from media.crop import CropForm
from media.heatmap import KEYPOINTS, LIP_POINTS, ORDER
from models.layers import in_full_precision
from models.precision import full_precision, without_autocast

ANCHORS = [position for position in range(len(ORDER)) if position not in KEYPOINTS]  # the upper face
_SOFTNESS = 0.02  # of the crop: the accuracy of landmarks
_UNLIKE = 0.1  # of the crop: largest distance between two mouths of one person
_CHIN = [ORDER.index(point) for point in (148, 176, 152, 377, 400)]  # MediaPipe ids of the chin's middle
_POSE = 0.5  # weight of the pose among the references' differences, compared with the lips' shape
_AROUND_THE_MOUTH = 0.15  # of the crop: radius in which the lips' shape selects the reference


def fit_affine(source: Tensor, target: Tensor) -> Tensor:
    """The affine map of the points `source` to `target` by least squares.

    Args:
        source, target: (..., P, 2), P of at least 3 points that are not on a line; leading dimensions broadcast.

    Returns:
        (..., 3, 2): two rows for the linear part, one for the shift. For `apply_affine`.
    """
    with without_autocast(source):
        homogeneous = _homogeneous(source.double())
        transposed = homogeneous.transpose(-1, -2)
        # A small ridge avoids a division by zero for points on a line.
        gram = transposed @ homogeneous + 1e-4 * torch.eye(3, device=source.device, dtype=torch.float64)
        return (_inverse(gram) @ (transposed @ target.double())).to(full_precision(target).dtype)


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """As `fit_affine`, for maps that only rotate, scale and shift.

    A chin lies far from the points of an upper face. A turned head stretches these points a little, and an affine map
    would extrapolate that to a large error at the chin.
    """
    with without_autocast(source):
        source, target = full_precision(source), full_precision(target)
        from_mean, to_mean = source.mean(dim=-2, keepdim=True), target.mean(dim=-2, keepdim=True)
        (x, y), (u, v) = (source - from_mean).unbind(-1), (target - to_mean).unbind(-1)
        size = (x.square() + y.square()).sum(dim=-1).clamp_min(1e-6)  # avoids NaN if all points are the same
        cosine, sine = (x * u + y * v).sum(dim=-1) / size, (x * v - y * u).sum(dim=-1) / size
        linear = torch.stack([cosine, sine, -sine, cosine], dim=-1).unflatten(-1, (2, 2))
        return torch.cat([linear, to_mean - from_mean @ linear], dim=-2)


def apply_affine(points: Tensor, affine: Tensor) -> Tensor:
    """Points (..., P, 2) mapped by (..., 3, 2), the result of `fit_affine` or `fit_similarity`."""
    with without_autocast(points):
        return _homogeneous(full_precision(points)) @ affine


class TurnedHead(nn.Module):
    """A linear map of the upper face's shape to the keypoints' displacements by the head's turn.

    Fitted in closed form before the rest is trained (`extensions.speech_training`), then frozen.
    """

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 * len(ANCHORS), 2 * len(KEYPOINTS), bias=False)
        nn.init.zeros_(self.linear.weight)
        self.requires_grad_(False)

    def forward(self, turned: Tensor) -> Tensor:
        """Pose-normalised upper faces minus the mean reference's (..., 74, 2) -> (..., 57, 2)."""
        return in_full_precision(self.linear, turned.flatten(-2)).unflatten(-1, (-1, 2))


class FaceParts(nn.Module):
    """Selects the upper face (74), the lips (40) and the middle of the chin (5) of landmarks (..., 131, 2).

    The indices are buffers, on the network's device: a CUDA graph cannot use an index tensor of the host.
    """

    upper: Tensor
    lips: Tensor
    chin: Tensor

    def __init__(self):
        super().__init__()
        for name, points in (("upper", ANCHORS), ("lips", LIP_POINTS), ("chin", _CHIN)):
            self.register_buffer(name, torch.as_tensor(points), persistent=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., 131, 2) -> (..., 74, 2), (..., 40, 2), (..., 5, 2)."""
        upper, lips, chin = (points.index_select(-2, part) for part in (self.upper, self.lips, self.chin))
        return upper, lips, chin


class RegionWarp(NamedTuple):
    """Three warps from the pixels of a region of the target to N references, in units of `grid_sample`.

    skin: (B, N, 2, h, w), interpolated from the landmarks: the affine map between them, then a weighted mean of their
        remaining displacements, of weights (distance^2 + softness^2)^-2 (Shepard, 1968).
    skull, jaw: (B, N, 2, h, w), how the skull moves, by the upper face, and the lower jaw, which also follows the chin.
    bent: (B, N, 2, h, w), `skin` minus the affine map between the landmarks.
    around: (B, 1, 1, h, w) in [0, 1], 1 in the middle of the mouth.
    mouth: (B, 1, h, w) in [0, 1]: an ellipse around the lips with a soft edge; without a gradient.
    linear: (B, N, 3, 2), the affine map, of units of the crop.
    """

    skin: Tensor
    skull: Tensor
    jaw: Tensor
    bent: Tensor
    around: Tensor
    mouth: Tensor
    linear: Tensor

    def seen(self, unit: float) -> Tensor:
        """(B, N, 6, h, w): `bent`, and the other warps minus `skin`; in `unit`, a share of the crop."""
        return torch.cat([self.bent, self.skull - self.skin, self.jaw - self.skin], dim=2) / (2 * unit)

    def affine(self, points: Tensor) -> Tensor:
        """The affine map of points (2, h, w) in units of `grid_sample`: (B, N, 2, h, w)."""
        return _carried((points + 1) / 2, self.linear)


def centres(crop: CropForm, rows: slice, columns: slice, stride: int) -> Tensor:
    """(2, h, w), x and y in [-1, 1], of the centres of a region's pixels, each `stride` px of the crop wide."""
    y, x = (
        (torch.arange(part.start, part.stop, stride) + stride / 2) * (2 / side) - 1
        for part, side in ((rows, crop.height), (columns, crop.width))
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def region_warp(points: Tensor, references: Tensor, pixels: Tensor, parts: FaceParts) -> RegionWarp:
    """The warps of a part of the target's pixels.

    Args:
        points: (B, 131, 2), the landmarks of the targets in units of the crop.
        references: (B, N, 131, 2), those of each target's N references.
        pixels: (2, h, w), the pixels' centres, as of `centres`.
        parts: selects the parts of the face.
    """
    points, references = full_precision(points), full_precision(references)
    with without_autocast(points):
        targets = points[:, None].expand_as(references)
        linear = fit_affine(targets, references)
        left = references - apply_affine(targets, linear)  # (B, N, P, 2)
        places = ((pixels + 1) / 2).to(points)
        flat = places.flatten(1).T  # (pixels, 2)
        distance = (flat[None, :, None] - points[:, None]).square().sum(dim=-1)  # (B, pixels, P)
        shares = (distance + _SOFTNESS**2).square().reciprocal()
        shares = shares / shares.sum(dim=-1, keepdim=True)
        bent = left.permute(0, 1, 3, 2).flatten(1, 2) @ shares.transpose(1, 2)  # (B, 2 N, pixels)
        bent = 2 * bent.view(*references.shape[:2], 2, *pixels.shape[1:])
        (upper, lips, chin), (other_upper, _, other_chin) = parts(targets), parts(references)
        rigid = fit_similarity(upper, other_upper)
        skull = _carried(places, rigid)
        jaw = skull + 2 * (other_chin - apply_affine(chin, rigid)).mean(dim=2)[..., None, None]
        middle = lips[:, 0].mean(dim=1)[:, :, None, None]
        far = (places - middle).square().sum(dim=1) / _AROUND_THE_MOUTH**2
        around = torch.exp(-far / 2)[:, None, None]
        mouth = _ellipse(places, lips[:, 0].detach())
    return RegionWarp(_carried(places, linear) + bent, skull, jaw, bent, around, mouth, linear)


def _ellipse(places: Tensor, lips: Tensor) -> Tensor:
    """(B, 1, h, w): 1 at the places (2, h, w) within the ellipse around the lips (B, P, 2), 0 far from it."""
    low, high = lips.amin(dim=1), lips.amax(dim=1)
    middle, radii = (low + high) / 2, (high - low) / 2 + _SOFTNESS
    distance = ((places - middle[..., None, None]) / radii[..., None, None]).square().sum(dim=1, keepdim=True)
    return torch.sigmoid(4 * (1.2 - distance))


def _carried(places: Tensor, linear: Tensor) -> Tensor:
    """Places (2, h, w) in units of the crop, mapped by (B, N, 3, 2), in units of `grid_sample`: (B, N, 2, h, w)."""
    mapped = apply_affine(places.flatten(1).T, linear)  # (B, N, h w, 2)
    return (2 * mapped - 1).transpose(2, 3).unflatten(3, places.shape[1:])


class Unlikeness(NamedTuple):
    """How unlike N references are to each target.

    lips: (B, N), the squared mean distance of the lips' landmarks in units of the crop, with the upper faces and then
        the centres of both mouths aligned.
    pose: (B, N), `_POSE` of the mean squared distance of all landmarks, with these aligned.
    """

    lips: Tensor
    pose: Tensor

    def at(self, around: Tensor) -> Tensor:
        """(B, N, 1, h, w), at a region's pixels: the lips' near the mouth, else the pose's; by `RegionWarp.around`."""
        lips, pose = (x[..., None, None, None] for x in self)
        return lips * around + pose * (1 - around)


def unlike_references(points: Tensor, references: Tensor, parts: FaceParts) -> Unlikeness:
    """Compare targets' landmarks (B, 131, 2) in units of the crop with those of their references (B, N, 131, 2).

    parts: selects the parts of the face.
    """
    points, references = full_precision(points)[:, None], full_precision(references)
    (upper, lips, _), (other_upper, other_lips, _) = parts(points), parts(references)
    others = apply_affine(other_lips, fit_similarity(other_upper, upper))
    shapes = lips - lips.mean(dim=2, keepdim=True), others - others.mean(dim=2, keepdim=True)
    apart = (shapes[0] - shapes[1]).norm(dim=-1).mean(dim=-1).clamp_max(_UNLIKE).square()
    whole = apply_affine(references, fit_similarity(references, points.expand_as(references)))
    return Unlikeness(apart, _POSE * (whole - points).square().sum(dim=-1).mean(dim=-1))


def mouth_motion(points: Tensor) -> Tensor:
    """Landmarks (F, 131, 2) of a clip -> its pose-normalised keypoints minus their median, (F, 57, 2)."""
    anchors = points[:, ANCHORS]
    still = apply_affine(points[:, KEYPOINTS], fit_affine(anchors, anchors.median(dim=0).values))
    return still - still.median(dim=0).values


def _inverse(matrices: Tensor) -> Tensor:
    """Inverts (..., 3, 3) by cross products. `torch.linalg` would synchronise with the device, unlike a CUDA graph."""
    first, second, third = matrices.unbind(-2)
    columns = [torch.linalg.cross(*pair) for pair in ((second, third), (third, first), (first, second))]
    determinant = (first * columns[0]).sum(dim=-1)[..., None, None]
    return torch.stack(columns, dim=-1) / determinant


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
