"""L_heatmap, STSA eq. 4: the weighted sum of the guidance prediction's loss terms."""

from dataclasses import dataclass

from torch import Tensor, nn

from losses.semantic import frame_distance
from losses.temporal import temporal_loss
from media.heatmap import LIP_KEYPOINTS
from models.heatmap_predictor import HeatmapPredictor


@dataclass
class HeatmapLosses:
    """Weights of the loss terms; the paper's are all 1. A term at weight 0 is not computed."""

    heatmap: float = 1.0  # the heatmaps' term of eq. 3
    keypoints: float = 1.0  # the keypoints' term of eq. 3
    temporal: float = 1.0  # L_temporal of eq. 4


def freeze_unread(predictor: nn.Module, weights: HeatmapLosses) -> None:
    """Freeze the heads that no loss term reads: several processes would wait for their gradients.

    Without a keypoint term, these are a `HeatmapPredictor`'s keypoint heads: its heatmaps do not depend on them.
    """
    if isinstance(predictor, HeatmapPredictor) and not (weights.keypoints > 0 or weights.temporal > 0):
        predictor.lip_keypoints.requires_grad_(False)
        predictor.jaw_keypoints.requires_grad_(False)


def heatmap_terms(heatmaps: Tensor, keypoints: Tensor, batch: dict, weights: HeatmapLosses) -> dict[str, Tensor]:
    """The weighted terms of eq. 3 and 4 for predictions (B,T,1,H,W) and (B,T,57,2)."""
    terms = {}
    if weights.heatmap > 0:
        terms["heatmap"] = weights.heatmap * frame_distance(heatmaps, batch["heatmaps"])
    if weights.keypoints > 0:
        terms["keypoints"] = weights.keypoints * frame_distance(keypoints, batch["keypoints"])
    if weights.temporal > 0:
        terms["temporal"] = weights.temporal * temporal_loss(keypoints, batch["keypoints"])
    return terms


def heatmap_scores(heatmaps: Tensor, keypoints: Tensor, batch: dict, weights: HeatmapLosses) -> dict[str, float]:
    """Validation scalars of predictions (B,T,1,H,W) and (B,T,57,2): the weighted loss terms and two scores.

    `val/heatmap_distance` is eq. 3's first term without its weight. `val/keypoint_LipLMD` is the mean distance of the
    keypoint head's 40 lip points from the true ones, in units of the crop; it does not score the decoded heatmaps.
    """
    values = {f"val/{name}": float(value) for name, value in heatmap_terms(heatmaps, keypoints, batch, weights).items()}
    values["val/heatmap_distance"] = float(frame_distance(heatmaps, batch["heatmaps"]))
    lips = (keypoints - batch["keypoints"])[..., LIP_KEYPOINTS, :]
    return values | {"val/keypoint_LipLMD": float(lips.norm(dim=-1).mean())}
