"""Sums over many pixels, norms and logarithms are taken in float32 under mixed precision."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32; a float64 stays as it is. float16 overflows in a sum of squares, bfloat16 keeps three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact(x: Tensor) -> Tensor:
    """`x` in a precision that convolutions keep: float64 on CUDA and under autocast, else `full_precision`.

    Autocast takes float32 to half precision, and cuDNN may take it to TF32's three digits; where the difference of two
    nearly equal numbers is the result, nothing of it is left then.
    """
    return x.double() if x.is_cuda or torch.is_autocast_enabled(x.device.type) else full_precision(x)


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on `x`'s device keep the precision of their arguments."""
    return torch.autocast(x.device.type, enabled=False)
