"""A differentiable layer that draws boundary heatmaps through predicted keypoints, as `media.heatmap` draws them."""

import torch
from torch import Tensor, nn

from media.crop import STSA
from media.heatmap import CONTENT, KEYPOINTS, ORDER
from models.precision import full_precision

_PATCH = 26  # px; contains the longest edge and its ridge
_RADIUS = 3.0  # px, beyond which a heatmap is 0


class CurveDrawing(nn.Module):
    """The lips and the lower face's contour through 57 keypoints: exp(-d^2 / 2), d in pixels to the nearest curve.

    The distance d is taken to the edges, not to whole pixels, so that it has a gradient and slow motion does not jump.
    Inside the crop, d agrees with that of `draw_heatmap` to within half a pixel. If an end of an edge lies outside, the
    part inside is drawn; `draw_heatmap` leaves such an edge out. Each edge is evaluated in a patch around it, which
    contains edges of up to 20 pixels a side. Real faces have edges of up to some 14.

    Args:
        side: G, height and width of the heatmaps in pixels.
    """

    edges: Tensor
    offsets: Tensor

    def __init__(self, side: int = STSA.guidance):
        super().__init__()
        self.side = side
        place = {ORDER[position]: number for number, position in enumerate(KEYPOINTS)}
        edges = torch.tensor([[place[a], place[b]] for a, b in CONTENT])
        self.register_buffer("edges", edges, persistent=False)
        rows, columns = torch.meshgrid(torch.arange(_PATCH), torch.arange(_PATCH), indexing="ij")
        offsets = torch.stack([columns, rows], dim=-1).flatten(0, 1) - _PATCH // 2
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, keypoints: Tensor) -> Tensor:
        """Keypoints (M, 57, 2), x and y in [0, 1] of the crop -> heatmaps (M, 1, G, G) in [0, 1]."""
        ends = (full_precision(keypoints) * self.side - 0.5)[:, self.edges]  # (M, E, 2, 2), in pixel centres
        start, end = ends.unbind(dim=2)
        middle = ((start + end) / 2).detach().round().long()
        pixels = middle[:, :, None] + self.offsets  # (M, E, P, 2)
        along = (end - start)[:, :, None]
        offset = pixels - start[:, :, None]
        fraction = ((offset * along).sum(-1) / along.square().sum(-1).clamp_min(1e-6)).clamp(0, 1)
        squared = (offset - fraction[..., None] * along).square().sum(-1)
        value = torch.where(squared < _RADIUS**2, torch.exp(-squared / 2), 0.0)
        inside = ((pixels >= 0) & (pixels < self.side)).all(dim=-1)
        place = torch.where(inside, pixels[..., 1] * self.side + pixels[..., 0], self.side**2).flatten(1)
        canvas = value.new_zeros(len(value), self.side**2 + 1)  # the last place collects pixels outside
        canvas = canvas.scatter_reduce(1, place, value.flatten(1), "amax")
        return canvas[:, :-1].view(-1, 1, self.side, self.side)
