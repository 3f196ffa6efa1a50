"""DME: the error of a generated video's motion, by RAFT's optical flow of it and of the reference."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoint import load_state, read_foreign

MOVING = 1.0  # px: |u| + |v| of the reference beyond which a pixel counts as moving
ITERATIONS = 20
LARGEST = 640 * 640  # pixels; RAFT's memory grows with their square (0.2 GB here, 5 GB for a 1080p frame)
SMALLEST = 128  # px a side, RAFT's own limit


def load_raft(weights: Path) -> nn.Module:
    """torchvision's RAFT, large, in eval mode.

    Args:
        weights: the authors' Chairs + Things weights as torchvision publishes them, `Raft_Large_Weights.C_T_V1`
            (`python -m checkpoints.fetch raft`).

    Raises:
        InputError: the file does not hold that network.
    """
    from torchvision.models.optical_flow import raft_large

    network = raft_large(weights=None)
    load_state(network, read_foreign(weights), str(weights))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def optical_flow(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """RAFT's flow from `first` to `second` (Teed and Deng, ECCV 2020), 20 iterations.

    Images are padded to multiples of 8, which RAFT requires, by replicating their border. Images of more than 640x640
    pixels are scaled down to that area, and their flow is scaled back.

    Args:
        first, second: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 2, H, W), x then y, in pixels of the input.
    """
    height, width = first.shape[-2:]
    scale = min(1.0, (LARGEST / (height * width)) ** 0.5)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    down, right = (max(SMALLEST, -(-side // 8) * 8) - side for side in inner)

    def prepare(images: Tensor) -> Tensor:
        if scale < 1:
            images = functional.interpolate(images, inner, mode="bilinear", antialias=True, align_corners=False)
        return functional.pad(images, (0, right, 0, down), mode="replicate") * 2 - 1

    flow = network(prepare(first), prepare(second), num_flow_updates=ITERATIONS)[-1][..., : inner[0], : inner[1]]
    if scale < 1:
        flow = functional.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        flow = flow * flow.new_tensor([width / inner[1], height / inner[0]])[:, None, None]
    return flow


def dynamic_motion_error(generated_flow: Tensor, reference_flow: Tensor) -> np.ndarray:
    """Dynamic motion error (Chen et al., "Within the Dynamic Context: Inertia-aware 3D Human Modeling", ECCV 2024).

    The end-point error of the two flows between the same two frames, mean over the pixels where the reference moves,
    |u| + |v| > 1 px. Lower is better; equal motion gives 0.

    Args:
        generated_flow, reference_flow: (B, 2, H, W) in pixels.

    Returns:
        (B,) in pixels; NaN for a pair of frames in which nothing of the reference moves.
    """
    error = torch.linalg.vector_norm(generated_flow - reference_flow, dim=1)
    moving = reference_flow.abs().sum(dim=1) > MOVING
    total = (error * moving).sum(dim=(1, 2))
    count = moving.sum(dim=(1, 2))
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan).double().cpu().numpy()
