"""The speech encoder of hama 1.7.0 (Apache-2.0): hidden states of a pretrained phoneme recogniser as sound features.

The recogniser takes 16 kHz sound and gives CTC posteriors over 191 IPA classes, 50 times a second, frame k centred on
sample 320 k. Its hidden states tell more of the lips than its posteriors (extensions/README.md has numbers), so the
features are the outputs of its second and third block. `checkpoints.import_hama` extracts the layers up to these from
the package's file; neither the package nor a download is needed to compute them.

Attention spans `PIECE` and `CONTEXT` seconds: a recording is computed in pieces, each with that context on either side.
"""

import functools
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from media.errors import InputError
from media.files import DEMO, DOWNLOADS

NAME = "speech_encoder.safetensors"  # in a checkpoint folder, or in checkpoints/downloads
HOP = 320  # samples between two frames
WIDTH, HEADS, MELS, KERNEL = 144, 4, 80, 31
FOURIER, FOURIER_HOP = 400, 160  # samples
LAYERS = (1, 2)  # of the blocks whose outputs are the features

PIECE = 1000  # frames of a piece: 20 s
CONTEXT = 250  # frames of context on either side of it: 5 s
SHORTEST = 400  # samples; shorter sound is filled up with silence


class HamaEncoder(nn.Module):
    """A log-mel front end, a convolution that halves the rate, and blocks as in a Conformer (Gulati et al., 2020).

    Args:
        blocks: number of blocks; the recogniser has four.
        classes: of its posteriors, or 0 without these.
    """

    kernels: Tensor
    mels: Tensor

    def __init__(self, blocks: int = max(LAYERS) + 1, classes: int = 0):
        super().__init__()
        self.register_buffer("kernels", _fourier_kernels(), persistent=False)
        self.register_buffer("mels", torch.zeros(FOURIER // 2 + 1, MELS))
        self.stem = nn.Conv1d(MELS, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, classes) if classes else None

    def log_mel(self, wav: Tensor) -> Tensor:
        """(samples,), of at least 201, at 16 kHz -> (1, 80, 1 + samples // 160)."""
        padded = F.pad(wav[None, None], (FOURIER // 2, FOURIER // 2), mode="reflect")
        real, imaginary = F.conv1d(padded, self.kernels, stride=FOURIER_HOP).chunk(2, dim=1)
        power = real.square() + imaginary.square()
        return (self.mels.T @ power).clamp_min(1e-10).log()

    def hidden(self, wav: Tensor) -> list[Tensor]:
        """The output of each block for `wav` (samples,): (frames, 144) each."""
        x = F.gelu(self.stem(self.log_mel(wav))).transpose(1, 2)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x[0])
        return outputs

    def forward(self, wav: Tensor) -> Tensor:
        """The logits of the recogniser's classes, (frames, classes)."""
        assert self.head is not None
        return self.head(self.hidden(wav)[-1])


def _fourier_kernels() -> Tensor:
    """Cosines, then sines, of a Fourier transform of 400 samples under a Hann window: (402, 1, 400)."""
    steps = torch.arange(FOURIER, dtype=torch.float64)
    angles = 2 * torch.pi / FOURIER * steps * torch.arange(FOURIER // 2 + 1)[:, None]
    window = torch.hann_window(FOURIER, dtype=torch.float64)
    return (window * torch.cat([angles.cos(), angles.sin()]))[:, None].float()


class _Block(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, layer norm."""

    def __init__(self):
        super().__init__()
        self.first = _FeedForward()
        self.attention = _Attention()
        self.convolution = _Convolution()
        self.second = _FeedForward()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(1, frames, 144) -> the same shape."""
        x = x + self.first(x) / 2
        x = x + self.attention(x)
        x = x + self.convolution(x)
        return self.norm(x + self.second(x) / 2)


class _FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.back = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(F.silu(self.wide(self.norm(x))))


class _Attention(nn.Module):
    """Self-attention without positions: the convolutions around it give these."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(self.norm(x)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _Convolution(nn.Module):
    """A gated pointwise convolution, one over 31 frames in each channel, and another pointwise one."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.gated = nn.Linear(WIDTH, 2 * WIDTH)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2, groups=WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.gated(self.norm(x)), dim=2).transpose(1, 2)
        return self.out(F.silu(self.depthwise(y)).transpose(1, 2))


def encoder_file(*folders: str | os.PathLike) -> Path:
    """The weights' path: in the first of `folders` that holds them, among the downloads, or in the bundled checkpoint.

    Raises:
        InputError: they are nowhere.
    """
    places = [Path(folder) / NAME for folder in (*folders, DOWNLOADS, DEMO)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"the speech encoder {places[0]} is missing; run `python -m checkpoints.import_hama`")
    return found


@functools.lru_cache(maxsize=1)
def load(path: Path, device: str = "cpu") -> HamaEncoder:
    """The encoder of a file that `checkpoints.import_hama` wrote, in eval mode on `device`.

    Raises:
        InputError: it is another file, or damaged.
    """
    remedy = "run `python -m checkpoints.import_hama` again"
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the speech encoder {path} is not a complete safetensors file; {remedy}") from error
    encoder = HamaEncoder()
    own = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    if own != {name: tuple(tensor.shape) for name, tensor in state.items()}:
        raise InputError(f"the speech encoder {path} holds other tensors than hama's first layers; {remedy}")
    encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return encoder.to(device).eval()


@torch.inference_mode()
def features(encoder: HamaEncoder, wav: np.ndarray) -> np.ndarray:
    """The hidden states of `LAYERS` for `wav`, (samples,) float32 at 16 kHz: (1 + samples // 320, 288) float32."""
    count, device = 1 + len(wav) // HOP, encoder.mels.device
    wav = np.pad(wav, (0, max(0, SHORTEST - len(wav))))
    rows = np.empty((count, len(LAYERS) * WIDTH), np.float32)
    for first in range(0, count, PIECE):
        last = min(count, first + PIECE)
        start = max(0, first - CONTEXT)
        samples = torch.from_numpy(wav[start * HOP : (last + CONTEXT) * HOP]).to(device)
        hidden = encoder.hidden(samples)
        rows[first:last] = torch.cat([hidden[i] for i in LAYERS], dim=1)[first - start : last - start].cpu().numpy()
    return rows
