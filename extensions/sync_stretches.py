"""The training of a `FeatureExpert`: stretches of clips, with all shifts of each window's sound, and their losses."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_prep.clips import Clip, window_starts
from data_prep.sync import SyncDataset
from data_prep.unsynced import sync_rows
from data_prep.windows import mirrored_landmarks
from extensions.feature_expert import FeatureExpert
from extensions.landmark_maps import mouth_motion
from losses.sync import negative_log
from media.errors import InputError
from media.heatmap import KEYPOINTS
from models.precision import full_precision
from models.sync_expert import FRAMES

_MARGIN = 8  # px of the expert's crop around its hidden part, into which augmentation reaches
_NEAR = 1  # frames; sounds that are shifted by no more are not taught to be out of sync
_GUIDE = 64, 256  # channels of the guide


@dataclass
class StretchesConfig:
    """The items of `form: features`, and the weights of their loss terms."""

    windows: int = 24  # consecutive windows of five frames in a stretch
    level: float = 0.5  # weight of Wav2Lip's binary cross-entropy, which fixes the level of cosines for L_sync
    motion: float = 1.0  # weight of a head that predicts the mouth's motion from a frame's code
    # Weight of a second expert in training only, which embeds the landmarks' motion in place of pixels: of its own
    # softmax, and of the distance of the faces' embeddings from its own.
    guide: float = 1.0


class SyncStretches(Dataset):
    """Stretches of consecutive frames with the sound around them, from grey mouths kept in memory (4 kB a frame).

    Item (index, seed) is a dict of

        mouths (T, 1, h, w) grey in [0, 1];
        rows (R, C), the features from `furthest` frames before the first window's sound to as many after the last's;
        motion (T, 57, 2), of the keypoints in units of the crop (`landmark_maps.mouth_motion`);
        clip, the clip's id.

    Args:
        dataset: the clips, their lateness, and `furthest`.
        expert: whose crop and kind of features the items have.
        windows: of a stretch; T is FRAMES - 1 more.
        augment: mirror, shift, rotate, scale, blur and vary the light of the mouths; all frames get the same change.

    Raises:
        InputError: a clip lacks the features, or no clip has so many frames in a row.
    """

    def __init__(self, dataset: SyncDataset, expert: FeatureExpert, windows: int, augment: bool):
        self.kind, self.furthest, self.augment = expert.config.audio, dataset.furthest, augment
        self.length = windows + FRAMES - 1
        self.size = [part.stop - part.start for part in expert.config.crop.hidden_pixels]
        self._clips, spans = [], []
        for clip, late in zip(dataset.clips, dataset.late, strict=True):
            clip.check_kind(self.kind)
            starts = window_starts(clip, self.length, late)
            if not len(starts):
                continue
            motions = [_motion(points) for points in (clip.landmarks, mirrored_landmarks(clip.landmarks))]
            self._clips.append((clip, late, grey_mouths(clip, expert), motions))
            spans += [(len(self._clips) - 1, int(start)) for start in starts]
            clip.forget()
        if not spans:
            raise InputError(
                f"no clip has {self.length} frames in a row, for stretches.windows={windows}; set fewer or add clips"
            )
        self._spans = np.array(spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, seed = item
        random = np.random.default_rng([seed % 2**63, index])
        which, first = self._spans[index]
        clip, late, mouths, motions = self._clips[which]
        part = slice(first, first + self.length)
        mirrored = self.augment and random.random() < 0.5
        shown = mouths[part][:, :, ::-1] if mirrored else mouths[part]
        grey = _augmented(shown, self.size, random) if self.augment else _middle(shown, self.size)
        number = int(clip.frames[first]) + late
        ends = sync_rows(self.kind, np.array([number - self.furthest, number + self.length - FRAMES + self.furthest]))
        rows = clip.audio_at(self.kind, np.arange(ends[0, 0], ends[1, -1] + 1)[None])[0].T
        return {
            "mouths": torch.from_numpy(np.ascontiguousarray(grey))[:, None].float().div_(255),
            "rows": torch.from_numpy(np.ascontiguousarray(rows)),
            "motion": motions[int(mirrored)][part],
            "clip": clip.id,
        }


def grey_mouths(clip: Clip, expert: FeatureExpert) -> np.ndarray:
    """The clip's faces around the hidden part of the expert's crop, (F, h + 2 _MARGIN, w + 2 _MARGIN) uint8 grey."""
    crop = expert.config.crop
    rows, columns = (slice(part.start, part.stop + 2 * _MARGIN) for part in crop.hidden_pixels)  # of a padded face
    found = []
    for first in range(0, len(clip), 64):
        for face in clip.faces(range(first, min(first + 64, len(clip)))):
            small = cv2.resize(face, crop.shape[::-1], interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
            grey = cv2.copyMakeBorder(grey, _MARGIN, _MARGIN, _MARGIN, _MARGIN, cv2.BORDER_REPLICATE)
            found.append(grey[rows, columns])
    return np.stack(found)


def _motion(landmarks: np.ndarray) -> Tensor:
    return mouth_motion(torch.from_numpy(np.ascontiguousarray(landmarks)))


def _middle(mouths: np.ndarray, size: list[int]) -> np.ndarray:
    return mouths[:, _MARGIN : _MARGIN + size[0], _MARGIN : _MARGIN + size[1]]


def _augmented(mouths: np.ndarray, size: list[int], random: np.random.Generator) -> np.ndarray:
    """Augment (T, h, w) uint8, all frames in the same way, and cut it to `size`."""
    height, width = size
    scale, angle = random.uniform(0.9, 1.1), random.uniform(-8, 8)
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2 + _MARGIN, height / 2 + _MARGIN), angle, scale), np.float64)
    matrix[:, 2] += random.uniform(-3, 3, 2) - _MARGIN
    gain, gamma, noise = random.uniform(0.6, 1.4), random.uniform(0.7, 1.4), random.uniform(0, 10)
    table = 255 * np.clip(gain * np.arange(256) / 255, 0, 1) ** gamma
    coarse = random.uniform(0.5, 0.9) if random.random() < 0.3 else None
    noise = noise if random.random() < 0.3 else 0.0
    found = np.empty((len(mouths), height, width), np.float32)
    for made, mouth in zip(found, mouths, strict=True):
        moved = cv2.warpAffine(np.ascontiguousarray(mouth), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        if coarse is not None:
            small = cv2.resize(moved, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_AREA)
            moved = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        made[:] = table[moved]
    return np.clip(found + noise * random.standard_normal(found.shape), 0, 255).astype(np.float32)


class ExpertOnStretches(nn.Module):
    """The expert and, in training only, what learns from landmarks.

    A linear head predicts the mouth's motion from a frame's code. The guide embeds the motion of five frames: without
    a picture it learns in few steps how sound and motion go together, and the faces' embeddings imitate it.
    """

    def __init__(self, expert: FeatureExpert, furthest: int):
        super().__init__()
        self.expert, self.furthest = expert, furthest
        numbers, dropout = 2 * len(KEYPOINTS), expert.config.dropout
        self.head = nn.Linear(expert.code, numbers)
        narrow, hidden = _GUIDE
        self.guide_frame = nn.Sequential(nn.Dropout(dropout), nn.Linear(numbers, narrow), nn.GELU())
        self.guide = nn.Sequential(
            nn.Linear(FRAMES * narrow, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, expert.size),
        )

    def forward(self, mouths: Tensor, rows: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compare each window of items of `SyncStretches` with its sound at all shifts.

        Args:
            mouths: (B, T, 1, h, w); rows: (B, R, C); motion: (B, T, 57, 2).

        Returns:
            cosines (B, W, 2 furthest + 1) of the T - 4 windows of faces, and those of the guide; the middle column is
            the window's own sound. Cosines (B, W) of faces and guide. The predicted motion (B, T, 57, 2).
        """
        expert, shifts = self.expert, 2 * self.furthest + 1
        codes = expert.encode_frames(mouths.flatten(0, 1)).unflatten(0, mouths.shape[:2])
        lips = expert.embed_frames(codes.unfold(1, FRAMES, 1).transpose(2, 3))
        of_rows = expert.encode_rows(rows).unfold(1, expert.rows, 2).transpose(2, 3)  # two rows a frame
        sounds = expert.embed_rows(of_rows).unfold(1, shifts, 1)  # (B, W, D, shifts)
        moved = self.guide_frame((motion / MOTION).flatten(2)).unfold(1, FRAMES, 1).transpose(2, 3)
        guide = F.normalize(F.relu(self.guide(moved.flatten(2))), dim=-1)
        cosines, guided = ((each[:, :, None] @ sounds)[:, :, 0] for each in (lips, guide))
        imitated = (lips * guide.detach()).sum(dim=-1)
        return cosines, guided, imitated, MOTION * self.head(codes).unflatten(-1, (-1, 2))


MOTION = 0.01  # unit of motions, about the deviation of a keypoint, in units of the crop


def stretch_terms(
    compared: tuple[Tensor, Tensor, Tensor, Tensor], motion: Tensor, temperature: float, config: StretchesConfig
) -> dict[str, Tensor]:
    """The weighted loss terms of a batch of `SyncStretches`.

    Args:
        compared: the outputs of `ExpertOnStretches`.
        motion: the batch's.
        temperature: of the softmax over shifts.
    """
    cosines, guided, imitated, predicted = compared
    shifts = cosines.shape[-1]
    own = shifts // 2
    windows = full_precision(cosines).flatten(0, 1)
    target = torch.full((len(windows),), own, device=windows.device)
    terms = {"shifted": F.cross_entropy(windows / temperature, target)}
    if config.level > 0:
        far = abs(torch.arange(shifts, device=windows.device) - own) > _NEAR
        level = negative_log(windows[:, own]).mean() + negative_log(1 - windows[:, far]).mean()
        terms["level"] = config.level * level / 2
    if config.motion > 0:
        terms["motion"] = config.motion * F.smooth_l1_loss(full_precision(predicted) / MOTION, motion / MOTION)
    if config.guide > 0:
        found = F.cross_entropy(full_precision(guided).flatten(0, 1) / temperature, target)
        terms["guide"] = config.guide * (found + (1 - full_precision(imitated)).mean())
    return terms
