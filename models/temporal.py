"""Parts of the temporal path: warps each reference's features to the target by a dense flow; takes a weighted mean."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvBlock
from models.modulation import AdaInNorm, ModulatedBlock, SpadeNorm
from models.spatial import coordinates


class TemporalEncoder(nn.Module):
    """One reference's [image, heatmap] (B, channels, H, W) -> features at full, half, quarter size, c, 4 c, 8 c."""

    def __init__(self, in_channels: int, base: int):
        super().__init__()
        self.scale_1 = ConvBlock(2, in_channels, base, kernel_size=7, padding=3)
        self.scale_2 = ConvBlock(2, base, 4 * base, stride=2)
        self.scale_3 = ConvBlock(2, 4 * base, 8 * base, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.scale_1(x)
        second = self.scale_2(first)
        return [first, second, self.scale_3(second)]


class FlowPredictor(nn.Module):
    """Flow and weight of a reference from its half-size feature, the target heatmap and the audio (eq. 6)."""

    def __init__(self, heatmap_channels: int, base: int, hidden: int, code: int, spade_relu: bool):
        super().__init__()
        self.spade_1 = ModulatedBlock(4 * base, SpadeNorm, heatmap_channels, hidden, spade_relu)
        self.adain_1 = ModulatedBlock(4 * base, AdaInNorm, code)
        self.spade_2 = ModulatedBlock(4 * base, SpadeNorm, heatmap_channels, hidden, spade_relu)
        self.adain_2 = ModulatedBlock(4 * base, AdaInNorm, code)
        self.spade_3 = ModulatedBlock(base, SpadeNorm, heatmap_channels, hidden, spade_relu)
        self.flow = nn.Conv2d(base, 2, 7, padding=3)
        self.weight = nn.Sequential(nn.Conv2d(base, base, 7, padding=3), nn.ReLU(), nn.Conv2d(base, 1, 7, padding=3))
        for parameter in (*self.flow.parameters(), *self.weight[2].parameters()):
            nn.init.zeros_(parameter)  # training starts from the references' mean, unmoved

    def forward(self, features: Tensor, heatmaps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B N, 4 c, H/2, W/2), heatmaps (B, channels, H, W), audio (B, code) -> flows and weights.

        The flows (B N, 2, H, W) are in pixels of the full size; the weights (B N, 1, H, W) are logits.
        """
        x = self.spade_1(features, heatmaps)
        x = self.adain_1(x, audio)
        x = self.spade_2(x, heatmaps)
        x = self.adain_2(x, audio)
        x = self.spade_3(F.pixel_shuffle(x, 2), heatmaps)
        # One convolution for both heads' first layers: at full size with few channels, it takes as long as one head's.
        first = cast(nn.Conv2d, self.weight[0])
        assert self.flow.bias is not None and first.bias is not None  # `nn.Conv2d`'s default
        kernels = torch.cat([self.flow.weight, first.weight])
        biases = torch.cat([self.flow.bias, first.bias])
        flow, weight = F.conv2d(x, kernels, biases, padding=3).tensor_split([2], dim=1)
        return flow, self.weight[1:](weight)


def warp_and_sum(features: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Warp N references' features and take the mean by weight.

    Args:
        features: (B, N, C, h, w), one scale's.
        grid: (B N, 2, H, W), `deformation` at full size.
        weights: (B N, 1, H, W) in [0, 1].

    Returns:
        (B, C, h, w)
    """
    size = features.shape[-2:]
    if grid.shape[-2:] != size:
        # The sampling points are resized, not the displacements: the base grid's corners move inwards.
        grid = F.interpolate(grid, size=size, mode="bilinear")
        weights = F.interpolate(weights, size=size, mode="nearest")
    grid = grid.permute(0, 2, 3, 1).unflatten(0, features.shape[:2])
    weights = weights.unflatten(0, features.shape[:2])
    shares = weights / (weights.sum(dim=1, keepdim=True) + 1e-5)
    total = features.new_zeros(())
    # One reference at a time: features that the frames of a video share are then read in place instead of copied.
    for feature, points, share in zip(features.unbind(1), grid.unbind(1), shares.unbind(1), strict=True):
        warped = F.grid_sample(feature.to(points.dtype), points, align_corners=False)
        total = torch.addcmul(total, warped, share.to(warped.dtype))
    return total.to(features.dtype)


def deformation(flow: Tensor, grid: str) -> Tensor:
    """The points (M, 2, H, W) that the flow (M, 2, H, W), in pixels, reads; x and y in [-1, 1].

    Args:
        grid: "centres" are pixel centres at every scale, as `warp_and_sum` reads them. "corners" run from corner to
            corner, as in the released network; read as centres, they reach half a pixel too far at the edges.
    """
    height, width = flow.shape[-2:]
    # Under autocast too: half precision cannot hold a position and a fraction of a pixel.
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
    x, y = coordinates(width, flow), coordinates(height, flow)
    if grid == "corners":
        return torch.stack([x + flow[:, 0] * (2 / (width - 1)), y[:, None] + flow[:, 1] * (2 / (height - 1))], dim=1)
    x, y = x * ((width - 1) / width), y * ((height - 1) / height)
    return torch.stack([x + flow[:, 0] * (2 / width), y[:, None] + flow[:, 1] * (2 / height)], dim=1)
