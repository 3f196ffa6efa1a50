"""Reading the points that a heatmap was drawn through, where a caller has heatmaps alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.heatmap import ORDER
from models.layers import ConvBlock

_CHANNELS = 16
_BEYOND = 0.15  # of the crop, by which points may lie outside of it


class PointReader(nn.Module):
    """Heatmaps of whole faces, or of upper faces alone, to their 131 points; a soft argmax a point.

    Not in the paper. It is trained apart (`training.learn_reading`) and then stays as it is, its parameters without
    gradient. Callers that know the points give these: what is read of unseen people lies a pixel off.
    """

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
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "PointReader":
        """Stays in eval mode when the network around it is trained."""
        return super().train(False)

    def forward(self, heatmaps: Tensor) -> Tensor:
        """(..., 1, 128, 128) in [0, 1] -> (..., 131, 2) in units of the crop; of an upper face its own points count."""
        shape = heatmaps.shape[:-3]
        fine = self.down(heatmaps.flatten(0, -4))
        middle = self.middle(fine)
        x = self.up(F.interpolate(self.coarse(middle), size=middle.shape[-2:])) + middle
        x = torch.cat([self.last(F.interpolate(x, size=fine.shape[-2:])), fine], dim=1)
        likely = self.points(x).float().flatten(2).softmax(dim=2)  # (M, 131, h w)
        height, width = x.shape[-2:]
        return (likely @ _cells(height, width, likely)).unflatten(0, shape)


def _cells(height: int, width: int, like: Tensor) -> Tensor:
    """(height width, 2): the centres of a grid's cells over the crop and what lies beyond it, x and y."""
    y, x = (
        (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n * (1 + 2 * _BEYOND) - _BEYOND
        for n in (height, width)
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
