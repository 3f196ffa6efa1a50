"""I3D, the network of FVD: Inception inflated to three dimensions (Carreira and Zisserman, CVPR 2017), Kinetics-400.

Tensor names are those of `i3d_pretrained_400.pt`, DeepMind's weights converted to PyTorch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 224  # px a side
FRAMES = 16  # of a segment, at least
CLASSES = 400

# Stages in order: (name, channels, kernel, stride) a convolution, (kernel, stride) a maximum, and (name, six channel
# numbers) an Inception module: 1x1; 1x1, 3x3; 1x1, 3x3; 1x1 behind a maximum.
_STAGES: tuple = (
    ("Conv3d_1a_7x7", 64, 7, 2),
    ((1, 3, 3), (1, 2, 2)),
    ("Conv3d_2b_1x1", 64, 1, 1),
    ("Conv3d_2c_3x3", 192, 3, 1),
    ((1, 3, 3), (1, 2, 2)),
    ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    ((3, 3, 3), (2, 2, 2)),
    ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    ((2, 2, 2), (2, 2, 2)),
    ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad (B, C, T, H, W) with zeros as TensorFlow's SAME does: the odd one of a pair lies behind."""
    pad: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (size % s or s), 0)
        pad = [total // 2, total - total // 2, *pad]  # F.pad takes the last dimension first
    return F.pad(x, pad)


class _Unit(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class _Maximum(nn.Module):
    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    def __init__(self, channels: int, out: tuple[int, ...]):
        super().__init__()
        self.b0 = _Unit(channels, out[0])
        self.b1a, self.b1b = _Unit(channels, out[1]), _Unit(out[1], out[2], 3)
        self.b2a, self.b2b = _Unit(channels, out[3]), _Unit(out[3], out[4], 3)
        self.b3a, self.b3b = _Maximum((3, 3, 3), (1, 1, 1)), _Unit(channels, out[5])

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(parts, dim=1)


class _Logits(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv3d = nn.Conv3d(channels, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """Classifies what is done in a video; FVD takes the scores before the softmax as its features."""

    def __init__(self):
        super().__init__()
        self._order = []
        channels = 3
        for number, stage in enumerate(_STAGES):
            module: nn.Module
            if isinstance(stage[0], tuple):
                name, module = f"MaxPool3d_{number}", _Maximum(*stage)
            elif isinstance(stage[1], tuple):
                name, out = stage
                module, channels = _Mixed(channels, out), out[0] + out[2] + out[4] + out[5]
            else:
                name, out, kernel, stride = stage
                module, channels = _Unit(channels, out, kernel, stride), out
            self.add_module(name, module)
            self._order.append(name)
        self.logits = _Logits(channels)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) RGB in [0, 1], T at least 16 -> scores (B, 400)."""
        x = videos * 2 - 1
        for name in self._order:
            x = getattr(self, name)(x)
        x = F.avg_pool3d(x, (2, SIZE // 32, SIZE // 32), 1)
        return self.logits(x).mean(dim=(2, 3, 4))
