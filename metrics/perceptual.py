"""LPIPS: a distance of deep features, calibrated on human judgements."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from media.errors import InputError
from models.checkpoint import load_state, read_foreign


def load_lpips(weights: Path) -> nn.Module:
    """The `lpips` package's network with AlexNet's features, version 0.1, in eval mode.

    The package's constructor would download AlexNet; here its trunk is filled from a local file. The linear layers on
    top of it come with the package.

    Args:
        weights: torchvision's AlexNet state dict (`python -m checkpoints.fetch lpips`).

    Raises:
        InputError: the file is not AlexNet's state dict.
    """
    import lpips

    with warnings.catch_warnings():  # the package passes torchvision a deprecated argument
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {}
    state = read_foreign(weights)
    for name in network.net.state_dict():  # slice2.3.weight is the weight of AlexNet's features.3
        source = f"features.{name.partition('.')[2]}"
        if source not in state:
            raise InputError(f"{weights} has no tensor {source}, so it is not AlexNet; fetch it again")
        trunk[name] = state[source]
    load_state(network.net, trunk, str(weights))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def lpips(network: nn.Module, generated: Tensor, reference: Tensor) -> Tensor:
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018), AlexNet, version 0.1.

    Lower is better; identical images give 0.

    Args:
        network: from `load_lpips`.
        generated, reference: (B, 3, H, W) in [0, 1], at least 31 pixels wide and high.

    Returns:
        (B,).
    """
    return network(generated, reference, normalize=True).reshape(-1)
