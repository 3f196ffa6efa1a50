"""The norm of each loss term's gradient on the layers that the terms share.

It shows how strongly a term trains these layers; the term's value does not. Example: eq. 3 on heatmaps of 128x128, with
lips and jaw displaced by one pixel. The heatmap term, over 16384 pixels, is 14.5. The keypoint term, over 114
coordinates in [0, 1], is 0.059.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    terms: Mapping[str, Tensor], layers: Mapping[str, Sequence[nn.Parameter]], scale: float = 1.0
) -> dict[str, Tensor]:
    """The Euclidean norm of each term's gradient on each group of parameters.

    Has no effect on the training step: keeps the graph for the step's backward pass, writes no `.grad`, runs no hook
    that exchanges gradients between processes, and draws no random numbers.

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
