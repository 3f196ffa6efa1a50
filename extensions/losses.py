"""Further terms of L_face (eq. 10) that are in no paper: pixel losses, and landmark supervision of the flow.

The pixel losses train small networks without VGG-19's perceptual loss, which otherwise supervises detail. They take a
weight for each pixel, because the lips are only about 5 % of the crop. The flow loss supervises the temporal path's
flow by landmarks. STSA supervises it through image losses only, which align a mouth slowly.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.reconstruction import hidden_weight, l1_loss, mouth_weight, weighted_mean
from media.crop import CropForm
from media.errors import InputError
from media.landmarks import edges_of, position_of
from models.face_synthesizer import Alignment, FaceSynthesizerConfig
from models.precision import exact, full_precision, without_autocast


def _contour() -> list[list[int]]:
    """The first and the last landmarks of the edges of the face's contour, which runs straight across the forehead."""
    edges = edges_of("face_oval_upper", "face_oval_lower")
    (start,) = {a for a, _ in edges} - {b for _, b in edges}
    (end,) = {b for _, b in edges} - {a for a, _ in edges}
    return [[position_of(end) for end in ends] for ends in zip(*edges, (end, start), strict=True)]


_CONTOUR = _contour()


@dataclass
class ExtraLosses:
    """Weights of the further terms."""

    l1: float = 0.0  # weight of the pixels' L1 distance
    gradient: float = 0.0  # weight of the L1 distance of the images' finite differences
    ssim: float = 0.0  # weight of 1 - SSIM
    mouth: float = 1.0  # weight of the pixels around the lips in these three terms; other pixels have 1
    upper: float = 1.0  # weight of the visible pixels in these three terms; dubbing takes them from the source
    # Weight of the pixels outside the face's contour in these three terms; dubbing does not paste them.
    outside: float = 1.0
    flow: float = 0.0  # weight of the distance, in pixels, between the points that the flow reads and the landmarks


class ExtraObjective:
    """The weighted terms of `ExtraLosses`.

    Args:
        weights: of the run's config.
        network: the synthesizer's config.

    Raises:
        InputError: the weight of the flow loss is above 0 and the synthesizer has no flow.
    """

    def __init__(self, weights: ExtraLosses, network: FaceSynthesizerConfig):
        if weights.flow > 0 and not network.temporal:
            raise InputError("the synthesizer has no temporal path, whose flow it is; set extra_losses.flow=0")
        self.weights, self.crop = weights, network.crop

    def __call__(self, faces: Tensor, batch: dict, alignment: Alignment) -> dict[str, Tensor]:
        """The weighted terms of generated `faces` (B,T,3,H,W).

        Args:
            batch: true `frames` (B,T,3,H,W), `keypoints` (B,T,57,2), `landmarks` (B,T,131,2), `reference_landmarks`
                (B,N,131,2).
            alignment: returned by the synthesizer together with `faces`.
        """
        weights, true = self.weights, batch["frames"]
        terms = {}
        if weights.l1 > 0 or weights.gradient > 0 or weights.ssim > 0:
            pixels = mouth_weight(batch["keypoints"], self.crop, weights.mouth)
            pixels = pixels * hidden_weight(self.crop, outside=weights.upper, device=pixels.device)
            if weights.outside != 1:
                pixels = pixels * contour_weight(batch["landmarks"], self.crop, weights.outside)
            if weights.upper == 0:  # nothing else counts
                faces, true, pixels = (x[..., *self.crop.hidden_pixels] for x in (faces, true, pixels))
            if weights.l1 > 0:
                terms["l1"] = weights.l1 * l1_loss(faces, true, pixels)
            if weights.gradient > 0:
                terms["gradient"] = weights.gradient * gradient_loss(faces, true, pixels)
            if weights.ssim > 0:
                terms["ssim"] = weights.ssim * ssim_loss(faces, true, pixels)
        if weights.flow > 0:
            assert alignment.grid is not None  # of a synthesizer with a temporal path
            distance = landmark_flow_loss(alignment.grid, batch["landmarks"], batch["reference_landmarks"])
            terms["flow"] = weights.flow * distance
        return terms


def gradient_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the images' finite differences, the mean of the two directions.

    Arguments as in `losses.reconstruction.l1_loss`. A constant offset in brightness costs nothing. Blur costs more than
    in an L1 loss (Mathieu et al., 2016).
    """
    difference = full_precision(faces) - full_precision(true_faces)
    down = weighted_mean(difference.diff(dim=-2).abs(), None if weight is None else weight[..., 1:, :])
    across = weighted_mean(difference.diff(dim=-1).abs(), None if weight is None else weight[..., :, 1:])
    return (down + across) / 2


def ssim_loss(faces: Tensor, true_faces: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - SSIM (Gaussian 11x11, as in `metrics.image.ssim`), the weighted mean over pixels and colours.

    Arguments as in `losses.reconstruction.l1_loss`; H and W are at least 11.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    made, true = (exact(x).flatten(0, 1).contiguous(memory_format=torch.channels_last) for x in (faces, true_faces))
    with without_autocast(faces):
        _, similarity = structural_similarity_index_measure(made, true, data_range=1.0, return_full_image=True)
    return weighted_mean(1 - similarity.view_as(faces), weight).to(full_precision(faces).dtype)


def contour_weight(landmarks: Tensor, crop: CropForm, outside: float) -> Tensor:
    """Weights of the pixels: 1 within the contour of the face, `outside` elsewhere, in cells of 4x4 pixels.

    Args:
        landmarks: (B, T, 131, 2), in units of the crop.
        crop: the form of the faces.

    Returns:
        (B, T, 1, H, W), without a gradient.
    """
    points = full_precision(landmarks.detach())
    (x1, y1), (x2, y2) = (points[..., end, :, None].unbind(-2) for end in _CONTOUR)  # (B, T, edges, 1)
    y, x = (
        (torch.arange(side // 4, device=points.device, dtype=points.dtype) + 0.5) / (side // 4) for side in crop.shape
    )
    # A cell is inside if a ray to its right crosses the contour an odd number of times.
    crosses = (y1 > y) != (y2 > y)  # (B, T, edges, h)
    at = x1 + (y - y1) * (x2 - x1) / torch.where(y1 == y2, 1, y2 - y1)
    crossed = crosses[..., None] & (x < at[..., None])  # (B, T, edges, h, w)
    inside = (crossed.sum(dim=2, keepdim=True) % 2).to(points.dtype)
    weight = outside + (1 - outside) * inside
    return F.interpolate(weight.flatten(0, 1), size=crop.shape, mode="nearest").unflatten(0, points.shape[:2])


def landmark_flow_loss(grid: Tensor, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
    """Mean distance of the points that the flow samples at the target's landmarks from the references' own landmarks.

    Args:
        grid: (B, T, N, 2, H, W), the points of each of N references that each of T frames samples, x and y from -1 to 1
            between the outer edges of the corner pixels (`grid_sample`'s align_corners=False).
        landmarks: (B, T, P, 2) of the frames, x and y in units of the face crop.
        reference_landmarks: (B, N, P, 2) of the references.

    Returns:
        A scalar, in pixels.
    """
    shape, (height, width) = grid.shape[:3], grid.shape[-2:]
    at = (2 * full_precision(landmarks) - 1)[:, :, None].expand(*shape, -1, -1).flatten(0, 2)  # (B T N, P, 2)
    flat = full_precision(grid).flatten(0, 2)
    read = F.grid_sample(flat, at[:, :, None], padding_mode="border", align_corners=False)
    read = read.squeeze(3).transpose(1, 2).unflatten(0, shape)
    true = 2 * full_precision(reference_landmarks)[:, None] - 1
    pixels = (read - true) * read.new_tensor([width / 2, height / 2])
    return pixels.norm(dim=-1).mean()


def flow_score(alignment: Alignment, batch: dict) -> dict[str, float]:
    """`landmark_flow_loss` of a synthesized batch, as a scalar of the validation; empty without a temporal path.

    Args:
        alignment: for all frames of `batch`.
        batch: `landmarks` (B, T, 131, 2) and `reference_landmarks` (B, N, 131, 2).
    """
    if alignment.grid is None:
        return {}
    return {"val/flow": float(landmark_flow_loss(alignment.grid, batch["landmarks"], batch["reference_landmarks"]))}
