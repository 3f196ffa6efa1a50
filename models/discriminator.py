"""The multi-scale patch discriminator of pix2pixHD (Wang et al., 2018), used by IP-LAP, STSA and G4G."""

import itertools
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import check_positive, scaled


@dataclass
class DiscriminatorConfig:
    """The architecture of the discriminator; the defaults follow pix2pixHD and IP-LAP."""

    scales: int = 2  # number of networks of the same form, each on images of half the size of the one before
    layers: int = 3  # number of convolutions of stride 2
    channels: int = 64  # channels after the first convolution; doubled at each further one, up to 512
    together: int = 0  # frames in a window that further networks classify as a whole; 0: none; G4G has 5
    width: float = 1.0  # factor on all channels


class PatchDiscriminator(nn.Module):
    """Maps images to each layer's features at each scale; the last feature map holds one score a patch.

    Raises:
        ValueError: a count of the config is not positive.
    """

    Config = DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig | None = None):
        super().__init__()
        self.config = config = config or DiscriminatorConfig()
        check_positive(config, "scales", "layers", "channels", "width")
        if config.together < 0:
            raise ValueError(f"together is {config.together}; it is a number of frames, or 0")
        self.networks = nn.ModuleList(_layers(config, 3) for _ in range(config.scales))
        stacked = 3 * config.together
        self.sequences = nn.ModuleList(_layers(config, stacked) for _ in range(config.scales if stacked else 0))

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Score images.

        Args:
            images: (..., 3, H, W), any leading dimensions, in [0, 1]; H and W at least 32 for two scales. With
                `together`, (B, T, 3, H, W) with T equal to `together`.

        Returns:
            `scales` lists, the finest first; with `together`, `scales` further lists for whole windows. Each list has
            `layers` + 2 feature maps (N, C', H', W'). The last map has one channel: scores near 1 for patches
            classified as real and near 0 for those classified as generated.
        """
        features = _judged(self.networks, images.flatten(0, -4))
        return features + _judged(self.sequences, images.flatten(-4, -3)) if self.sequences else features


def _judged(networks: nn.ModuleList, images: Tensor) -> list[list[Tensor]]:
    """Each network's features of images (N, C, H, W); each further network takes them at half the size."""
    features = []
    for i, network in enumerate(networks):
        if i > 0:
            images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
        maps = [images]
        for layer in cast(nn.ModuleList, network):
            maps.append(layer(maps[-1]))
        features.append(maps[1:])
    return features


def _layers(config: DiscriminatorConfig, in_channels: int) -> nn.ModuleList:
    """4x4 convolutions with padding 2: `layers` of stride 2, one more of stride 1, and the scores'."""
    channels = [scaled(min(config.channels * 2**i, 512), config.width) for i in range(config.layers + 1)]
    layers: list[nn.Module] = [nn.Sequential(_convolution(in_channels, channels[0], stride=2), nn.LeakyReLU(0.2))]
    for i, (before, after) in enumerate(itertools.pairwise(channels), start=1):
        convolution = _convolution(before, after, stride=2 if i < config.layers else 1)
        layers.append(nn.Sequential(convolution, nn.InstanceNorm2d(after), nn.LeakyReLU(0.2)))
    layers.append(_convolution(channels[-1], 1, stride=1))
    return nn.ModuleList(layers)


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """A 4x4 convolution, initialised from N(0, 0.02) as is usual for this discriminator."""
    convolution = nn.Conv2d(in_channels, out_channels, 4, stride, padding=2)
    assert convolution.bias is not None  # by default it has one
    nn.init.normal_(convolution.weight, std=0.02)
    nn.init.zeros_(convolution.bias)
    return convolution
