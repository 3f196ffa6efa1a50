"""Faces of nobody, drawn as heatmaps: as many as one likes to learn reading points off heatmaps from."""

import cv2
import numpy as np
import torch
from torch import Tensor

from data_prep.clips import mirrored_points, warped
from media.heatmap import FULL_FACE, POSE, draw_heatmap


class DrawnFaces:
    """Random faces and their heatmaps.

    A face is one of a set or, half of the time, lies between two of them, or a little beyond; half of them are seen in
    a mirror, and all turned, stretched and shifted.

    Args:
        points: the set, (F, 131, 2) in units of the crop.
        warp: by up to what share of the crop they are turned, stretched and shifted.
    """

    def __init__(self, points: np.ndarray, warp: float, seed: int = 0):
        self._points, self._warp, self._random = np.asarray(points, np.float32), warp, np.random.default_rng(seed)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (size, 131, 2), through which the heatmaps of whole and of upper faces, (size, 1, 128, 128), go."""
        cv2.setNumThreads(0)  # on pictures this small OpenCV's threads only wait for each other
        random = self._random
        one, other = self._points[random.integers(0, len(self._points), (2, size))]
        share = np.where(random.random(size) < 0.5, 0, random.uniform(-0.2, 1, size)).astype(np.float32)[:, None, None]
        faces = one + share * (other - one)
        faces = np.where(random.random((size, 1, 1)) < 0.5, mirrored_points(faces), faces)
        faces = warped(faces, 1, self._warp, random)
        whole, upper = (np.stack([draw_heatmap(face, edges) for face in faces])[:, None] for edges in (FULL_FACE, POSE))
        return torch.from_numpy(faces), torch.from_numpy(whole), torch.from_numpy(upper)
