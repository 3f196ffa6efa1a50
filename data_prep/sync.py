"""Windows for the lip-sync expert: five frames of a face, their sound, and shifted sounds of the same clip."""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data_prep.clips import Clip, window_starts
from data_prep.index import open_clips
from data_prep.manifest import Manifest
from data_prep.unsynced import check_shifts, clip_sync_sounds, draw_shifts
from media.crop import STSA, CropForm
from media.errors import InputError
from media.timeline import FPS
from models.sync_expert import FRAMES


class SyncDataset(Dataset):
    """Windows of five consecutive frames with their own sound and with shifted ones.

    Item (index, seed): window `index` of the folder's windows; `seed` determines everything random about it. A dict

        frames (5, 3, H, W) RGB in [0, 1];
        mel (1 + negatives, 1, 80, 16): the five frames' own sound, then sounds of the same length shifted earlier or
            later, half of them by at most three frames (`near`), the others by up to `furthest`;
        clip, the clip's id, and start, the first frame's index on the 25 fps timeline.

    Args:
        folder: clip files, in subfolders too.
        negatives: shifted sounds an item; their shifts differ, and none is 0.
        furthest: largest shift in frames.
        augment: mirror, shift, rotate, scale and tint the face; change the sound's level and tilt, mask some bands.
        max_offset: leave out clips with a larger audio offset, in frames, in the manifest; None keeps all.
        correct_offsets: move each clip's sound by the offset in the manifest.
        decoded: folder for decoded copies of the faces (see `Clip`); None decodes them each time.
        near: half of the shifts are within three frames. False: all shifts are equally likely, as in Wav2Lip's off-sync
            pairs, and the shifted sound stays within the clip if that is long enough: silence would reveal the shift.
        crop: the form of the faces; the five frames of a window have one scale, where the form has one for a window.

    Raises:
        InputError: a clip file cannot be used, a needed offset is missing, or no clip has a window.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        negatives: int = 4,
        furthest: int = 15,
        augment: bool = False,
        max_offset: int | None = None,
        correct_offsets: bool = False,
        decoded: str | os.PathLike | None = None,
        near: bool = True,
        crop: CropForm = STSA,
    ):
        check_shifts(negatives, furthest)
        self.negatives, self.furthest, self.augment = negatives, furthest, augment
        self.near = near
        manifest = Manifest(Path(folder))
        self.clips: list[Clip] = []
        self._starts: list[np.ndarray] = []
        self.late: list[int] = []
        for clip in open_clips(folder, decoded, crop):
            if not len(window_starts(clip, FRAMES)):
                continue
            late = manifest.lateness(clip.id, max_offset, correct_offsets)
            starts = window_starts(clip, FRAMES, late or 0)
            if late is None or not len(starts):
                continue
            self.clips.append(clip)
            self._starts.append(starts)
            self.late.append(late)
        self._ends = np.cumsum([len(starts) for starts in self._starts])
        if not len(self):
            raise InputError(f"data folder {folder}: no clip to use has {FRAMES} frames in a row; add longer clips")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, seed = item
        which = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._starts[which][index - (self._ends[which - 1] if which else 0)])
        clip = self.clips[which]
        random = np.random.default_rng([seed % 2**63, index])
        if torch.utils.data.get_worker_info() is not None:
            cv2.setNumThreads(0)

        number = int(clip.frames[first])
        place = number + self.late[which]
        earliest, latest = (None, None) if self.near else (-place, int(clip.seconds * FPS) - FRAMES - place)
        shifts = draw_shifts(random, self.negatives, self.furthest, earliest, latest, self.near)
        mel = clip_sync_sounds(clip, "mel", place + np.concatenate([[0], shifts]))
        positions = range(first, first + FRAMES)
        with clip.reading():
            points = clip.points_at(positions)
            faces = clip.crops(positions, [clip.crop.place(each, points) for each in points])
        mirrored = False
        if self.augment:
            mel = _augmented_mel(mel, random)
            mirrored = random.random() < 0.5
            faces = _augmented_faces(faces[:, :, ::-1] if mirrored else faces, random)
        window = {
            "frames": torch.from_numpy(np.ascontiguousarray(faces.transpose(0, 3, 1, 2))).float().div_(255),
            "sync_audio": torch.from_numpy(mel),
            "clip": clip.id,
            "start": number,
        }
        return window | self.more(which, first, mirrored)

    def more(self, which: int, first: int, mirrored: bool) -> dict[str, torch.Tensor]:
        """Further entries of an item, for subclasses: of clip `which`, for the five faces from face `first` on."""
        return {}


def _augmented_faces(faces: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Augment (5, H, W, 3) uint8, all frames in the same way, so that only speech moves between frames."""
    height, width = faces.shape[1:3]
    scale, angle = random.uniform(0.9, 1.1), random.uniform(-6, 6)
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale), np.float64)
    matrix[:, 2] += random.uniform(-0.05, 0.05, 2) * [width, height]
    gain, contrast = random.uniform(0.8, 1.2) * random.uniform(0.93, 1.07, 3), random.uniform(0.75, 1.25)
    table = np.clip((np.arange(256)[:, None] * gain - 128) * contrast + 128, 0, 255).astype(np.uint8)
    edge = cv2.BORDER_REPLICATE
    moved = np.stack(
        [cv2.warpAffine(np.ascontiguousarray(face), matrix, (width, height), borderMode=edge) for face in faces]
    )
    return np.stack([table[moved[..., channel], channel] for channel in range(3)], axis=-1)


def _augmented_mel(mel: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Augment (n, 1, 80, 16) by noise, and by one level, one tilt and up to 16 masked bands for all windows."""
    bands = np.linspace(-1, 1, 80, dtype=np.float32)[:, None]
    mel = mel + np.float32(random.uniform(-0.6, 0.6)) + np.float32(random.uniform(-0.4, 0.4)) * bands
    mel = mel + random.normal(0, random.uniform(0, 0.2), mel.shape).astype(np.float32)
    first, count = random.integers(0, 80), random.integers(0, 17)
    mel[:, :, first : first + count] = -4
    return np.clip(mel, -4, 4)
