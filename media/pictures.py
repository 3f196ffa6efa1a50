"""Converts pictures between uint8 arrays (H, W, 3), as in files and MediaPipe, and tensors (3, H, W) in [0, 1]."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(pictures: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pictures).to(device).movedim(-1, -3).float() / 255


def to_pictures(images: Tensor) -> np.ndarray:
    """(..., 3, H, W), clamped to [0, 1], to (..., H, W, 3) uint8, rounded to the nearest level."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()
