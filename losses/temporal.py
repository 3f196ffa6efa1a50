"""L_temporal, STSA eq. 4, after IP-LAP: error of the keypoints' motion between frames."""

from torch import Tensor

from losses.semantic import frame_distance
from models.precision import full_precision


def temporal_loss(keypoints: Tensor, true_keypoints: Tensor) -> Tensor:
    """E_t ||(p_{t+1} - p_t) - (g_{t+1} - g_t)||_2 with all keypoints of a frame as one vector.

    Args:
        keypoints, true_keypoints: (B, T, 57, 2), in units of the face crop.

    Returns:
        A scalar, the mean over the B (T - 1) pairs of adjacent frames; 0 where T = 1.
    """
    movement = full_precision(keypoints).diff(dim=1)
    true_movement = full_precision(true_keypoints).diff(dim=1)
    if movement.shape[1] == 0:
        return movement.sum()
    return frame_distance(movement, true_movement)
