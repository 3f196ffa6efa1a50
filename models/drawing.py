"""Boundary heatmaps drawn through predicted keypoints, with gradients: what `media.heatmap` draws, as a layer."""

import torch
from torch import Tensor, nn

from media.heatmap import CONTENT, KEYPOINTS, ORDER

_PATCH = 26  # px, at size 128: room for the longest edge and its ridge
_RADIUS = 3.0  # px, beyond which a heatmap is 0


class CurveDrawing(nn.Module):
    """The lips and the lower face's contour through 57 keypoints: exp(-d^2 / 2), d in pixels to the nearest curve.

    The distance is taken to the edges themselves, not to whole pixels, so that it has a gradient and slow motion does
    not jump; it agrees with `draw_heatmap` to within half a pixel. Each edge is evaluated in a patch around it only.
    """

    def __init__(self, size: int = 128):
        super().__init__()
        self.size = size
        place = {ORDER[position]: number for number, position in enumerate(KEYPOINTS)}
        edges = torch.tensor([[place[a], place[b]] for a, b in CONTENT])
        self.register_buffer("edges", edges, persistent=False)
        side = _PATCH * size // 128
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        self.register_buffer(
            "offsets", torch.stack([columns, rows], dim=-1).flatten(0, 1) - side // 2, persistent=False
        )

    def forward(self, keypoints: Tensor) -> Tensor:
        """Keypoints (M, 57, 2), x and y in [0, 1] of the crop -> heatmaps (M, 1, size, size) in [0, 1]."""
        ends = (keypoints.float() * self.size - 0.5)[:, self.edges]  # (M, E, 2, 2), in pixel centres
        start, end = ends.unbind(dim=2)
        middle = ((start + end) / 2).detach().round().long()
        pixels = middle[:, :, None] + self.offsets  # (M, E, P, 2)
        along = (end - start)[:, :, None]
        offset = pixels - start[:, :, None]
        fraction = ((offset * along).sum(-1) / along.square().sum(-1).clamp_min(1e-6)).clamp(0, 1)
        squared = (offset - fraction[..., None] * along).square().sum(-1)
        value = torch.where(squared < _RADIUS**2, torch.exp(-squared / 2), 0.0)
        inside = ((pixels >= 0) & (pixels < self.size)).all(dim=-1)
        place = torch.where(inside, pixels[..., 1] * self.size + pixels[..., 0], self.size**2).flatten(1)
        canvas = value.new_zeros(len(value), self.size**2 + 1)  # the last place takes what falls outside
        canvas = canvas.scatter_reduce(1, place, value.flatten(1), "amax")
        return canvas[:, :-1].view(-1, 1, self.size, self.size)
