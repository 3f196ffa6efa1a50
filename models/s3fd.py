"""S3FD, the face detector of SyncNet's published pipeline (Zhang et al., ICCV 2017).

Tensor names are those of `sfd_face.pth`.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

MEAN = (123.0, 117.0, 104.0)  # RGB
STEPS = (4, 8, 16, 32, 64, 128)  # px of the picture between two places of a map
SIDES = tuple(4 * step for step in STEPS)  # px of a map's prior boxes
VARIANCES = (0.1, 0.2)
LOWEST, OVERLAP, LAST_OVERLAP = 0.05, 0.3, 0.1  # score of a candidate; overlaps of boxes that are one face

_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # convolutions between two maxima
_EXTRAS = ((1024, 256, 1, 1), (256, 512, 3, 2), (512, 128, 1, 1), (128, 256, 3, 2))  # channels, kernel, stride
_MAPS = (256, 512, 512, 1024, 512, 256)  # channels of the six maps in which faces are looked for
_NORMED = {15: "L2Norm3_3", 22: "L2Norm4_3", 29: "L2Norm5_3"}  # last layer of a stage -> its scaling


class _Scaling(nn.Module):
    """Scales each place's channels to length 1, and by a weight a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10) * self.weight[:, None, None]


class S3FD(nn.Module):
    """Finds faces at six scales."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for number, stage in enumerate(_VGG):
            for out in stage:
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
                channels = out
            layers.append(nn.MaxPool2d(2, ceil_mode=number == 2))
        layers += [nn.Conv2d(channels, _MAPS[3], 3, padding=6, dilation=6), nn.ReLU()]
        layers += [nn.Conv2d(_MAPS[3], _MAPS[3], 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        for name, channels in zip(_NORMED.values(), _MAPS, strict=False):
            setattr(self, name, _Scaling(channels))
        self.extras = nn.ModuleList([nn.Conv2d(a, b, k, s, padding=k // 2) for a, b, k, s in _EXTRAS])
        self.loc = nn.ModuleList([nn.Conv2d(channels, 4, 3, padding=1) for channels in _MAPS])
        self.conf = nn.ModuleList([nn.Conv2d(n, 2 if i else 4, 3, padding=1) for i, n in enumerate(_MAPS)])

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for number, layer in enumerate(self.vgg):
            x = layer(x)
            if number in _NORMED:
                maps.append(getattr(self, _NORMED[number])(x))
        maps.append(x)
        for number, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if number % 2:
                maps.append(x)
        return maps

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates in a picture (3, H, W), RGB in 0 to 255: boxes (P, 4) x1 y1 x2 y2 in pixels, and scores (P,)."""
        boxes, scores = [], []
        x = (picture - picture.new_tensor(MEAN)[:, None, None])[None]
        for place, each in enumerate(self._maps(x)):
            found, judged = self.loc[place](each)[0], self.conf[place](each)[0]
            if place == 0:  # the finest map has three kinds of background
                judged = torch.cat([judged[:3].amax(dim=0, keepdim=True), judged[3:]])
            boxes.append(decoded(found, STEPS[place], SIDES[place]))
            scores.append(judged.softmax(dim=0)[1].flatten())
        return torch.cat(boxes), torch.cat(scores)


def decoded(found: Tensor, step: int, side: int) -> Tensor:
    """Boxes (h w, 4) of a map's output (4, h, w): shifts of the prior boxes' centres, and logarithms of growth."""
    height, width = found.shape[1:]
    rows, columns = torch.meshgrid(
        *(torch.arange(n, device=found.device, dtype=found.dtype) for n in (height, width)), indexing="ij"
    )
    x = (columns + 0.5) * step + found[0] * VARIANCES[0] * side
    y = (rows + 0.5) * step + found[1] * VARIANCES[0] * side
    half_width, half_height = (side * torch.exp(found[k] * VARIANCES[1]) / 2 for k in (2, 3))
    box = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)
    return box.reshape(-1, 4)


@torch.no_grad()
def detect(network: S3FD, frame: np.ndarray, scale: float, lowest: float, device: str = "cpu") -> np.ndarray:
    """Faces of `frame` (H, W, 3) uint8 RGB, the surest first: (N, 4) float64 boxes x1 y1 x2 y2 in its pixels.

    Args:
        scale: of the picture that is searched.
        lowest: score in [0, 1] that a face has at least.
    """
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    boxes, scores = network(torch.from_numpy(small).to(device).permute(2, 0, 1).float())
    likely = scores > LOWEST
    boxes, scores = boxes[likely], scores[likely]
    kept = nms(boxes, scores, OVERLAP)
    kept = kept[scores[kept] > lowest]
    kept = kept[nms(boxes[kept], scores[kept], LAST_OVERLAP)]
    sizes = np.array([frame.shape[1] / small.shape[1], frame.shape[0] / small.shape[0]] * 2)
    return boxes[kept].double().cpu().numpy() * sizes
