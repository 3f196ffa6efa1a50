"""Sums over many pixels, norms and logarithms are taken in float32 under mixed precision."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32; a float64 stays as it is. float16 overflows in a sum of squares, bfloat16 keeps three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact(x: Tensor) -> Tensor:
    """`x` in a precision that convolutions keep, outside of autocast: float64 on CUDA, else `full_precision`.

    cuDNN may take float32 to TF32's three digits; where the difference of two nearly equal numbers is the result,
    nothing of it is left then. On CPUs float32 stays what it is, and float64 is 25 times as slow.
    """
    return x.double() if x.is_cuda else full_precision(x)


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on `x`'s device keep the precision of their arguments."""
    return torch.autocast(x.device.type, enabled=False)
