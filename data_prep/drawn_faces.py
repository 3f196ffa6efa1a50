"""Faces of nobody, drawn as heatmaps: as many as one likes to learn reading points off heatmaps from."""

import cv2
import numpy as np
import torch
from torch import Tensor

from data_prep.windows import mirrored_points, warped
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmaps
from models.drawing import CurveDrawing

_BUMPS = 6  # places of a face around which it is bent


class DrawnFaces:
    """Random faces and their heatmaps.

    A face is one of a set or, half of the time, lies between two of them, or a little beyond; half of them are seen in
    a mirror, and all bent, turned, stretched and shifted.

    Args:
        points: the set, (F, 131, 2) in units of the crop.
        warp: by up to what share of the crop they are turned, stretched and shifted.
        bend: by about what share of the crop parts of a face are moved beside others: the set knows few people.
    """

    def __init__(self, points: np.ndarray, warp: float, bend: float, seed: int = 0):
        self._points, self._warp, self._bend = np.asarray(points, np.float32), warp, bend
        self._seed, self._drawing = seed, CurveDrawing()

    def batch(self, size: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (size, 131, 2), through which the heatmaps of whole and of upper faces, (size, 1, 128, 128), go.

        The first half of the whole faces is drawn as a `HeatmapPredictor` that draws does it: upper faces as they are
        given to it, and what speech moves not by whole pixels. The seed and the step alone decide which faces.
        """
        cv2.setNumThreads(0)  # on pictures this small OpenCV's threads only wait for each other
        random = np.random.default_rng((self._seed, step))
        one, other = self._points[random.integers(0, len(self._points), (2, size))]
        share = np.where(random.random(size) < 0.5, 0, random.uniform(-0.2, 1, size)).astype(np.float32)[:, None, None]
        faces = one + share * (other - one)
        faces = np.where(random.random((size, 1, 1)) < 0.5, mirrored_points(faces), faces)
        faces = warped(faces + self._bumps(faces, random), 1, self._warp, random)
        upper = torch.from_numpy(draw_heatmaps(faces, POSE))
        half, points = size // 2, torch.from_numpy(faces)
        predicted = torch.maximum(upper[:half], self._drawing(points[:half, KEYPOINTS]))
        true = torch.from_numpy(draw_heatmaps(faces[half:], FULL_FACE))
        return points, torch.cat([predicted, true]), upper

    def _bumps(self, faces: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A smooth displacement for each of the points (M, 131, 2)."""
        shape = (len(faces), _BUMPS, 1)
        centres, widths = random.uniform(0, 1, (*shape, 2)), random.uniform(0.1, 0.4, shape)
        heights = random.normal(0, self._bend, (*shape, 2))
        squared = np.square(faces[:, None] - centres).sum(axis=-1)  # (M, bumps, 131)
        return (heights * np.exp(-squared / (2 * widths**2))[..., None]).sum(axis=1)
