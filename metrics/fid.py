"""Fréchet inception distance of two sets of images (Heusel et al., NeurIPS 2017), with pytorch-fid's network."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from media.errors import InputError
from models.checkpoint import read_foreign

FEATURES = 2048


def load_inception(weights: Path) -> nn.Module:
    """pytorch-fid's InceptionV3 up to pool3, in eval mode.

    Args:
        weights: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` (`python -m checkpoints.fetch fid`).

    Raises:
        InputError: the file does not hold that network.
    """
    from pytorch_fid import inception

    state = read_foreign(weights)
    # The package builds the network and downloads its weights in one function; the patch passes it the local weights.
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: state):
        try:
            network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]])
        except RuntimeError as error:
            raise InputError(f"{weights} does not fit pytorch-fid's Inception; fetch it again") from error
    return network.eval()


@torch.no_grad()
def inception_features(network: nn.Module, images: Tensor) -> Tensor:
    """pool3 activations, (B, 2048), of (B, 3, H, W) images in [0, 1], which the network resizes to 299x299."""
    return network(images)[0].flatten(1)


class FeatureStatistics:
    """Mean and covariance of a stream of feature vectors, in float64; its memory does not grow with the stream."""

    def __init__(self):
        self.count = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))  # sum of (x - mean)(x - mean)^T

    def update(self, vectors: np.ndarray) -> None:
        """Add the rows of `vectors`, (B, features)."""
        vectors = np.asarray(vectors, np.float64)
        if len(vectors):
            mean = vectors.mean(axis=0)
            self._add(len(vectors), mean, (vectors - mean).T @ (vectors - mean))

    def merge(self, other: "FeatureStatistics") -> None:
        """Add all vectors of `other`."""
        if other.count:
            self._add(other.count, other._mean, other._scatter)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Chan, Golub and LeVeque's update; sums of squares would lose digits to cancellation."""
        if not self.count:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        step = mean - self._mean
        total = self.count + count
        self._scatter += scatter
        self._scatter += np.outer(step, step) * (self.count * count / total)
        self._mean += step * (count / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """(features,)."""
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(features, features), the unbiased estimate as `numpy.cov` gives it; needs two vectors or more."""
        return self._scatter / (self.count - 1)


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Fréchet distance of two Gaussians, |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)); 0 where they are equal.

    pytorch-fid takes the root of the product with `scipy.linalg.sqrtm`, which loses digits if the covariances are
    singular, as with fewer frames than features. Tr (C1 C2)^(1/2) equals the trace of the root of C1^(1/2) C2 C1^(1/2).
    That matrix is symmetric, so its eigenvalues are accurate in every case.

    Args:
        mean, other_mean: (D,).
        covariance, other_covariance: (D, D), symmetric, positive semi-definite.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(min=0)).sum()
    difference = mean - other_mean
    return float(max(0.0, difference @ difference + np.trace(covariance) + np.trace(other_covariance) - 2 * shared))


def fid(generated: FeatureStatistics, reference: FeatureStatistics) -> float | None:
    """Fréchet inception distance of two sets; lower is better, equal sets give 0.

    FID is defined for whole sets, not for a frame or a clip. Sets with fewer images than the 2048 features bias it
    upwards, so only sets of equal size are comparable.

    Returns:
        The distance, or None if a set has fewer than two images.
    """
    if min(generated.count, reference.count) < 2:
        return None
    return frechet_distance(generated.mean, generated.covariance, reference.mean, reference.covariance)
