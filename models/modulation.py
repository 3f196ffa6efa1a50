"""Normalisation conditioned on an image (SPADE) or on the audio code (AdaIN), by a scale and a shift.

Both compute gamma and beta without the feature that they modulate. The flow predictor modulates N reference features by
one condition: their gamma and beta are computed once a frame instead of once a reference.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.precision import total, without_autocast

Modulation = tuple[Tensor, Tensor]  # (gamma, beta), each (B, C, H, W) or (B, C, 1, 1)


class SpadeNorm(nn.Module):
    """SPADE's scale and shift (Park et al. 2019).

    Args:
        channels: of the feature to modulate.
        condition_channels: of the image that modulates it.
        hidden: channels between the two convolutions.
        relu: a ReLU between them, as SPADE has; the released network has none.
    """

    def __init__(self, channels: int, condition_channels: int, hidden: int, relu: bool):
        super().__init__()
        self.relu = relu
        self.shared = nn.Conv2d(condition_channels, hidden, 3, padding=1)
        self.gamma_beta = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        composed = 9 * hidden * (condition_channels + 2 * channels)
        # Two convolutions without a ReLU between them fold into one.
        self.folds = not relu and 25 * condition_channels * 2 * channels < composed / 2

    def modulation(self, condition: Tensor, size: tuple[int, ...]) -> Modulation:
        """gamma, beta (B, C, *size) of the condition (B, channels, H, W), resized to `size` by nearest pixel."""
        condition = F.interpolate(condition, size=size, mode="nearest") if condition.shape[-2:] != size else condition
        # Not on a GPU: folding at every call runs thousands of small kernels, which take longer than they save.
        if self.folds and condition.device.type == "cpu":
            gamma, beta = folded_convolutions(condition, self.shared, self.gamma_beta).chunk(2, dim=1)
            return gamma, beta
        hidden = self.shared(condition)
        gamma, beta = self.gamma_beta(hidden.relu_() if self.relu else hidden).chunk(2, dim=1)
        return gamma, beta


class AdaInNorm(nn.Module):
    """AdaIN's scale and shift from the audio code (Huang and Belongie 2017)."""

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.shared = nn.Linear(code, code)
        self.gamma_beta = nn.Linear(code, 2 * channels)
        for layer in (self.shared, self.gamma_beta):
            nn.init.xavier_uniform_(layer.weight)  # as the STSA authors' linear layers

    def modulation(self, code: Tensor, size: tuple[int, ...] | None = None) -> Modulation:
        """gamma, beta (B, C, 1, 1) of the code (B, code), the same for every `size`."""
        gamma, beta = self.gamma_beta(F.relu(self.shared(code)))[..., None, None].chunk(2, dim=1)
        return gamma, beta


class ModulatedBlock(nn.Module):
    """Twice: modulated instance norm, LeakyReLU 0.2, 3x3 convolution. `norm` is SpadeNorm or AdaInNorm.

    With `recompute`, the backward pass computes the block's activations again instead of keeping them.
    """

    recompute = False

    def __init__(self, channels: int, norm: Callable[..., SpadeNorm | AdaInNorm], *norm_args: int):
        super().__init__()
        self.norm_1 = norm(channels, *norm_args)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = norm(channels, *norm_args)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)

    def modulations(self, condition: Tensor, size: tuple[int, ...]) -> tuple[Modulation, Modulation]:
        """gamma and beta of the block's two norms under the condition, for features of `size` (H, W)."""
        return self.norm_1.modulation(condition, size), self.norm_2.modulation(condition, size)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B N, C, H, W) under the condition (B, ...): each N consecutive features share one."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._compute, x, condition, use_reentrant=False)
        return self._compute(x, condition)

    def _compute(self, x: Tensor, condition: Tensor) -> Tensor:
        first, second = self.modulations(condition, x.shape[-2:])
        x = self.conv_1(F.leaky_relu(modulate(x, first), 0.2))
        return self.conv_2(F.leaky_relu(modulate(x, second), 0.2))


def modulate(x: Tensor, modulation: Modulation) -> Tensor:
    """Instance norm of x (B N, C, H, W), then x (1 + gamma) + beta, with gamma and beta (B, C, ...) shared by N."""
    gamma, beta = (part[:, None].to(x.dtype) for part in modulation)
    with without_autocast(x):  # which would copy x to float32 and back to normalise it
        normalised = F.instance_norm(x).unflatten(0, (gamma.shape[0], -1))
        return torch.addcmul(beta, normalised, 1 + gamma).flatten(0, 1)


def folded_convolutions(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """`second(first(x))` of two 3x3 convolutions with zero padding 1, as one 5x5 convolution; exact at the border too.

    `second` pads the middle map with zeros; a 5x5 kernel over a zero-padded x would continue the middle map instead. An
    output in the first row therefore takes a kernel folded without `second`'s upper row of taps, and likewise at the
    other borders and corners: nine kernels, all sums of the same nine products of taps.
    """
    with without_autocast(x):
        kernels, biases = fold_kernels(first, second)
    return apply_folded(x, kernels, biases)


def fold_kernels(first: nn.Conv2d, second: nn.Conv2d) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The 5x5 kernels and biases of `folded_convolutions` for [first, inner, last] row by the same of columns."""
    assert first.bias is not None and second.bias is not None  # `nn.Conv2d`'s default
    taps = second.weight.permute(2, 3, 0, 1)  # (3, 3, out, hidden)
    hidden, channels = first.weight.shape[:2]
    products = (taps.reshape(-1, hidden) @ first.weight.reshape(hidden, -1)).view(3, 3, -1, channels, 3, 3)
    offsets = taps @ first.bias  # (3, 3, out): added by each tap that lies on the middle map
    allowed = [range(1, 3), range(3), range(2)]
    kernels = [[_sum_shifted(products, rows, columns) for columns in allowed] for rows in allowed]
    biases = [
        [second.bias + total(offsets[i, j] for i in rows for j in columns) for columns in allowed] for rows in allowed
    ]
    return kernels, biases


def _sum_shifted(products: Tensor, rows: range, columns: range) -> Tensor:
    """The 5x5 kernel (out, in, 5, 5) that sums the products of the taps in `rows` and `columns`, each at its shift."""
    return total(F.pad(products[i, j], (j, 2 - j, i, 2 - i)) for i in rows for j in columns)


def apply_folded(x: Tensor, kernels: list[list[Tensor]], biases: list[list[Tensor]]) -> Tensor:
    """Convolve x (B, in, H, W), H and W at least 3, with `fold_kernels`' result -> (B, out, H, W)."""
    padded = F.pad(x, (2, 2, 2, 2))
    strips = [slice(0, 5), slice(1, -1), slice(-5, None)]
    rows = [
        torch.cat(
            [
                F.conv2d(padded[:, :, strips[row], strips[column]], kernels[row][column], biases[row][column])
                for column in range(3)
            ],
            dim=3,
        )
        for row in range(3)
    ]
    return torch.cat(rows, dim=2)
