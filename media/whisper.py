"""The encoder of Whisper base up to its fourth layer, whose hidden state is a kind of sound features.

Whisper's own pipeline pads sound to 30 s. The first layers hardly need it (cosine similarity 0.99), so a recording is
computed in pieces of at most 30 s, each with context from its neighbours.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import WhisperFeatureExtractor, WhisperModel

from media.errors import InputError
from media.pretrained import load_pretrained

LAYER = 4  # whose output is the features
HOP = 320  # samples between two features, feature k centred on sample 320 k
PIECE = 1000  # features of a piece: 20 s
CONTEXT = 250  # features of context on either side of it: 5 s


class Whisper(NamedTuple):
    """Whisper's encoder and its log-mel front end."""

    encoder: Any
    front: WhisperFeatureExtractor


@functools.lru_cache(maxsize=1)
def load(model: str, device: str = "cpu") -> Whisper:
    """Load Whisper from the folder `model`, from the downloads of that name, or from the Hugging Face cache.

    Raises:
        InputError: the model's files are missing, or hold another kind of network.
    """
    name, remedy = f"Whisper model {model}", "give a folder with a Whisper model"
    if model == "openai/whisper-base":
        name += f" (https://huggingface.co/{model})"
        remedy = "run `python -m checkpoints.fetch whisper`"
    network, source, lacking = load_pretrained(WhisperModel, model, name, remedy)
    missing = [key for key in lacking if key.startswith("encoder.")]
    if missing or len(network.encoder.layers) < LAYER:
        fault = f"lacks {len(missing)} weights, {missing[0]} the first" if missing else f"has under {LAYER} layers"
        raise InputError(f"{name} in {source} {fault}; {remedy}")
    front = WhisperFeatureExtractor(feature_size=network.config.num_mel_bins)
    return Whisper(network.encoder.to(device).eval(), front)


@torch.inference_mode()
def features(model: Whisper, wav: np.ndarray) -> np.ndarray:
    """The hidden state after layer 4 for `wav`, (samples,) float32 at 16 kHz: (1 + samples // 320, channels) float32.

    Each piece's log-mel is limited to 80 dB below its own loudest sound.
    """
    count = 1 + len(wav) // HOP
    rows = None
    for first in range(0, count, PIECE):
        last = min(count, first + PIECE)
        start, stop = max(0, first - CONTEXT), min(count, last + CONTEXT)
        samples = wav[start * HOP : stop * HOP]
        samples = np.pad(samples, (0, (stop - start) * HOP - len(samples)))
        hidden = _hidden(model, samples)[first - start : last - start].float().cpu().numpy()
        rows = np.empty((count, hidden.shape[1]), np.float32) if rows is None else rows
        rows[first:last] = hidden
    assert rows is not None  # `count` is at least 1
    return rows


def _hidden(model: Whisper, samples: np.ndarray) -> torch.Tensor:
    """(frames, channels) of samples (320 frames,), frames at most 1500."""
    encoder = model.encoder
    inputs = model.front(samples, sampling_rate=16000, padding="do_not_pad", return_tensors="pt")
    mel = inputs.input_features.to(encoder.conv1.weight.device)
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers[:LAYER]:
        out = layer(x, None)
        x = out if isinstance(out, torch.Tensor) else out[0]
    return x[0]
