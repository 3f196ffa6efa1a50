"""Pictures as arrays (H, W, 3) of uint8, as files and MediaPipe have them, and as tensors (3, H, W) in [0, 1]."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(pictures: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pictures).to(device).movedim(-1, -3).float() / 255


def to_pictures(images: Tensor) -> np.ndarray:
    """(..., 3, H, W), of which [0, 1] can be shown, to (..., H, W, 3) uint8; rounded, not cut."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()
