"""Batch norm over a whole training step, whose windows pass in parts (`train.micro_batch`). Not in the papers.

One pass without gradients takes all windows of the step at once, and each batch norm's mean and variance are kept. The
parts are then normalised with these, so that a step's outputs and running statistics are those of the undivided step.
The gradient through the statistics is estimated from the part alone; over random parts its mean is the true one.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Forwarded(Exception):
    """The network has returned; the losses are not needed."""


class StepNorm:
    """Statistics of the batch norms of `network` over a step.

    Args:
        network: each of its batch norms is called the same number of times in every forward pass.
        forward: runs the network once, in train mode, on all windows of this process's step. What it does after the
            network's forward is left out.
    """

    def __init__(self, network: nn.Module, forward: Callable[[], Any]):
        self._seen: dict[_BatchNorm, list[tuple[Tensor, Tensor]]] = {}
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
        hooks = [module.register_forward_pre_hook(self._see) for module in norms]
        hooks.append(network.register_forward_hook(_stop))
        try:
            with torch.no_grad(), contextlib.suppress(_Forwarded):
                forward()
        finally:
            for hook in hooks:
                hook.remove()

    def _see(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        x = x if x.dtype == torch.float64 else x.float()
        dims = _others(x)
        together = isinstance(norm, nn.SyncBatchNorm)
        mean = _averaged(x.mean(dims), together)
        variance = _averaged((x - mean.view(_shape(x))).square().mean(dims), together)
        self._seen.setdefault(norm, []).append((mean, torch.rsqrt(variance + norm.eps)))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The context of a part's forward and backward pass."""
        for norm, seen in self._seen.items():
            vars(norm)["forward"] = _Calls(norm, seen)
        try:
            yield
        finally:
            for norm in self._seen:
                del vars(norm)["forward"]


class _Calls:
    """Stands for a batch norm's `forward`, with the statistics of its first, second, ... call in a forward pass."""

    def __init__(self, norm: _BatchNorm, seen: list[tuple[Tensor, Tensor]]):
        self._norm, self._seen, self._count = norm, seen, 0

    def __call__(self, x: Tensor) -> Tensor:
        mean, inverse = self._seen[self._count % len(self._seen)]
        self._count += 1
        weight, bias = self._norm.weight, self._norm.bias
        if weight is None:
            weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
        normal: Tensor = _Normalised.apply(x, mean, inverse, weight, bias)
        return normal


class _Normalised(torch.autograd.Function):
    """Batch norm with given statistics, whose gradient treats these as the input's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, inverse, weight)
        shape = _shape(x)
        return ((x - mean.view(shape)) * (inverse * weight).view(shape) + bias.view(shape)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, weight = ctx.saved_tensors
        shape, dims, count = _shape(x), _others(x), x.numel() / x.shape[1]
        gradient = gradients[0].to(mean.dtype)
        normal = (x - mean.view(shape)) * inverse.view(shape)
        of_bias, of_weight = gradient.sum(dims), (gradient * normal).sum(dims)
        of_x = gradient - (of_bias / count).view(shape) - normal * (of_weight / count).view(shape)
        of_x = of_x * (inverse * weight).view(shape)
        return of_x.to(x.dtype), None, None, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


def _stop(*_: Any) -> None:
    raise _Forwarded


def _others(x: Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [i for i in range(x.dim()) if i != 1]


def _shape(x: Tensor) -> list[int]:
    """The shape in which a value for each channel is broadcast over `x`."""
    return [1, -1] + [1] * (x.dim() - 2)


def _averaged(x: Tensor, together: bool) -> Tensor:
    """`x`, averaged over the processes if `together`; each has as many windows."""
    if together and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x
