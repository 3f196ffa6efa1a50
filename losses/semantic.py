"""L_semantic, STSA eq. 3: distance of the predicted heatmaps and keypoints from the true ones.

L_semantic = E_t(||H_g - H_p||_2 + ||P_g - P_p||_2)
"""

import torch
from torch import Tensor

from models.precision import full_precision


def frame_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance of whole frames, each as one vector, mean over batch and time.

    Args:
        prediction, target: (B, T, ...), equal shapes.

    Returns:
        A scalar in float32. Its gradient is 0 where the two are equal.
    """
    difference = full_precision(prediction) - full_precision(target)
    return torch.linalg.vector_norm(difference.flatten(2), dim=2).mean()
