"""The cases of tests/parity: stand-in weights, inputs and what the reference networks compute with them."""

import json
from pathlib import Path

import numpy as np
import torch
from parity.weights import fill, inputs
from torch import Tensor

FOLDER = Path(__file__).resolve().parent / "parity"
Tensors = dict[str, Tensor]


def released_state_dict(name: str, seed: int = 0) -> Tensors:
    """The tensors of the released file of the case `name`, float32, with stand-in weights."""
    shapes = json.loads((FOLDER / f"{name}.json").read_text())
    return {key: torch.as_tensor(np.asarray(fill(key, shape, seed))) for key, shape in shapes.items()}


def parity_case(name: str, seed: int = 0) -> tuple[Tensors, Tensors, Tensors]:
    """The released state dict, the inputs in float64, and the outputs of the case `name`; those are of seed 0 alone.

    The outputs are the reference's in float64, stored as float32: they are to be met to 1e-5 in float64. In float32,
    random weights magnify the rounding, which differs between processors.
    """
    cases = json.loads((FOLDER / "cases.json").read_text())
    given = {key: torch.from_numpy(value).double() for key, value in inputs(cases[name], seed).items()}
    with np.load(FOLDER / "expected.npz") as outputs:
        expected = {key.removeprefix(f"{name}."): torch.from_numpy(outputs[key]) for key in outputs if name in key}
    return released_state_dict(name, seed), given, {key: value.double() for key, value in expected.items()}
