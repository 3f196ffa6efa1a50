"""L_mi, STSA eq. 7: the Donsker-Varadhan lower bound of the mutual information between both paths' features.

L_mi = -(E_J[T(E^spa, E^tem)] - log E_M[exp T(E^spa, E^tem)])

J pairs the embeddings of one frame (the joint distribution), M those of different frames (the product of the marginal
ones). T and the embeddings are networks of the CIL module, which learn with the rest.
"""

import math

import torch
from torch import Tensor

from models.precision import full_precision


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """The lower bound E_J[T] - log E_M[exp T] in nats.

    Args:
        joint, marginal: T's scores of the pairs, any shapes. Large scores do not overflow.
    """
    joint, marginal = full_precision(joint), full_precision(marginal)
    log_mean_exp = torch.logsumexp(marginal.flatten(), dim=0) - math.log(marginal.numel())
    return joint.mean() - log_mean_exp


def mutual_information_loss(*scales: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. 7, the mean over the scales; each scale gives the scores of its joint and of its marginal pairs."""
    return -sum(donsker_varadhan(joint, marginal) for joint, marginal in scales) / len(scales)
