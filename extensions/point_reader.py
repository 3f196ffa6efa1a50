"""Reads the landmarks that a heatmap was drawn through, for callers that have heatmaps only."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.crop import STSA
from media.heatmap import ORDER
from models.layers import ConvBlock
from models.precision import full_precision, without_autocast

_CHANNELS = 16
_BEYOND = 0.15  # of the crop: largest distance of points outside of it
_SPACINGS = (
    1.5,
    1.0,
)  # px of a heatmap of STSA's size: spacing of each correction's samples; the first has the larger errors to correct
_SIDE = 9  # a correction samples 9 x 9 places around each point
_SEEN, _HIDDEN = 16, 160  # features of each point's surroundings, and of all points together
_STEP = 0.02  # unit of the outputs; corrections are some hundredths of the crop


class PointReader(nn.Module):
    """Reads the 131 landmarks off heatmaps of whole faces, or of upper faces only.

    Not in the paper. A soft argmax for each point has an error of one pixel on unseen people. Two corrections reduce it
    to a third of a pixel. Each is a regression from the heatmap around the points of the previous reading (a cascade,
    as in Xiong and De la Torre, 2013). Pretrained by `lessons.learn_reading`, then frozen. Callers that have the
    landmarks pass them instead.
    """

    def __init__(self):
        super().__init__()
        self.first = _FirstReading()
        self.corrections = nn.ModuleList(_Correction(spacing / STSA.guidance) for spacing in _SPACINGS)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PointReader":
        """Stays in eval mode when the network that contains it is trained."""
        return super().train(False)

    @property
    def learned(self) -> bool:
        """Whether it was trained: before training, the corrections' last layers are 0."""
        return bool(cast(_Correction, self.corrections[-1]).step.weight.any())

    def forward(self, heatmaps: Tensor) -> Tensor:
        """(..., 1, H, W) in [0, 1] -> (..., 131, 2) in units of the crop; for an upper face, only its points count."""
        return self.readings(heatmaps.flatten(0, -4))[-1].unflatten(0, heatmaps.shape[:-3])

    def readings(self, heatmaps: Tensor) -> list[Tensor]:
        """Heatmaps (M, 1, H, W) -> the first reading and that after each correction, (M, 131, 2) each."""
        with without_autocast(heatmaps):  # half precision would round to half pixels
            heatmaps = full_precision(heatmaps)
            readings = [self.first(heatmaps)]
            for correct in self.corrections:
                readings.append(correct(heatmaps, readings[-1]))
        return readings


class _FirstReading(nn.Module):
    """A soft argmax for each point, from fine and coarse features of the heatmap."""

    def __init__(self):
        super().__init__()
        c = _CHANNELS
        self.down = nn.Sequential(ConvBlock(2, 1, c // 2, stride=2), ConvBlock(2, c // 2, c, stride=2))
        self.middle = nn.Sequential(ConvBlock(2, c, 2 * c, stride=2), ConvBlock(2, 2 * c, 2 * c, residual=True))
        blocks = [ConvBlock(2, 4 * c, 4 * c, residual=True) for _ in range(3)]
        self.coarse = nn.Sequential(ConvBlock(2, 2 * c, 4 * c, stride=2), *blocks)
        self.up = ConvBlock(2, 4 * c, 2 * c)
        self.last = ConvBlock(2, 2 * c, 2 * c)
        self.points = nn.Conv2d(3 * c, len(ORDER), 1)

    def forward(self, heatmaps: Tensor) -> Tensor:
        """(M, 1, H, W) -> (M, 131, 2)."""
        fine = self.down(heatmaps)
        middle = self.middle(fine)
        x = self.up(F.interpolate(self.coarse(middle), size=middle.shape[-2:])) + middle
        x = torch.cat([self.last(F.interpolate(x, size=fine.shape[-2:])), fine], dim=1)
        likely = self.points(x).flatten(2).softmax(dim=2)  # (M, 131, h w)
        height, width = x.shape[-2:]
        return likely @ _cells(height, width, likely)


class _Correction(nn.Module):
    """Moves points by the heatmap around them, sampled in steps of `spacing` of the crop, and by all points' places."""

    around: Tensor

    def __init__(self, spacing: float):
        super().__init__()
        points = len(ORDER)
        steps = spacing * (torch.arange(_SIDE) - _SIDE // 2)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("around", around, persistent=False)
        self.look = nn.Parameter(torch.randn(points, _SIDE**2, _SEEN) / _SIDE)  # weights for each point
        self.look_bias = nn.Parameter(torch.zeros(points, _SEEN))
        self.together = nn.Linear(points * (_SEEN + 2), _HIDDEN)
        self.further = nn.Linear(_HIDDEN, _HIDDEN)
        self.step = nn.Linear(_HIDDEN, 2 * points)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.step.bias)

    def forward(self, heatmaps: Tensor, points: Tensor) -> Tensor:
        """Heatmaps (M, 1, H, W) and points (M, 131, 2) -> points (M, 131, 2)."""
        places = 2 * (points[:, :, None] + self.around) - 1
        patches = F.grid_sample(heatmaps, places, align_corners=False)[:, 0]  # (M, 131, places)
        seen = F.relu(torch.einsum("mpa,pas->mps", patches, self.look) + self.look_bias)
        x = F.relu(self.together(torch.cat([seen.flatten(1), 4 * (points.flatten(1) - 0.5)], dim=1)))
        x = x + F.relu(self.further(x))
        return points + _STEP * self.step(x).unflatten(1, (-1, 2))


def _cells(height: int, width: int, like: Tensor) -> Tensor:
    """(height width, 2): x and y of the cell centres of a grid over the crop and its surroundings (`_BEYOND`)."""
    y, x = (
        (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n * (1 + 2 * _BEYOND) - _BEYOND
        for n in (height, width)
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
