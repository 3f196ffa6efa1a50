"""The effect of each loss term on the layers that the terms share, measured by the norm of its gradient there.

A term's value does not show its effect. At 128x128, one term of STSA's eq. 3 is a distance over 16384 pixels, the other
one over 114 coordinates between 0 and 1: if lips and jaw move by one pixel, the first costs 14.5 and the second 0.059.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    terms: Mapping[str, Tensor], layers: Mapping[str, Sequence[nn.Parameter]], scale: float = 1.0
) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of each term alone, over the parameters of each group together.

    The step's own result does not change: this function keeps the graph for the step's backward pass, writes no
    `.grad`, runs no hook that exchanges gradients between processes, and draws no random numbers.

    Args:
        terms: scalars with their weights, in the same order in every process.
        layers: groups of parameters by name, "" for a single group; parameters without a gradient are left out.
        scale: loss scale of float16 while the gradients are computed; the norms are divided by it.

    Returns:
        "gradient_norm/GROUP/TERM", or "gradient_norm/TERM" for the group "": scalars; 0 for a term that does not depend
        on the group.
    """
    groups = {name: [p for p in layers[name] if p.requires_grad] for name in layers}
    groups = {name: parameters for name, parameters in groups.items() if parameters}
    every = [parameter for parameters in groups.values() for parameter in parameters]
    norms = {}
    for term, value in terms.items():
        found: Sequence[Tensor | None] = [None] * len(every)
        if every and value.requires_grad:
            found = torch.autograd.grad(scale * value, every, retain_graph=True, allow_unused=True)
        gradients = iter(found)
        for name, parameters in groups.items():
            reached = [gradient for gradient in (next(gradients) for _ in parameters) if gradient is not None]
            norm = torch.nn.utils.get_total_norm(reached) / scale
            norms["/".join(filter(None, ("gradient_norm", name, term)))] = norm
    return norms
