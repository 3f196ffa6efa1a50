"""CSIM: how much the generated face is the same person's, by ArcFace."""

from pathlib import Path

import cv2
import numpy as np

from media.errors import InputError
from models.arcface import POINTS, SIZE, TEMPLATE, ArcFace, blocks_of
from models.checkpoint import load_state, read_foreign, with_batch_counts


def load_arcface(weights: Path) -> ArcFace:
    """ArcFace in eval mode.

    Args:
        weights: a `backbone.pth` of insightface's arcface_torch, of any depth (`python -m checkpoints.fetch arcface`).

    Raises:
        InputError: the file does not hold that network.
    """
    state = read_foreign(weights)
    try:
        network = ArcFace(blocks_of(state))
    except ValueError as error:
        raise InputError(f"{weights} is not ArcFace: {error}; fetch it again") from error
    load_state(network, with_batch_counts(network, state), str(weights))
    return network.eval().requires_grad_(False)


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift (2, 3) that maps `points` (N, 2) closest to `target` (N, 2), in least squares."""
    x, y = np.asarray(points, np.float64).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    # x' = a x - b y + c, y' = b x + a y + d
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(rows, np.concatenate(np.asarray(target, np.float64).T), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def aligned(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face of `frame` (H, W, 3) uint8 RGB as ArcFace expects it, (112, 112, 3), by its mesh points (478, 2)."""
    matrix = similarity(landmarks[list(POINTS)], TEMPLATE)
    return cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def cosine_similarity(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """CSIM: the cosine of ArcFace's embeddings of two faces; higher is better, one picture gives 1.

    As a measure of talking heads: Zakharov et al., "Few-Shot Adversarial Learning of Realistic Neural Talking Head
    Models", ICCV 2019.

    Args:
        generated, reference: (B, 512), each of length 1.

    Returns:
        (B,) in [-1, 1].
    """
    return np.einsum("bd,bd->b", generated.astype(np.float64), reference.astype(np.float64))
