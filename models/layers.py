"""Blocks that several networks share."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from media.audio import FEATURES
from models.precision import full_precision, without_autocast

AUDIO_CHANNELS = {kind: channels for kind, (channels, _) in FEATURES.items()}  # by kind of audio features
_CONVOLUTION: dict[int, Callable[..., nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
_BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation; a residual block adds its input before the activation.

    Args:
        dimensions: 1 for (B, C, W), 2 for (B, C, H, W).
        activation: a module such as `nn.ReLU()`; `nn.Identity()` for none.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        residual: bool = False,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.conv = _CONVOLUTION[dimensions](in_channels, out_channels, kernel_size, stride, padding)
        self.norm = _BATCH_NORM[dimensions](out_channels)
        self.residual = residual
        self.activation = nn.ReLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.activation(x + y if self.residual else y)


class AudioEncoder(nn.Module):
    """Encodes audio windows (B, C, W) as (B, code). Log-mel windows leave two positions, which are averaged."""

    def __init__(self, in_channels: int, code: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(1, in_channels, code),
            ConvBlock(1, code, code, stride=2),
            ConvBlock(1, code, code, residual=True),
            ConvBlock(1, code, code, residual=True),
            ConvBlock(1, code, code, stride=2),
            ConvBlock(1, code, code, residual=True),
            ConvBlock(1, code, code, residual=True),
            ConvBlock(1, code, code, residual=True),
            ConvBlock(1, code, code, padding=0),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio).mean(dim=2)


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at the width factor `width` (1 = the paper's), a multiple of 4 and at least 4."""
    return max(4, 4 * round(channels * width / 4))


def check_positive(config: Any, *names: str) -> None:
    """ValueError if an option of a network's config is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be positive")


def check_references(images: Tensor, count: int) -> None:
    """ValueError if there are not `count` reference images (B, N, ...), which a network stacks."""
    if images.shape[1] != count:
        raise ValueError(f"this network takes {count} reference images, not {images.shape[1]}")


def painted_over(x: Tensor, copy: Tensor) -> Tensor:
    """Blend the colours of x (B, 4, H, W) into `copy`, weighted by x's last channel: faces (B, 3, H, W) in [0, 1].

    Training starts near the copy. Computed in float32: bfloat16 resolves half of an image's grey levels.
    """
    x = full_precision(x)
    return torch.lerp(torch.sigmoid(x[:, :3]), full_precision(copy), torch.sigmoid(x[:, 3:] + 2))


def in_full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in float32 under autocast: bfloat16 would round coordinates in [0, 1] to steps of half a pixel."""
    with without_autocast(x):
        return layer(full_precision(x))


def repeated(x: Tensor, times: int) -> Tensor:
    """Each row of x (B, ...) repeated `times` times, (B times, ...); a single row is expanded without copies."""
    return x.expand(times, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(times, dim=0)


def renamed(state_dict: dict[str, Tensor], names: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Pick the tensors of a foreign `state_dict` by pairs (own name, foreign name); other tensors are dropped.

    Raises:
        ValueError: a foreign tensor is missing; the message names it.
    """
    state_dict = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    state = {}
    for own, foreign in names:
        if foreign not in state_dict:
            raise ValueError(f"the tensor {foreign} is missing")
        state[own] = state_dict[foreign]
    return state
