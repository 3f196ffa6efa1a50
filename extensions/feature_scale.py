"""The scale of pretrained sound features, by which the small networks normalise them."""

from typing import Any

import numpy as np
import torch

from data_prep.sync import SyncDataset
from data_prep.windows import ClipDataset


def fit_scale(network: Any, dataset: ClipDataset | SyncDataset) -> None:
    """Set the buffers `mean` and `deviation` of `network` to those of the clips' features of its `config.audio`."""
    features = np.concatenate([clip.audio(network.config.audio)[::5] for clip in dataset.clips])
    network.mean.copy_(torch.from_numpy(features.mean(axis=0)))
    network.deviation.copy_(torch.from_numpy(features.std(axis=0) + 0.1))
