"""Scores of generated face crops in memory: what the training scripts and `benchmarks.quality` validate with."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from media.crop import select131
from media.face import FaceTracker
from media.heatmap import KEYPOINTS, LIP_KEYPOINTS
from media.pictures import to_pictures
from metrics.image import psnr, ssim


def with_upper_half(faces: Tensor, true_faces: Tensor) -> Tensor:
    """`faces` with rows 0 to H/2 taken from `true_faces`, both (..., 3, H, W): what a dubbed crop consists of."""
    half = faces.shape[-2] // 2
    return torch.cat([true_faces[..., :half, :], faces[..., half:, :]], dim=-2)


def crop_scores(faces: Tensor, true_faces: Tensor) -> dict[str, Tensor]:
    """PSNR in dB and SSIM (Gaussian 11x11) of each crop, upper halves as given.

    Args:
        faces, true_faces: (M, 3, H, W), RGB in [0, 1].

    Returns:
        "PSNR" and "SSIM", each (M,).
    """
    faces = with_upper_half(faces, true_faces).clamp(0, 1)
    return {"PSNR": psnr(faces, true_faces), "SSIM": ssim(faces, true_faces)}


class LipDistance:
    """LipLMD of generated face crops: MediaPipe's lips in them against those in the true crops, in units of the crop.

    Both are found alike, in crops enlarged and set apart from the edge, so that what MediaPipe errs by on small
    pictures is in both. Where it is not installed, or finds no true face, that is said once.

    Args:
        true: the true crops, (..., 3, H, W) in [0, 1].
    """

    def __init__(self, true: Tensor, say: Callable[[str], None] = print):
        self.true, self.say = true.reshape(-1, *true.shape[-3:]), say
        self.lips: list[np.ndarray | None] | None = None

    def __call__(self, faces: Tensor) -> float | None:
        """The mean over the crops in which both are found; None where there is none.

        `faces` (..., 3, H, W) has a crop for each true one, whose upper half it gets, as `crop_scores` does.
        """
        faces = with_upper_half(faces.reshape(self.true.shape), self.true)
        try:
            with FaceTracker() as tracker:
                if self.lips is None:
                    self.lips = [_lips(tracker, face) for face in self.true]
                    if not any(lips is not None for lips in self.lips):
                        self.say("LipLMD is left out: MediaPipe finds no face in the true crops")
                known = [(face, lips) for face, lips in zip(faces, self.lips, strict=True) if lips is not None]
                pairs = [(_lips(tracker, face), lips) for face, lips in known]
        except ImportError:
            if self.lips is None:
                self.say("LipLMD is left out: MediaPipe is not installed (pip install mediapipe==0.10.21)")
                self.lips = []
            return None
        distances = [np.linalg.norm(found - lips, axis=1).mean() for found, lips in pairs if found is not None]
        return float(np.mean(distances)) if distances else None


def _lips(tracker: FaceTracker, face: Tensor) -> np.ndarray | None:
    """The 40 lip points of a crop (3, H, W) in [0, 1], in its units; None where no face is found."""
    size, margin = 200, 50  # all of it below the size in whose parts the tracker would search again
    picture = cv2.resize(np.ascontiguousarray(to_pictures(face)), (size, size), interpolation=cv2.INTER_CUBIC)
    found = tracker.find(cv2.copyMakeBorder(picture, *[margin] * 4, cv2.BORDER_REPLICATE))
    return (select131(found[0].landmarks)[KEYPOINTS][LIP_KEYPOINTS] - margin) / size if found else None
