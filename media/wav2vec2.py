"""Wav2Vec 2.0 over a recording of any length, equal to one run of the network over the whole recording.

Running the network on overlapping pieces of the sound would give other features, because some of its operations cover
the whole recording. Each operation is computed as follows:

- Normalisation: the input has zero mean and unit variance over the recording, and the base model's first convolution is
  normalised per channel over the recording (group norm). A separate pass collects both statistics.
- Convolutions, including the positional one, run in pieces that overlap by their receptive field.
- Self-attention covers the whole recording. It runs layer by layer; a block of queries attends to the keys of its own
  five-minute span and of the two neighbouring spans. Up to ten minutes, this is the whole recording. In a longer one, a
  frame attends to at least five minutes on either side, the only difference from one run: attending to everything would
  cost the square of the length. The network was trained on utterances of half a minute.

Memory does not depend on the length, except for the features themselves (550 MB an hour for the base model).
"""

import functools
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from media.errors import InputError
from media.pretrained import load_pretrained

UNTRAINED = {"masked_spec_embed"}  # used in pretraining only; published files may lack it

PIECE = 500  # features computed by the convolutions and the feed-forward layers at a time: 10 s
SPAN = 15_000  # features in a span of attention keys: 5 minutes


class Wav2Vec2(NamedTuple):
    """A Wav2Vec 2.0 network, and whether its input is normalised to zero mean and unit variance."""

    network: Wav2Vec2Model
    normalize: bool


@functools.lru_cache(maxsize=1)
def load(model: str, device: str = "cpu") -> Wav2Vec2:
    """Load Wav2Vec 2.0 from the folder `model`, from the downloads of that name, or from the Hugging Face cache.

    Raises:
        InputError: The model's files are missing, lack weights, or hold another kind of network.
    """
    name = f"Wav2Vec2 model {model}"
    remedy = "give a folder with a Wav2Vec2 model of the base kind"
    if model == "facebook/wav2vec2-base-960h":
        name += f" (https://huggingface.co/{model})"
        remedy = "run `python -m checkpoints.fetch wav2vec2`"
    network, source, lacking = load_pretrained(Wav2Vec2Model, model, name, remedy)
    missing = [key for key in lacking if key not in UNTRAINED]
    if missing or network.config.do_stable_layer_norm or network.config.add_adapter:
        fault = f"lacks {len(missing)} weights, {missing[0]} the first" if missing else "is not of the base kind"
        raise InputError(f"{name} in {source} {fault}; {remedy}")
    normalize = True
    if (Path(source) / "preprocessor_config.json").is_file():
        normalize = Wav2Vec2FeatureExtractor.from_pretrained(source, local_files_only=True).do_normalize
    return Wav2Vec2(network.to(device).eval(), normalize)


@torch.inference_mode()
def features(model: Wav2Vec2, wav: np.ndarray) -> np.ndarray:
    """The last hidden state of `model` for `wav`, (samples,) float32 at 16 kHz: (frames, channels) float32."""
    network, config = model.network, model.network.config
    receptive, hop = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive, hop = receptive + (kernel - 1) * hop, hop * stride
    wav = np.pad(wav, (0, max(0, receptive - len(wav))))
    count = 1 + (len(wav) - receptive) // hop

    sound = _Sound(wav, model.normalize, network.device)
    statistics = _first_layer_statistics(network, sound) if config.feat_extract_norm == "group" else None
    hidden = torch.empty(count, config.hidden_size, device=network.device)
    for part in _parts(0, count, PIECE):
        samples = sound.piece(part.start * hop, (part.stop - 1) * hop + receptive)
        hidden[part] = network.feature_projection(_convolved(network, samples, statistics).transpose(1, 2))[0][0]

    hidden = _with_positions(network, hidden)
    for layer in network.encoder.layers:
        _attend(layer, hidden)
    return hidden.cpu().numpy()


class _Sound:
    """A recording whose pieces are returned as the network's input: (1, samples), normalised, on its device."""

    def __init__(self, wav: np.ndarray, normalize: bool, device: torch.device):
        self.wav, self.device = wav, device
        self.mean: float | np.floating = 0.0
        self.scale: float | np.floating = 1.0
        if normalize:
            self.mean = wav.mean(dtype=np.float64)
            square = sum(np.square(wav[p] - self.mean).sum() for p in _parts(0, len(wav), 1 << 20))
            self.scale = 1 / np.sqrt(square / len(wav) + 1e-7)

    def piece(self, start: int, stop: int) -> torch.Tensor:
        piece = (self.wav[start:stop] - self.mean) * self.scale
        return torch.from_numpy(piece.astype(np.float32))[None].to(self.device)


def _first_layer_statistics(network: Wav2Vec2Model, sound: _Sound) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the first convolution's channels over the whole recording, each (channels, 1)."""
    conv = network.feature_extractor.conv_layers[0].conv
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    count = 1 + (len(sound.wav) - kernel) // stride
    total = torch.zeros(2, conv.out_channels, dtype=torch.float64, device=network.device)
    for part in _parts(0, count, 64 * PIECE):
        out = conv(sound.piece(part.start * stride, (part.stop - 1) * stride + kernel)[None])[0].double()
        total += torch.stack((out.sum(1), out.square().sum(1)))
    mean, square = total / count
    variance = (square - mean.square()).clamp_min(0)
    return mean.float()[:, None], variance.float()[:, None]


def _convolved(
    network: Wav2Vec2Model, samples: torch.Tensor, statistics: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """The convolutional features of `samples`: (1, samples) -> (1, channels, frames)."""
    first, *others = network.feature_extractor.conv_layers
    out = samples[:, None]
    if statistics is None:
        out = first(out)
    else:
        (mean, variance), norm = statistics, first.layer_norm
        out = (first.conv(out) - mean) / torch.sqrt(variance + norm.eps)
        out = first.activation(out * norm.weight[:, None] + norm.bias[:, None])
    for layer in others:
        out = layer(out)
    return out


def _with_positions(network: Wav2Vec2Model, hidden: torch.Tensor) -> torch.Tensor:
    """Add the positional convolution and normalise: (frames, channels) -> the same shape."""
    encoder = network.encoder
    reach = network.config.num_conv_pos_embeddings
    out = torch.empty_like(hidden)
    for part in _parts(0, len(hidden), PIECE):
        start = max(0, part.start - reach)
        positions = encoder.pos_conv_embed(hidden[None, start : part.stop + reach])[0]
        out[part] = encoder.layer_norm(hidden[part] + positions[part.start - start :][: part.stop - part.start])
    return out


def _attend(layer: Any, hidden: torch.Tensor) -> None:
    """Run one post-norm transformer layer over `hidden`, (frames, channels), in place."""
    attention = layer.attention

    def heads(rows: torch.Tensor) -> torch.Tensor:  # (frames, channels) -> (1, heads, frames, head channels)
        return rows.unflatten(1, (attention.num_heads, -1)).transpose(0, 1)[None]

    spans = _parts(0, len(hidden), SPAN)
    # Keys and values of the previous, the current and the next span.
    held: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=3)
    projected = 0
    for index, span in enumerate(spans):
        # A span's keys are computed before its rows are overwritten.
        for ahead in spans[projected : index + 2]:
            held.append((heads(attention.k_proj(hidden[ahead])), heads(attention.v_proj(hidden[ahead]))))
            projected += 1
        if index == len(spans) - 1 and len(held) == 3:
            held.popleft()
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*held, strict=True))
        for part in _parts(span.start, span.stop, PIECE):
            mixed = scaled_dot_product_attention(heads(attention.q_proj(hidden[part])), keys, values)
            rows = hidden[part] + attention.out_proj(mixed[0].transpose(0, 1).flatten(1))
            rows = layer.layer_norm(rows)
            hidden[part] = layer.final_layer_norm(rows + layer.feed_forward(rows))


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(stop, first + size)) for first in range(start, stop, size)]
