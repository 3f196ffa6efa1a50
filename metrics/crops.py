"""Scores of generated face crops, for validation in the training scripts and for `metrics.quality`."""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from torch import Tensor

from checkpoints import fetch
from losses.calibration import SyncLevel
from media.crop import CropForm
from media.face import FaceTracker
from media.heatmap import KEYPOINTS, LIP_KEYPOINTS
from media.landmarks import select131
from media.pictures import to_pictures
from metrics.fid import FeatureStatistics, fid, inception_features, load_inception
from metrics.image import psnr, ssim
from metrics.perceptual import load_lpips, lpips

BATCH = 16  # crops scored at once on the device


def with_visible_part(faces: Tensor, true_faces: Tensor, crop: CropForm) -> Tensor:
    """`faces` with the visible part of `true_faces`, both (..., 3, H, W) of the form `crop`, as in a dubbed crop."""
    shown = true_faces.clone()
    shown[..., *crop.hidden_pixels] = faces[..., *crop.hidden_pixels]
    return shown


def crop_scores(faces: Tensor, true_faces: Tensor, crop: CropForm) -> dict[str, Tensor]:
    """PSNR in dB and SSIM (Gaussian 11x11) of each crop, with the true crop's visible part.

    Args:
        faces, true_faces: (M, 3, H, W), RGB in [0, 1], of the form `crop`.

    Returns:
        "PSNR" and "SSIM", each (M,).
    """
    faces = with_visible_part(faces, true_faces, crop).clamp(0, 1)
    return {"PSNR": psnr(faces, true_faces), "SSIM": ssim(faces, true_faces)}


class LipDistance:
    """LipLMD of generated face crops: distance of MediaPipe's lips from those in the true crops, in units of the crop.

    Generated and true crops are enlarged and padded in the same way, so that MediaPipe's errors on small images affect
    both. A message is printed once if MediaPipe is not installed or finds no face in the true crops.

    Args:
        true: the true crops, (..., 3, H, W) in [0, 1].
        crop: their form.
    """

    def __init__(self, true: Tensor, crop: CropForm, say: Callable[[str], None] = print):
        self.true, self.crop, self.say = true.reshape(-1, *true.shape[-3:]), crop, say
        self.lips: list[np.ndarray | None] | None = None

    def __call__(self, faces: Tensor) -> float | None:
        """The mean over the crops in which both faces are found; None if there are none.

        `faces` (..., 3, H, W) has one crop for each true crop and takes its visible part, as in `crop_scores`.
        """
        faces = with_visible_part(faces.reshape(self.true.shape), self.true, self.crop)
        try:
            with FaceTracker() as tracker:
                if self.lips is None:
                    self.lips = [find_lips(tracker, face) for face in self.true]
                    if not any(lips is not None for lips in self.lips):
                        self.say("LipLMD is left out: MediaPipe finds no face in the true crops")
                usable = [(face, lips) for face, lips in zip(faces, self.lips, strict=True) if lips is not None]
                pairs = [(find_lips(tracker, face), lips) for face, lips in usable]
        except ImportError:
            if self.lips is None:
                self.say("LipLMD is left out: MediaPipe is not installed (pip install mediapipe==0.10.21)")
                self.lips = []
            return None
        distances = [np.linalg.norm(found - lips, axis=1).mean() for found, lips in pairs if found is not None]
        return float(np.mean(distances)) if distances else None


def find_lips(tracker: FaceTracker, face: Tensor) -> np.ndarray | None:
    """The 40 lip points of a crop (3, H, W) in [0, 1], in units of the crop; None if no face is found."""
    tall, margin = 200, 50  # together too small for the tracker to also search tiles
    size = round(tall * face.shape[-1] / face.shape[-2]), tall
    picture = cv2.resize(np.ascontiguousarray(to_pictures(face)), size, interpolation=cv2.INTER_CUBIC)
    found = tracker.find(cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_REPLICATE))
    return (select131(found[0].landmarks)[KEYPOINTS][LIP_KEYPOINTS] - margin) / size if found else None


class PerceptualScores:
    """LPIPS and FID of generated face crops, each if its weights and its package are present; absence is printed once.

    The FID's sample is small: 256 windows of five frames are 1280 crops, fewer than Inception's 2048 features, and the
    frames of a window are nearly identical. This biases FID upwards. Every call scores the same crops, so FID ranks the
    checkpoints of a run. It is not comparable with a published FID, nor with another number of windows.

    Args:
        true: the true crops, (..., 3, H, W) in [0, 1]; they stay on the CPU, and batches are moved to `device`.
        crop: their form.
        device: where the networks compute.
    """

    def __init__(self, true: Tensor, crop: CropForm, device: torch.device):
        self.true, self.crop, self.device = true.reshape(-1, *true.shape[-3:]), crop, device
        computed = {"lpips": ("LPIPS", "lpips", load_lpips), "fid": ("FID", "pytorch_fid", load_inception)}
        self.networks, absent = {}, {}
        for name, (label, package, load) in computed.items():
            if fetch.available(name) and find_spec(package) is not None:
                self.networks[name] = load(fetch.path(name)).to(device)
            else:
                absent[name] = label
        if absent:
            print(
                f"validation is without {' and '.join(absent.values())}: weights or package are absent "
                f"(python -m checkpoints.fetch {' '.join(absent)}; pip install -r requirements.txt)"
            )
        self._reference: FeatureStatistics | None = None

    def __call__(self, faces: Tensor) -> dict[str, float]:
        """The scores "LPIPS" and "FID" that can be computed; lower is better.

        `faces` (..., 3, H, W) has one crop for each true crop and takes its visible part, as in `crop_scores`.
        """
        faces = faces.reshape(self.true.shape)
        scores = {}
        if "lpips" in self.networks:
            each = [lpips(self.networks["lpips"], *pair) for pair in self._pairs(faces)]
            scores["LPIPS"] = float(torch.cat(each).mean())
        if "fid" in self.networks:
            if self._reference is None:
                self._reference = self._statistics(true for _, true in self._pairs(faces))
            distance = fid(self._statistics(generated for generated, _ in self._pairs(faces)), self._reference)
            scores |= {} if distance is None else {"FID": distance}
        return scores

    def _pairs(self, faces: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of generated crops with the visible part of the true ones, and of true crops, on the device."""
        for generated, true in zip(faces.split(BATCH), self.true.split(BATCH), strict=True):
            generated, true = generated.to(self.device), true.to(self.device)
            yield with_visible_part(generated, true, self.crop).clamp(0, 1), true

    def _statistics(self, batches: Iterable[Tensor]) -> FeatureStatistics:
        statistics = FeatureStatistics()
        for batch in batches:
            statistics.update(inception_features(self.networks["fid"], batch).cpu().numpy())
        return statistics


class Validation:
    """The validation scores of a training script's generated face crops, as TensorBoard scalars.

    Args:
        true, crop, device: as for `PerceptualScores`.
        level: the -log cos of the run's sync expert; None without an expert.
    """

    def __init__(self, true: Tensor, crop: CropForm, device: torch.device, level: SyncLevel | None = None):
        self.distance, self.perceptual = LipDistance(true, crop), PerceptualScores(true, crop, device)
        self.level = level

    def __call__(self, faces: Tensor) -> dict[str, float]:
        """PSNR and SSIM; LipLMD, LPIPS, FID and -log cos if they can be computed.

        `faces` (..., 3, H, W) is on the CPU; with `level` its shape is (W, 5, 3, H, W).
        """
        true = self.perceptual.true
        pairs = zip(faces.reshape(true.shape).split(BATCH), true.split(BATCH), strict=True)
        crop, device = self.perceptual.crop, self.perceptual.device
        scores = [crop_scores(made.to(device), real.to(device), crop) for made, real in pairs]
        values = {name: float(torch.cat([score[name] for score in scores]).mean()) for name in scores[0]}
        lips = self.distance(faces)
        values |= {} if lips is None else {"LipLMD": lips}
        values |= self.perceptual(faces)
        values |= {} if self.level is None else self.level(faces)
        return {f"val/{name}": value for name, value in values.items()}
