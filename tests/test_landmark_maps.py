"""Maps between landmarks: their fits, and the head's turn."""

import numpy as np
import scipy.linalg
import torch
from torch.testing import assert_close

from extensions.landmark_maps import TurnedHead, apply_affine, fit_affine, fit_similarity, mouth_motion
from media.heatmap import KEYPOINTS


def test_an_affine_map_is_recovered():
    random = torch.Generator().manual_seed(0)
    points = torch.rand(3, 20, 2, generator=random)
    affine = torch.tensor([[1.1, 0.2], [-0.1, 0.9], [0.05, -0.2]]).expand(3, 3, 2)
    moved = apply_affine(points, affine)
    assert_close(moved, points @ affine[:, :2] + affine[:, 2:])
    assert_close(fit_affine(points, moved), affine, atol=1e-3, rtol=0)


def test_the_affine_fit_is_the_least_squares_solution():
    source, target = torch.rand(3, 2, 74, 2), torch.rand(3, 1, 74, 2)
    homogeneous = torch.cat([source, torch.ones(3, 2, 74, 1)], dim=-1).double()
    expected = torch.linalg.lstsq(homogeneous, target.double().expand(-1, 2, -1, -1)).solution
    assert_close(fit_affine(source, target).double(), expected, atol=1e-4, rtol=0)  # a hint of ridge


@torch.no_grad()
def test_a_similarity_fit_finds_the_map_and_nothing_else():
    random = torch.Generator().manual_seed(0)
    points = torch.rand(3, 74, 2, generator=random)
    maps = torch.tensor([[0.9, 0.3], [-0.3, 0.9], [0.2, -0.1]]).expand(3, -1, -1)
    assert_close(fit_similarity(points, apply_affine(points, maps)), maps, atol=1e-5, rtol=0)
    other = apply_affine(points, maps) + 0.1 * torch.rand(3, 74, 2, generator=random)  # Procrustes' solution by SciPy
    found = apply_affine(points, fit_similarity(points, other))
    for source, target, fitted in zip(points.numpy(), other.numpy(), found.numpy(), strict=True):
        centred, wanted = source - source.mean(axis=0), target - target.mean(axis=0)
        turn, _ = scipy.linalg.orthogonal_procrustes(centred, wanted)
        scale = np.sum(centred @ turn * wanted) / np.sum(centred**2)
        np.testing.assert_allclose(fitted, scale * centred @ turn + target.mean(axis=0), atol=1e-5)


@torch.no_grad()
def test_the_heads_turn_is_as_fine_under_autocast_as_without():
    torch.manual_seed(0)
    turning, turned = TurnedHead(), 0.05 * torch.randn(6, 74, 2)
    torch.nn.init.normal_(turning.linear.weight, std=0.3)
    moved = turning(turned)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = turning(turned)
    assert rounded.dtype == torch.float32 and moved.abs().max() > 0.1
    assert (moved - rounded).abs().max() < 0.01 / 128  # bfloat16 itself goes by half pixels


def test_the_mouth_is_still_where_only_the_head_moves():
    random = torch.Generator().manual_seed(0)
    face = torch.rand(131, 2, generator=random)
    heads = torch.eye(3)[:, :2] + 0.05 * torch.randn(9, 3, 2, generator=random)
    points = apply_affine(face.expand(9, -1, -1), heads)
    assert mouth_motion(points).abs().max() < 2e-3
    points = face.repeat(9, 1, 1)
    points[:4, KEYPOINTS[30], 1] += 0.1
    motion = mouth_motion(points)
    assert motion[:4, 30, 1].sub(0.1).abs().max() < 1e-3 and motion[4:].abs().max() < 1e-3
