"""Parts of the spatial path: encodes the stacked reference images and transforms each feature channel affinely."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvBlock
from models.precision import without_autocast

# px, the smallest side of `AlignmentEncoder`'s input: ceil(ceil(ceil(25 / 3) / 2) / 2) = 3, its last kernel.
SMALLEST_ALIGNED = 25
_MOST_SAMPLED = 32768  # images in one call of grid_sample; cuDNN refuses 65536


class PreActivationBlock(nn.Module):
    """x + (BN, ReLU, conv 3x3, BN, ReLU, conv 3x3)(x)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(F.relu(self.norm_1(x)))
        return x + self.conv_2(F.relu(self.norm_2(y)))


def residual_pair(channels: int) -> nn.Sequential:
    return nn.Sequential(PreActivationBlock(channels), PreActivationBlock(channels))


class ReferenceEncoder(nn.Module):
    """The stacked reference images (B, 3 N, H, W) -> features at full, half and quarter size, c, 4 c, 8 c channels."""

    def __init__(self, in_channels: int, base: int):
        super().__init__()
        self.scale_1 = nn.Sequential(ConvBlock(2, in_channels, base), residual_pair(base))
        self.scale_2 = nn.Sequential(
            ConvBlock(2, base, 2 * base, stride=2), ConvBlock(2, 2 * base, 4 * base), residual_pair(4 * base)
        )
        self.scale_3 = nn.Sequential(
            ConvBlock(2, 4 * base, 8 * base, stride=2), ConvBlock(2, 8 * base, 8 * base), residual_pair(8 * base)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.scale_1(images)
        second = self.scale_2(first)
        return [first, second, self.scale_3(second)]


class HeatmapEncoder(nn.Module):
    """Heatmaps (B, channels, H, W) -> features at full, half and quarter size, all of `base` channels."""

    def __init__(self, in_channels: int, base: int):
        super().__init__()
        self.scale_1 = ConvBlock(2, in_channels, base, kernel_size=7, padding=3)
        self.scale_2 = ConvBlock(2, base, base, stride=2)
        self.scale_3 = ConvBlock(2, base, base, stride=2)

    def forward(self, heatmaps: Tensor) -> list[Tensor]:
        first = self.scale_1(heatmaps)
        second = self.scale_2(first)
        return [first, second, self.scale_3(second)]


class AlignmentEncoder(nn.Module):
    """[reference feature, reference heatmaps, target heatmap] -> code of the difference between their poses, (B, code).

    `doublings` stride-2 convolutions first bring a finer scale's input to the coarsest scale's size.
    """

    def __init__(self, in_channels: int, code: int, doublings: int = 0):
        super().__init__()
        entry = [ConvBlock(2, in_channels, code, stride=2 if doublings else 1)]
        entry += [ConvBlock(2, code, code, stride=2) for _ in range(doublings - 1)]
        self.layers = nn.Sequential(
            *entry,
            ConvBlock(2, code, code, kernel_size=11, padding=5),
            ConvBlock(2, code, code, stride=3),
            ConvBlock(2, code, code, kernel_size=7, padding=3),
            ConvBlock(2, code, code, stride=2),
            ConvBlock(2, code, code),
            ConvBlock(2, code, code, stride=2),
            ConvBlock(2, code, code),
            ConvBlock(2, code, code, stride=2, padding=0),  # of 3 px or more: see SMALLEST_ALIGNED
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).mean(dim=(2, 3))


class AdaAT(nn.Module):
    """Adaptive affine transformation: each channel scaled, rotated and moved by its own four numbers (eq. 5).

    Args:
        code: width of the audio and of the alignment code.
        sampler: "plain" samples each channel in 2-D. "channel_blending" computes the released network's 3-D
            `grid_sample`, whose grid is made for align_corners=True and read with align_corners=False: channel k reads
            a blend of two neighbouring channels, and pixels are offset by half a pixel.
        slope: negative slope of the activation between the linear layers; 0, a ReLU, in STSA.
    """

    def __init__(self, channels: int, code: int, sampler: str, slope: float = 0.0):
        super().__init__()
        self.channels = channels
        self.align_corners, self.slope = sampler == "plain", slope
        self.shared = nn.Linear(2 * code, 2 * code)
        self.scale = nn.Linear(2 * code, channels)
        self.rotation = nn.Linear(2 * code, channels)
        self.translation = nn.Linear(2 * code, 2 * channels)
        for head in (self.scale, self.rotation, self.translation):  # training starts from the identity
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def blend(self, features: Tensor) -> Tensor:
        """The maps (B, C, H, W) that `forward` samples: blended channels, or with the plain sampler `features`."""
        return features if self.align_corners else blend_channels(features)

    def forward(self, blended: Tensor, code: Tensor) -> Tensor:
        """Transform each channel of `blend`'s result (B, C, H, W) by [audio, alignment] (B, 2 code); zeros outside."""
        batch, channels, height, width = blended.shape
        with without_autocast(code):  # half precision would lose fractions of a pixel
            grid = self.grid(code.to(self.shared.weight.dtype), height, width)
        channels_apart = blended.reshape(batch * channels, 1, height, width).to(grid.dtype)
        pieces = zip(channels_apart.split(_MOST_SAMPLED), grid.split(_MOST_SAMPLED), strict=True)
        sampled = [F.grid_sample(*piece, align_corners=self.align_corners) for piece in pieces]
        moved = torch.cat(sampled) if len(sampled) > 1 else sampled[0]
        return moved.view_as(blended).to(blended.dtype)

    def grid(self, code: Tensor, height: int, width: int) -> Tensor:
        """The points (B C, H, W, 2) that each channel reads, x and y in [-1, 1], for the codes (B, 2 code)."""
        code = F.leaky_relu(self.shared(code), self.slope)
        scale = 2 * torch.sigmoid(self.scale(code))
        angle = 3.14159 * torch.tanh(self.rotation(code))  # the released network's constant
        translation = torch.tanh(self.translation(code)).unflatten(1, (self.channels, 2))
        return affine_grid(scale.flatten(), angle.flatten(), translation.flatten(0, 1), height, width)


def affine_grid(scale: Tensor, angle: Tensor, translation: Tensor, height: int, width: int) -> Tensor:
    """The points (M, H, W, 2) that M maps read: scale R(angle) (x, y) + translation, corners at -1 and 1 (G4G eq. 11).

    scale, angle: (M,); translation: (M, 2). The order of the operations is the released network's, because the image's
    width multiplies rounding errors.
    """
    x, y = coordinates(width, scale), coordinates(height, scale)
    rotation = torch.stack([torch.cos(angle), torch.sin(angle), -torch.sin(angle), torch.cos(angle)], dim=1)
    columns, rows = rotation[:, None, None].chunk(2, dim=-1)  # each (M, 1, 1, 2)
    rotated = columns * x[:, None] + rows * y[:, None, None]
    return torch.addcmul(translation[:, None, None], rotated, scale[:, None, None, None])


def coordinates(size: int, like: Tensor) -> Tensor:
    """`size` numbers from -1 to 1, on the device of `like` and of its type; float32 in place of half precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision does not resolve 256 channels
    return 2 * (torch.arange(size, device=like.device, dtype=dtype) / (size - 1)) - 1


def blend_channels(features: Tensor) -> Tensor:
    """Channel k of (B, C, H, W) becomes the linear blend at depth k C/(C-1) - 1/2, with zeros beyond first and last."""
    channels = features.shape[1]
    depth = ((coordinates(channels, features) + 1) * channels - 1) / 2
    below = depth.floor()
    fraction = (depth - below)[:, None, None].to(features.dtype)
    padded = F.pad(features, (0, 0, 0, 0, 1, 1))  # channel k is at k + 1
    index = below.long() + 1
    return padded[:, index] * (1 - fraction) + padded[:, index + 1] * fraction
