"""Networks with fresh weights, of any form, for the tests."""

from typing import Any

import torch

from models.checkpoint import build_network, network_class


def built(name: str, form: str = "paper", **options) -> Any:
    """The network `name` (as in checkpoints) of a form, with its config's `options`."""
    return build_network(name, network_class(name, form).Config(form=form, **options))


def spoken(**options) -> Any:
    """A predictor of form speech for log-mel, with random motions: those of fresh weights are zero until fitted."""
    predictor = built("heatmap_predictor", "speech", **{"width": 0.03, "audio": "mel"} | options)
    predictor.motions.copy_(0.01 * torch.randn(predictor.motions.shape, generator=torch.Generator().manual_seed(0)))
    return predictor
