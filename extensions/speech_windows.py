"""Windows of synthetic speech and their visemes; `extensions.synthetic_speech` writes the file."""

import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from media.audio import FEATURES, SILENCE
from media.errors import InputError
from media.files import existing_file

VISEMES = ("silence", "pbm", "fv", "tdnl", "sz", "sh", "kgh", "r", "a", "e", "i", "o", "u", "w")


class SpeechWindows:
    """Random windows of a file of `extensions.synthetic_speech` with their visemes; voices are varied in each batch.

    Args:
        places: the mel frames, among a window's 16, whose visemes are returned.

    Raises:
        InputError: the file was not written by `extensions.synthetic_speech`.
    """

    def __init__(self, path: str | os.PathLike, seed: int = 0, places: Sequence[int] = (8,)):
        path = existing_file(path, "synthetic speech")
        try:
            content = load_file(path)
            mel, self._visemes, starts = content["mel"], content["visemes"].astype(np.int64), content["starts"]
            whole = mel.ndim == 2 and mel.shape[1] == FEATURES["mel"][0] and self._visemes.shape == mel.shape[:1]
            ends = np.append(starts[1:], len(mel))
            whole = whole and starts.ndim == 1 and len(starts) > 0 and starts.dtype.kind in "iu"
            whole = whole and bool((starts >= 0).all() and (starts <= ends).all())
        except (OSError, SafetensorError, LookupError, AttributeError, ValueError):
            whole = False
        if not whole or self._visemes.max(initial=0) >= len(VISEMES):
            raise InputError(f"synthetic speech {path} is not of extensions.synthetic_speech; make it again")
        self._mel = torch.from_numpy(mel)
        self._width = FEATURES["mel"][1]
        firsts = [np.arange(a, b - self._width) for a, b in zip(starts, ends, strict=True)]
        self._firsts = torch.from_numpy(np.concatenate(firsts))
        if not len(self._firsts):
            raise InputError(f"synthetic speech {path} holds no sentence long enough; make it again")
        self._seed, self._places = seed, torch.tensor(places)

    def batch(self, size: int, step: int) -> tuple[Tensor, Tensor]:
        """Windows (size, 80, 16) of log-mel, and the visemes at `places` of each, (size, len(places)) int64.

        The seed and the step determine the windows.
        """
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        chosen = self._firsts[torch.randint(len(self._firsts), (size,), generator=generator)]
        windows = self._mel[chosen[:, None] + torch.arange(self._width)].float().transpose(1, 2)
        said = torch.from_numpy(self._visemes)[chosen[:, None] + self._places]
        return disguised(windows, generator), said


def disguised(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Vary log-mel windows (B, 80, W) as other vocal tracts, rooms, background noise and telephones would."""
    count, bands, width = mel.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1).uniform_(low, high, generator=generator)

    def smooth(knots: int, size: float) -> Tensor:
        curve = torch.randn(count, 1, knots, generator=generator) * size
        return F.interpolate(curve, size=bands, mode="linear", align_corners=True).transpose(1, 2)

    def noise(size: float) -> Tensor:
        return size * torch.randn(mel.shape, generator=generator)

    quiet = SILENCE["mel"]
    x = (mel - quiet) / (-2 * quiet)  # to [0, 1]
    place = torch.linspace(0, 1, bands)[:, None] * (1 + uniform(-0.12, 0.12)) + uniform(-0.02, 0.02)
    place = (place * (bands - 1)).clamp(0, bands - 1)
    below = place.floor().long()
    between, above = place - below, (below + 1).clamp(max=bands - 1)
    below, above = (index.expand(-1, -1, width) for index in (below, above))
    x = x.gather(1, below) * (1 - between) + x.gather(1, above) * between
    x = x + smooth(5, 0.06) + uniform(-0.12, 0.12)
    floor = uniform(-0.2, 0.45) + smooth(4, 0.08) + noise(0.05)
    x = torch.logaddexp(12 * x, 12 * floor) / 12 + noise(0.02)  # soft maximum of the two
    cut = torch.randint(50, 160, (count, 1, 1), generator=generator)
    x = torch.where(torch.arange(bands)[:, None] > cut, 0.3 * x, x)
    return x.clamp(0, 1) * (-2 * quiet) + quiet
