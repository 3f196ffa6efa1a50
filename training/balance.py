"""How hard each loss term pulls on the layers that the terms share: its gradient's norm there.

A term's value does not say this. Of STSA's eq. 3, one term is a distance over 16384 pixels, the other one over 114
coordinates between 0 and 1: when lips and jaw move by one pixel, the first costs 14.5 and the second 0.059.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    terms: Mapping[str, Tensor], layers: Mapping[str, Sequence[nn.Parameter]], scale: float = 1.0
) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of each term alone, over the parameters of each group together.

    Keeps the terms' graph for the step's own backward pass, writes no `.grad`, runs none of the hooks by which
    processes exchange gradients, and draws no random numbers: the step computes what it would have without.

    Args:
        terms: scalars with their weights, in the same order in every process.
        layers: groups of parameters by name, "" for one group; those that require no gradient are left out.
        scale: factor on the terms while the gradients are computed, which float16 needs.

    Returns:
        "gradient_norm/GROUP/TERM", or "gradient_norm/TERM" for the group "": scalars. 0 where a term does not reach.
    """
    groups = {name: [p for p in layers[name] if p.requires_grad] for name in layers}
    groups = {name: parameters for name, parameters in groups.items() if parameters}
    every = [parameter for parameters in groups.values() for parameter in parameters]
    norms = {}
    for term, value in terms.items():
        if not every or not value.requires_grad:
            gradients = [None] * len(every)
        else:
            gradients = torch.autograd.grad(scale * value, every, retain_graph=True, allow_unused=True)
        gradients = iter(gradients)
        for name, parameters in groups.items():
            reached = [gradient for gradient in (next(gradients) for _ in parameters) if gradient is not None]
            norm = torch.nn.utils.get_total_norm(reached) / scale
            norms["/".join(filter(None, ("gradient_norm", name, term)))] = norm
    return norms
