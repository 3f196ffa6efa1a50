"""Deterministic stand-in weights for a reference checkpoint.

The released checkpoints themselves are too large to ship, so a parity check fills the same tensor names and
shapes with reproducible numbers. `expected.npz` holds what the reference networks compute with these weights.

    from weights import fill
    state_dict = {name: fill(name, shape, seed=0) for name, shape in json.load(open("stsa_face.json")).items()}
"""

import math
import zlib

import numpy as np


def fill(name: str, shape: list[int], seed: int = 0) -> np.ndarray:
    """Return the stand-in for tensor `name`: float32 of `shape`, or int64 zeros for a batch counter.

    RandomState's stream is frozen by numpy, so every numpy version draws the same numbers.
    """
    draw = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(".pe"):  # sinusoidal position table (1, length, width), part of the checkpoint
        _, length, width = shape
        angle = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * -(math.log(10000.0) / width))
        table = np.zeros((length, width), np.float32)
        table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
        return table[None]
    if name.endswith("running_mean"):
        return (0.1 * draw.standard_normal(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return (0.5 + draw.random_sample(shape)).astype(np.float32)
    if len(shape) == 1 and name.endswith("weight"):  # a normalisation layer's scale
        return (1.0 + 0.1 * draw.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:
        return (0.05 * draw.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (math.sqrt(1.5 / fan_in) * draw.standard_normal(shape)).astype(np.float32)


def inputs(spec: dict[str, list], seed: int = 0) -> dict[str, np.ndarray]:
    """Return the named inputs of a parity case: `spec` maps a name to [kind, *shape].

    kind 'normal': standard normal; 'image': uniform in [0, 1]; 'heatmap': sparse in [0, 1];
    'heatmap3': one sparse map, repeated over the 3 channels that follow the batch axes.
    """
    out = {}
    for name, (kind, *shape) in spec.items():
        draw = np.random.RandomState((zlib.crc32(("input:" + name).encode()) + seed) % 2**32)
        if kind == "normal":
            value = draw.standard_normal(shape)
        elif kind == "image":
            value = draw.random_sample(shape)
        elif kind == "heatmap":
            value = draw.random_sample(shape) ** 8
        elif kind == "heatmap3":
            *lead, channels, height, width = shape
            value = np.repeat(draw.random_sample([*lead, 1, height, width]) ** 8, channels, axis=-3)
        else:
            raise ValueError(f"unknown input kind {kind!r}")
        out[name] = value.astype(np.float32)
    return out
