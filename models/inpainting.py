"""The inpainting generator: the masked face, its heatmap and the aligned references to the face (eq. 8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvBlock
from models.modulation import AdaInNorm, ModulatedBlock, SpadeNorm
from models.precision import full_precision


class InpaintingGenerator(nn.Module):
    """Masked face (B, 3, H, W), heatmap (B, c, H, W), aligned features and audio (B, code) -> face (B, 3, H, W)."""

    def __init__(self, heatmap_channels: int, base: int, hidden: int, code: int, spade_relu: bool):
        super().__init__()
        self.encoder = nn.Sequential(
            ConvBlock(2, 3 + heatmap_channels, base, kernel_size=7, padding=3),
            ConvBlock(2, base, 4 * base, stride=2),
            ConvBlock(2, 4 * base, 16 * base, stride=2),
        )
        self.spade_1 = ModulatedBlock(16 * base, SpadeNorm, 8 * base, hidden, spade_relu)
        self.adain_1 = ModulatedBlock(16 * base, AdaInNorm, code)
        self.spade_2 = ModulatedBlock(4 * base, SpadeNorm, 4 * base, hidden, spade_relu)
        self.adain_2 = ModulatedBlock(4 * base, AdaInNorm, code)
        self.spade_3 = ModulatedBlock(base, SpadeNorm, base, hidden, spade_relu)
        self.adain_3 = ModulatedBlock(base, AdaInNorm, code)
        self.to_rgb = nn.Conv2d(base, 3, 7, padding=3, bias=False)

    def forward(self, masked: Tensor, heatmaps: Tensor, aligned: list[Tensor], audio: Tensor) -> Tensor:
        """Faces in [0, 1]; `aligned` holds (B, c, H, W), (B, 4c, H/2, W/2), (B, 8c, H/4, W/4)."""
        full, half, quarter = aligned
        x = self.encoder(torch.cat([masked, heatmaps], dim=1))
        x = F.pixel_shuffle(self.adain_1(self.spade_1(x, quarter), audio), 2)
        x = F.pixel_shuffle(self.adain_2(self.spade_2(x, half), audio), 2)
        x = self.adain_3(self.spade_3(x, full), audio)
        return torch.sigmoid(full_precision(self.to_rgb(F.leaky_relu(x, 0.01))))
