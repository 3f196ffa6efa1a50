"""FVD: Fréchet distance of I3D's features of two sets of video segments (Unterthiner et al., arXiv 1812.01717)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.checkpoint import load_state, read_foreign, with_batch_counts
from models.i3d import FRAMES, I3D, SIZE


def load_i3d(weights: Path) -> I3D:
    """I3D in eval mode.

    Args:
        weights: `i3d_pretrained_400.pt` (`python -m checkpoints.fetch i3d`).

    Raises:
        InputError: the file does not hold that network.
    """
    network, state = I3D(), read_foreign(weights)
    load_state(network, with_batch_counts(network, state), str(weights))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def video_features(network: I3D, segments: Tensor) -> Tensor:
    """I3D's scores (B, 400), of segments (B, 16, 3, H, W) in [0, 1], which are resized to 224x224."""
    frames = F.interpolate(segments.flatten(0, 1), (SIZE, SIZE), mode="bilinear", align_corners=False)
    return network(frames.reshape(*segments.shape[:3], SIZE, SIZE).transpose(1, 2))


class Segments:
    """Cuts a stream of frames into segments of 16 consecutive frames, which do not overlap; a gap starts a new one."""

    def __init__(self):
        self._frames: list[Tensor] = []
        self._first = 0

    def add(self, index: int, frame: Tensor) -> tuple[int, Tensor] | None:
        """Add frame `index`, (3, H, W); returns (first index, (16, 3, H, W)) when it completes a segment."""
        if not self._frames or index != self._first + len(self._frames):
            self._frames, self._first = [], index
        self._frames.append(frame)
        if len(self._frames) < FRAMES:
            return None
        segment = self._first, torch.stack(self._frames)
        self._frames = []
        return segment


def as_rows(features: Tensor) -> np.ndarray:
    return features.double().cpu().numpy()
