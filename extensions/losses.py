"""What the temporal path's flow is told by landmarks (not in the paper, whose flow learns from the pictures alone).

Where the flow has learnt little, a warped reference shows a torn mouth, and pictures alone say only slowly which way
to pull. Landmarks say it at once: the flow at the target's mouth corner has to read the reference's mouth corner.
"""

import torch.nn.functional as F
from torch import Tensor

from models.face_synthesizer import Alignment
from models.precision import full_precision


def landmark_flow_loss(grid: Tensor, points: Tensor, reference_points: Tensor) -> Tensor:
    """Mean distance between where the target's landmarks are read from and where the references have them.

    Args:
        grid: (B, T, N, 2, H, W), the points of each of N references that each of T frames reads, x and y from -1 to 1
            between the outer edges of the corner pixels (`grid_sample`'s align_corners=False).
        points: (B, T, P, 2), x and y in units of the face crop, of the frames.
        reference_points: (B, N, P, 2), of the references.

    Returns:
        A scalar, in pixels.
    """
    shape, size = grid.shape[:3], grid.shape[-1]
    at = (2 * full_precision(points) - 1)[:, :, None].expand(*shape, -1, -1).flatten(0, 2)  # (B T N, P, 2)
    flat = full_precision(grid).flatten(0, 2)
    read = F.grid_sample(flat, at[:, :, None], padding_mode="border", align_corners=False)
    read = read.squeeze(3).transpose(1, 2).unflatten(0, shape)
    wanted = 2 * full_precision(reference_points)[:, None] - 1
    return (read - wanted).norm(dim=-1).mean() * (size / 2)


def flow_score(alignment: Alignment, batch: dict) -> dict[str, float]:
    """`landmark_flow_loss` of a synthesized batch, as a validation logs it; empty without a temporal path.

    Args:
        alignment: of all frames of `batch`.
        batch: `points` (B, T, 131, 2) and `reference_points` (B, N, 131, 2).
    """
    if alignment.grid is None:
        return {}
    return {"val/flow": float(landmark_flow_loss(alignment.grid, batch["points"], batch["reference_points"]))}
