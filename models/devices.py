"""The device on which a command computes."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add the option `--device` to `parser`; its value is a usable `torch.device`."""
    parser.add_argument(
        "--device", type=usable_device, default="auto", metavar="cpu|cuda", help="default: cuda where there is one"
    )


def usable_device(name: str) -> "torch.device":
    """The device `name`; "auto" is CUDA if present. Raises argparse's error if the device cannot be used."""
    import torch  # not needed to print a command's help, and slow to load

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("nothing is computed there")
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is not None:  # CUDA graphs are recorded on the current one
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = ": PyTorch finds no CUDA device here" if name == "cuda" else ""
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used{reason}; give cpu or cuda") from error
    return device
