"""Gradient checkpointing: the same gradients from fewer kept activations."""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from media.crop import CropForm
from media.errors import InputError
from models import FaceSynthesizer, FaceSynthesizerConfig, HeatmapPredictor, HeatmapPredictorConfig
from training.config import TrainConfig
from training.learner import recomputing

ON = TrainConfig(gradient_checkpointing=True)


def step(network) -> tuple[list[torch.Tensor], int]:
    """The gradients of a step, and the bytes that the forward pass keeps for it."""
    torch.manual_seed(1)
    shapes = ((2, 2, 3, 104, 100), (2, 2, 1, 64, 64), (2, 3, 3, 104, 100), (2, 3, 1, 64, 64), (2, 2, 80, 16))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(*(torch.rand(shape, dtype=torch.float64) for shape in shapes)).square().sum()
    loss.backward()
    return [p.grad for p in network.parameters() if p.grad is not None], sum(map(len, kept.values()))


def test_gradients_are_the_same_and_less_is_kept():
    torch.manual_seed(0)
    crop = CropForm(height=104, width=100, guidance=64)
    plain = FaceSynthesizer(FaceSynthesizerConfig(width=0.1, references=3, crop=crop)).double()
    recomputed = recomputing(copy.deepcopy(plain), ON)
    (expected, all_kept), (gradients, kept) = step(plain), step(recomputed)
    assert len(gradients) == len(expected) > 100
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert kept < 0.6 * all_kept
    for ours, theirs in zip(recomputed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # batch norm's statistics count each batch once


def test_a_network_without_such_blocks_says_so():
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1))
    assert recomputing(predictor, TrainConfig()) is predictor
    with pytest.raises(InputError, match=r"train\.gradient_checkpointing is for STSA"):
        recomputing(predictor, ON)
