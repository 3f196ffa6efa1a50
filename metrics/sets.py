"""Metrics of whole sets, FID and FVD: the statistics of generated and of true features, clip by clip."""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from metrics.fid import FeatureStatistics, inception_features
from metrics.fvd import Segments, as_rows, video_features
from metrics.pairs import Batch
from metrics.truth import Truth
from models.i3d import I3D


class FrechetSets:
    """Statistics of generated features and of the true ones compared with them."""

    def __init__(self):
        self.generated = FeatureStatistics()
        self.reference = FeatureStatistics()

    def merge(self, other: "FrechetSets") -> None:
        """Add all features of `other`."""
        self.generated.merge(other.generated)
        self.reference.merge(other.reference)


class ImageSets(FrechetSets):
    """FID's: Inception's features of the compared frames of one clip."""

    def __init__(self, network: nn.Module, truth: Truth, variant: str = ""):
        super().__init__()
        self._network, self._truth, self._variant = network, truth, variant

    def update(self, batch: Batch) -> None:
        """Add the compared frames of `batch`."""
        self.generated.update(inception_features(self._network, batch.generated).cpu().numpy())
        indices = [pair.index for pair in batch.compared]

        def compute(places: list[int]) -> np.ndarray:
            return inception_features(self._network, batch.reference[places]).cpu().numpy()

        self.reference.update(self._truth.rows("fid", indices, compute, self._variant))


class VideoSets(FrechetSets):
    """FVD's: I3D's features of the segments of 16 consecutive compared frames of one clip."""

    def __init__(self, network: I3D, truth: Truth, variant: str = ""):
        super().__init__()
        self._network, self._truth, self._variant = network, truth, variant
        self._made, self._true = Segments(), Segments()

    def update(self, batch: Batch) -> None:
        """Add the compared frames of `batch`."""
        for place, pair in enumerate(batch.compared):
            made = self._made.add(pair.index, batch.generated[place])
            true = self._true.add(pair.index, batch.reference[place])
            if made is not None and true is not None:
                self.generated.update(self._features(made[1]))
                compute = self._computed(true[1])
                self.reference.update(self._truth.rows("fvd", [true[0]], compute, self._variant))

    def _computed(self, segment: Tensor) -> Callable[[list[int]], np.ndarray]:
        return lambda places: self._features(segment)

    def _features(self, segment: Tensor) -> np.ndarray:
        return as_rows(video_features(self._network, segment[None]))
