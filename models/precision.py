"""float32 under mixed precision, for sums over many pixels, norms and logarithms."""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor


def total(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor, a tensor; Python's `sum` may be its integer start."""
    return functools.reduce(Tensor.add, tensors)


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged in float64: float16 overflows in a sum of squares, bfloat16 keeps three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact(x: Tensor) -> Tensor:
    """`x` in a precision that convolutions keep, outside of autocast: float64 on CUDA, else `full_precision`.

    cuDNN may round float32 to TF32's three digits, which loses the difference of two nearly equal numbers. CPUs keep
    float32, and float64 is 25 times as slow there.
    """
    return x.double() if x.is_cuda else full_precision(x)


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on `x`'s device keep the precision of their arguments."""
    return torch.autocast(x.device.type, enabled=False)
