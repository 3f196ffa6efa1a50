"""L_semantic, STSA eq. 3: the predicted heatmaps and keypoints against the true ones.

L_semantic = E_t(||H_g - H_p||_2 + ||P_g - P_p||_2)
"""

import torch
from torch import Tensor

from models.precision import full_precision


def frame_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance of each frame taken as one vector, mean over batch and time.

    Args:
        prediction, target: (B, T, ...), equal shapes.

    Returns:
        A scalar in float32. Its gradient where the two are equal is 0.
    """
    difference = full_precision(prediction) - full_precision(target)
    return torch.linalg.vector_norm(difference.flatten(2), dim=2).mean()
