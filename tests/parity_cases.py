"""The parity cases: stand-in weights, inputs and what the reference networks compute with them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def parity_case(shared: Path, name: str, seed: int = 0) -> tuple[Tensors, Tensors, Tensors]:
    """The released state dict, the inputs and the outputs of the case `name`; the outputs are those of seed 0."""
    folder = shared / "parity"
    spec = importlib.util.spec_from_file_location("parity_weights", folder / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    shapes = json.loads((folder / f"{name}.json").read_text())
    state = {key: torch.as_tensor(np.asarray(weights.fill(key, shape, seed))) for key, shape in shapes.items()}
    inputs = weights.inputs(json.loads((folder / "cases.json").read_text())[name], seed)
    with np.load(folder / "expected.npz") as outputs:
        expected = {key.removeprefix(f"{name}."): torch.from_numpy(outputs[key]) for key in outputs if name in key}
    return state, {key: torch.from_numpy(value) for key, value in inputs.items()}, expected
