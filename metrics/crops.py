"""Scores of generated face crops in memory: what the training scripts and `metrics.quality` validate with."""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from torch import Tensor

from checkpoints import fetch
from losses.calibration import SyncLevel
from media.crop import select131
from media.face import FaceTracker
from media.heatmap import KEYPOINTS, LIP_KEYPOINTS
from media.pictures import to_pictures
from metrics.fid import FeatureStatistics, fid, inception_features, load_inception
from metrics.image import psnr, ssim
from metrics.perceptual import load_lpips, lpips

BATCH = 16  # crops that are scored together on the device


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


class PerceptualScores:
    """LPIPS and FID of generated face crops, each where its weights and its package are; their absence is said once.

    FID is of a small sample here: 256 windows of five frames are 1280 crops, fewer than Inception's 2048 features, and
    the frames of a window are nearly one picture. That biases it upwards. The crops are the same ones at every call,
    so that it ranks the checkpoints of a run; it does not compare with a published FID, nor with other numbers of
    windows.

    Args:
        true: the true crops, (..., 3, H, W) in [0, 1]; on the CPU, of which batches are moved.
        device: where the networks compute.
    """

    def __init__(self, true: Tensor, device: torch.device, say: Callable[[str], None] = print):
        self.true, self.device = true.reshape(-1, *true.shape[-3:]), device
        known = {"lpips": ("LPIPS", "lpips", load_lpips), "fid": ("FID", "pytorch_fid", load_inception)}
        self.networks, absent = {}, {}
        for name, (label, package, load) in known.items():
            if fetch.available(name) and find_spec(package) is not None:
                self.networks[name] = load(fetch.path(name)).to(device)
            else:
                absent[name] = label
        if absent:
            say(
                f"validation is without {' and '.join(absent.values())}: weights or package are absent "
                f"(python -m checkpoints.fetch {' '.join(absent)}; pip install -r requirements.txt)"
            )
        self._reference: FeatureStatistics | None = None

    def __call__(self, faces: Tensor) -> dict[str, float]:
        """Those of "LPIPS" and "FID" that can be computed, both smaller the better.

        `faces` (..., 3, H, W) has a crop for each true one, whose upper half it gets, as `crop_scores` does.
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
        """Batches of generated, completed crops and of true ones, on the device."""
        for generated, true in zip(faces.split(BATCH), self.true.split(BATCH), strict=True):
            generated, true = generated.to(self.device), true.to(self.device)
            yield with_upper_half(generated, true).clamp(0, 1), true

    def _statistics(self, batches: Iterable[Tensor]) -> FeatureStatistics:
        statistics = FeatureStatistics()
        for batch in batches:
            statistics.update(inception_features(self.networks["fid"], batch).cpu().numpy())
        return statistics


class Validation:
    """The scores by which a training script validates the face crops that it generates, as TensorBoard's scalars.

    Args:
        true, device, say: as `PerceptualScores` takes them; `say` also takes what `LipDistance` says.
        level: of the run's sync expert, for -log cos; None where it has none.
    """

    def __init__(
        self,
        true: Tensor,
        device: torch.device,
        say: Callable[[str], None] = print,
        level: SyncLevel | None = None,
    ):
        self.distance, self.perceptual, self.level = LipDistance(true, say), PerceptualScores(true, device, say), level

    def __call__(self, faces: Tensor) -> dict[str, float]:
        """PSNR and SSIM; LipLMD, LPIPS, FID and -log cos where they can be computed.

        `faces` (..., 3, H, W) is on the CPU, with `level` (W, 5, 3, H, W).
        """
        true = self.perceptual.true
        pairs = zip(faces.reshape(true.shape).split(BATCH), true.split(BATCH), strict=True)
        scores = [crop_scores(*(x.to(self.perceptual.device) for x in pair)) for pair in pairs]
        values = {name: float(torch.cat([score[name] for score in scores]).mean()) for name in scores[0]}
        lips = self.distance(faces)
        values |= {} if lips is None else {"LipLMD": lips}
        values |= self.perceptual(faces)
        values |= {} if self.level is None else self.level(faces)
        return {f"val/{name}": value for name, value in values.items()}
