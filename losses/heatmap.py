"""L_heatmap, STSA eq. 4: the weighted sum of the guidance prediction's loss terms."""

from dataclasses import dataclass

from torch import Tensor

from losses.semantic import frame_distance
from losses.temporal import temporal_loss


@dataclass
class HeatmapLosses:
    """Weights of the loss terms; the paper's are all 1. A term at weight 0 is not computed."""

    heatmap: float = 1.0
    landmarks: float = 1.0
    temporal: float = 1.0


def heatmap_terms(heatmaps: Tensor | None, landmarks: Tensor, batch: dict, weights: HeatmapLosses) -> dict[str, Tensor]:
    """The weighted terms of eq. 3 and 4 for predictions (B,T,1,H,W), None without the first term, and (B,T,57,2)."""
    terms = {}
    if weights.heatmap > 0:
        terms["heatmap"] = weights.heatmap * frame_distance(heatmaps, batch["heatmaps"])
    if weights.landmarks > 0:
        terms["landmarks"] = weights.landmarks * frame_distance(landmarks, batch["landmarks"])
    if weights.temporal > 0:
        terms["temporal"] = weights.temporal * temporal_loss(landmarks, batch["landmarks"])
    return terms
