"""ArcFace's embedding of a face (Deng et al., CVPR 2019): the improved ResNet that insightface publishes weights of.

Tensor names are those of the published `backbone.pth` files (iresnet18 to iresnet200).
"""

import re

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 112  # px, of the aligned face
CHANNELS = (64, 128, 256, 512)
EMBEDDING = 512
# Where the weights expect the eyes, the nose's tip and the mouth's corners in the aligned face, x and y in px.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
POINTS = (468, 473, 1, 61, 291)  # MediaPipe's mesh points for them: two irises, nose tip, mouth corners


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))


class ArcFace(nn.Module):
    """Embeds aligned faces; the cosine of two embeddings says how alike two people are.

    Args:
        blocks: number of blocks in each of the four stages; (3, 4, 14, 3) is iresnet50.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 14, 3)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.prelu = nn.PReLU(CHANNELS[0])
        channels = CHANNELS[0]
        for number, (count, out) in enumerate(zip(blocks, CHANNELS, strict=True), 1):
            stage = [_Block(channels if i == 0 else out, out, 2 if i == 0 else 1) for i in range(count)]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
            channels = out
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * (SIZE // 16) ** 2, EMBEDDING)
        self.features = nn.BatchNorm1d(EMBEDDING)

    def forward(self, faces: Tensor) -> Tensor:
        """(B, 3, 112, 112) RGB in [0, 1] -> embeddings (B, 512) of length 1."""
        x = self.prelu(self.bn1(self.conv1(faces * 2 - 1)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return F.normalize(self.features(self.fc(self.bn2(x).flatten(1))))


def blocks_of(state: dict[str, Tensor]) -> tuple[int, ...]:
    """The number of blocks in each stage of a published state dict; ValueError where a stage has none."""
    found: list[set[int]] = [set(), set(), set(), set()]
    for name in state:
        if match := re.match(r"layer([1-4])\.(\d+)\.", name):
            found[int(match[1]) - 1].add(int(match[2]))
    if not all(found):
        raise ValueError(f"it has no tensor of layer{[bool(each) for each in found].index(False) + 1}")
    return tuple(len(each) for each in found)


@torch.no_grad()
def embed(network: ArcFace, faces: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Embeddings (B, 512) float32 of aligned faces (B, 112, 112, 3) uint8 RGB."""
    images = torch.from_numpy(np.ascontiguousarray(faces)).to(device).permute(0, 3, 1, 2).float() / 255
    return network(images).float().cpu().numpy()
