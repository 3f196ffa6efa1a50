"""Random faces drawn as heatmaps: unlimited training data for `PointReader`."""

import cv2
import numpy as np
import torch
from torch import Tensor

from data_prep.windows import mirrored_landmarks, warped
from extensions.drawing import CurveDrawing
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmaps

_BUMPS = 6  # centres of a face's local displacements


class DrawnFaces:
    """Random faces and their heatmaps.

    Half of the faces come from a set; the others are interpolated between two of its faces, or slightly extrapolated.
    Half are mirrored. All are bent, rotated, stretched and shifted.

    Args:
        points: landmarks of the set, (F, 131, 2) in units of the crop.
        warp: largest rotation, stretch and shift, as a share of the crop.
        bend: size of local displacements, as a share of the crop, which vary the few people of the set.
        guidance: G, side of the heatmaps in pixels.
    """

    def __init__(self, points: np.ndarray, warp: float, bend: float, guidance: int, seed: int):
        self._points, self._warp, self._bend = np.asarray(points, np.float32), warp, bend
        self._guidance, self._seed, self._drawing = guidance, seed, CurveDrawing(guidance)

    def batch(self, size: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Landmarks (size, 131, 2), and the heatmaps of whole and of upper faces drawn from them, (size, 1, G, G).

        The first half of the whole faces is drawn as by a `LandmarkPredictor`, which adds curves through the keypoints,
        at subpixel positions, to the upper face's heatmap. The seed and the step determine the faces.
        """
        cv2.setNumThreads(0)  # on images this small, OpenCV's threads only wait for each other
        random = np.random.default_rng((self._seed, step))
        one, other = self._points[random.integers(0, len(self._points), (2, size))]
        share = np.where(random.random(size) < 0.5, 0, random.uniform(-0.2, 1, size)).astype(np.float32)[:, None, None]
        faces = one + share * (other - one)
        faces = np.where(random.random((size, 1, 1)) < 0.5, mirrored_landmarks(faces), faces)
        faces = warped(faces + self._bumps(faces, random), 1, self._warp, random)
        upper = torch.from_numpy(draw_heatmaps(faces, POSE, self._guidance))
        half, points = size // 2, torch.from_numpy(faces)
        predicted = torch.maximum(upper[:half], self._drawing(points[:half, KEYPOINTS]))
        true = torch.from_numpy(draw_heatmaps(faces[half:], FULL_FACE, self._guidance))
        return points, torch.cat([predicted, true]), upper

    def _bumps(self, faces: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A smooth displacement for each of the points (M, 131, 2)."""
        shape = (len(faces), _BUMPS, 1)
        centres, widths = random.uniform(0, 1, (*shape, 2)), random.uniform(0.1, 0.4, shape)
        heights = random.normal(0, self._bend, (*shape, 2))
        squared = np.square(faces[:, None] - centres).sum(axis=-1)  # (M, bumps, 131)
        return (heights * np.exp(-squared / (2 * widths**2))[..., None]).sum(axis=1)
