"""Flicker: how unsteady a video is from frame to frame."""

import torch
from torch import Tensor


def flicker(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """Mean absolute second difference in time, |I(t-1) - 2 I(t) + I(t+1)| / 2, over pixels and colours, in grey levels.

    VBench's "temporal flickering" (Huang et al., CVPR 2024) is the mean absolute difference of two frames, which grows
    with every motion. The second difference is 0 for steady change, so it shows what alternates: jitter and flicker.
    Lower is better. A frozen video has 0, and the true video its own value, that of the camera and the codec.

    Args:
        before, now, after: (B, 3, H, W) in [0, 1], the same part of three consecutive frames.

    Returns:
        (B,) in 0 to 255.
    """
    return torch.mean(torch.abs(before - 2 * now + after), dim=(1, 2, 3)) * (255 / 2)
