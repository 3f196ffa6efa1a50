"""Reads training windows from a folder of clip files."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data_prep.clips import Clip, window_spans
from data_prep.index import open_clips
from data_prep.manifest import Manifest
from data_prep.unsynced import check_shifts, clip_sync_sounds, draw_shifts
from media.audio import SAMPLE_RATE
from media.crop import STSA, CropForm
from media.errors import InputError
from media.heatmap import FULL_FACE, KEYPOINTS, MIRROR, POSE, draw_heatmaps
from media.landmarks import select131
from media.references import by_lip_opening, lip_opening
from media.timeline import FPS


class ClipDataset(Dataset):
    """Windows of consecutive frames with their sound, and reference frames of the same clip.

    Item (index, seed): window `index` of the folder's windows. `seed` determines its random choices (references,
    augmentation), so an item does not depend on the worker that loads it. A dict of

        audio (T, C, W), frames (T, 3, H, W) RGB in [0, 1], heatmaps and pose_heatmaps (T, 1, G, G),
        keypoints (T, 57, 2), sync_audio (1, C, W), the sync expert's five frames of sound from frame `sync_from` on,
        reference_images (N, 3, H, W), reference_heatmaps (N, 1, G, G),
        landmarks (T, 131, 2) and reference_landmarks (N, 131, 2), through which the heatmaps are drawn,
        with `negatives` K: audio_negatives (K, C, W) and sync_negatives (K, 1, C, W), the middle frame's window of
        `audio` and `sync_audio`, both shifted by the same K numbers of frames, all float32;
        clip, the clip's id, and start, the first frame's index on the 25 fps timeline.

    References are N different frames outside the window (repeated where the clip has fewer), in the order of
    `by_lip_opening` before augmentation, which changes no order.

    Args:
        folder: clip files, in subfolders too.
        audio: the kind of the windows in `audio`, a key of `media.audio.FEATURES`.
        window: T, number of consecutive frames with sound.
        references: N.
        crop: the form that the network takes: the part of the frame, H and W, and G, the side of its heatmaps.
        augment: mirror half of the items, vary brightness, contrast and colour, and vary loudness and tilt of log-mel.
            All frames of an item get the same change.
        warp: rotate, stretch and shift the landmarks and their heatmaps, but not the images, by up to this share of the
            crop. The frames of a window get the same change, each reference its own. For networks that take no images.
        max_offset: leave out clips whose offset in the manifest is larger, in frames; None keeps all.
        correct_offsets: shift each clip's sound by the offset in the manifest.
        sync_from: the frame of the window with which `sync_audio` begins.
        sync_kind: the kind of the sound features in `sync_audio`.
        decoded: folder for decoded copies of the faces (see `Clip`); None decodes them each time.
        holdout: share at each clip's end that is held out. It contains no reference. Neither it nor the second before
            it contains a window.
        held_out: take the windows from the held-out part instead, and the references from the rest.
        negatives: K, number of unsynced sounds of the same clip in an item (`draw_shifts`), 0 for none. They are
            earlier or later, lie within the clip's sound, and are augmented like `audio`.
        furthest: their largest shift in frames.
        pictures: false leaves `frames` and `reference_images` out, for networks that take no picture: no face is
            decoded. The other values stay the same.
        poses: false leaves `pose_heatmaps` out, for networks that take none. The other values stay the same.
        smallest_face: leave out clips with a smaller median face width, in pixels of the source.

    Raises:
        InputError: a clip file cannot be used, lacks the audio, has no offset where one is needed, or no clip has a
            window.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        audio: str = "mel",
        window: int = 5,
        references: int = 5,
        crop: CropForm = STSA,
        augment: bool = False,
        max_offset: int | None = None,
        sync_from: int = 0,
        warp: float = 0.0,
        decoded: str | os.PathLike | None = None,
        holdout: float = 0.0,
        held_out: bool = False,
        correct_offsets: bool = False,
        negatives: int = 0,
        furthest: int = 15,
        pictures: bool = True,
        poses: bool = True,
        smallest_face: int = 0,
        sync_kind: str = "mel",
    ):
        if negatives:
            check_shifts(negatives, furthest)
        if not 0 <= holdout < 1:
            raise InputError(f"holdout={holdout} is a share of each clip; use 0 or more and less than 1")
        self.sync_from, self.sync_kind, self.holdout, self.held_out = sync_from, sync_kind, holdout, held_out
        self.kind, self.window, self.references, self.crop, self.augment = audio, window, references, crop, augment
        self.warp, self.negatives, self.furthest, self.pictures, self.poses = warp, negatives, furthest, pictures, poses
        self.clips: list[Clip] = []
        self.late: list[int] = []  # frames by which each clip's sound is read later
        spans: list[tuple[int, int, int]] = []  # clip, first and last-plus-one position of the windows' first faces
        manifest = Manifest(Path(folder))
        small = 0
        for clip in open_clips(folder, decoded, crop):
            clip.check_kind(audio)
            clip.check_kind(sync_kind)
            if clip.outline.face_width < smallest_face:
                small += 1
                continue
            found = self._windows(clip, 0)
            if len(clip) <= window or not found:
                continue
            late = manifest.lateness(clip.id, max_offset, correct_offsets)
            if late:
                found = self._windows(clip, late)
            if late is not None and found:
                spans += [(len(self.clips), *span) for span in found]
                self.clips.append(clip)
                self.late.append(late)
        if not self.clips:
            reasons = " outside the part that holdout reserves" if holdout else ""
            reasons += f", and {small} have faces below smallest_face={smallest_face}" if small else ""
            raise InputError(
                f"data folder {folder}: no clip has {window} frames in a row and one more{reasons}; add longer clips"
            )
        self._spans = np.array(spans)
        self._ends = np.cumsum(self._spans[:, 2] - self._spans[:, 1])

    def _windows(self, clip: Clip, late: int) -> list[tuple[int, int]]:
        """Stretches of the faces that can start a window; its sound is `late` frames late and lies within the clip."""
        apart = self._apart(clip)
        if self.held_out:
            low, high = apart or len(clip), len(clip)  # no window if nothing before it can be a reference
        else:
            low, high = 0, (apart - FPS if self.holdout else apart) - self.window + 1
        spans = [(max(low, first), min(high, end)) for first, end in window_spans(clip, self.window, late)]
        return [(first, end) for first, end in spans if first < end]

    def _apart(self, clip: Clip) -> int:
        """Position of the first held-out face."""
        return round(len(clip) * (1 - self.holdout))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: tuple[int, int] | int) -> dict:
        index, seed = item if isinstance(item, tuple | list) else (item, item)
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        cv2.setNumThreads(0)  # on images this small, OpenCV's threads only wait for each other
        span = int(np.searchsorted(self._ends, index, side="right"))
        which, _, end = self._spans[span].tolist()
        first = end - int(self._ends[span]) + index
        with self.clips[which].reading():
            return self._item(which, first, index, seed)

    def _item(self, which: int, first: int, index: int, seed: int) -> dict:
        clip = self.clips[which]
        random = np.random.default_rng([seed % 2**63, index])

        targets = np.arange(first, first + self.window)
        others = np.delete(np.arange(self._apart(clip)), slice(first, first + self.window))
        chosen = random.choice(others, self.references, replace=len(others) < self.references)
        positions = np.concatenate([targets, np.sort(chosen)])
        points = clip.points_at(positions)
        # The frames of the window have one scale, where the form has one for a window; each reference has its own.
        near = points[: self.window]
        places = [self.crop.place(each, near if i < self.window else None) for i, each in enumerate(points)]
        landmarks = np.stack([place.to_crop(select131(each)) for place, each in zip(places, points, strict=True)])
        shown = by_lip_opening(np.arange(self.references), lip_opening(landmarks[self.window :])) + self.window
        order = np.concatenate([np.arange(self.window), shown])
        landmarks = landmarks[order]
        mirror, light = _augmentation(random) if self.augment else (False, None)
        images = clip.crops(positions[order], [places[i] for i in order]) if self.pictures else None
        if mirror:
            landmarks = mirrored_landmarks(landmarks)
        if self.warp > 0:
            landmarks = warped(landmarks, self.window, self.warp, random)

        numbers = clip.frames[targets]
        sounding = numbers + self.late[which]
        sounds, shifted = sounding, {}
        if self.negatives:
            middle, from_frame = sounding[self.window // 2], sounding[0] + self.sync_from
            shifts = self._shifts(clip, (middle - 2, from_frame), random)
            sounds = np.concatenate([sounding, middle + shifts])
            shifted["sync_negatives"] = torch.from_numpy(clip_sync_sounds(clip, self.sync_kind, from_frame + shifts))
        windows = clip.audio_windows(self.kind, sounds)
        if self.augment and self.kind == "mel":
            windows = _varied_mel(windows, random)
        full = torch.from_numpy(draw_heatmaps(landmarks, FULL_FACE, self.crop.guidance))
        if self.negatives:
            shifted["audio_negatives"] = torch.from_numpy(windows[self.window :])
        entries: dict = {
            "audio": torch.from_numpy(windows[: self.window]),
            "heatmaps": full[: self.window],
            "keypoints": torch.from_numpy(np.ascontiguousarray(landmarks[: self.window, KEYPOINTS])),
            "sync_audio": torch.from_numpy(clip_sync_sounds(clip, self.sync_kind, sounding[:1] + self.sync_from)[0]),
            "reference_heatmaps": full[self.window :],
            "landmarks": torch.from_numpy(landmarks[: self.window]),
            "reference_landmarks": torch.from_numpy(landmarks[self.window :]),
            "clip": clip.id,
            "start": int(numbers[0]),
        }
        if self.poses:
            pose = draw_heatmaps(landmarks[: self.window], POSE, self.crop.guidance)
            entries["pose_heatmaps"] = torch.from_numpy(pose)
        if images is not None:
            pictures = torch.from_numpy(_planes(images, mirror, light))
            entries |= {"frames": pictures[: self.window], "reference_images": pictures[self.window :]}
        return entries | shifted

    def _shifts(self, clip: Clip, starts: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """Random shifts. The five frames of sound from each of `starts` on stay within the clip's sound."""
        last = clip.samples * FPS // SAMPLE_RATE - 5
        return draw_shifts(random, self.negatives, self.furthest, -min(starts), last - max(starts))

    def landmarks(self) -> Iterator[np.ndarray]:
        """Yield each clip's landmarks (F, 131, 2), without the held-out part."""
        for clip in self.clips:
            yield clip.landmarks[: self._apart(clip)]
            clip.forget()  # the landmarks of thousands of clips would fill the memory


def warped(landmarks: np.ndarray, window: int, most: float, random: np.random.Generator) -> np.ndarray:
    """Apply random affine maps near the identity to (M, 131, 2): one map to the first `window`, one to each other."""
    count = 1 + len(landmarks) - window
    linear = np.eye(2) + random.uniform(-most, most, (count, 2, 2))
    linear[:, 0, 1] = random.uniform(-most, most, count) - linear[:, 1, 0]  # rotates more than it shears
    shift = random.uniform(-most, most, (count, 1, 2)) / 2
    which = np.maximum(np.arange(len(landmarks)) - window + 1, 0)
    return ((landmarks - 0.5) @ linear[which] + 0.5 + shift[which]).astype(np.float32)


def _varied_mel(windows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Log-mel windows (T, 80, W), with one loudness change of up to 10 dB and one spectral tilt for all."""
    loudness, tilt = random.uniform(-0.8, 0.8), random.uniform(-0.6, 0.6)
    change = loudness + tilt * np.linspace(-1, 1, windows.shape[1])[:, None]
    return np.clip(windows + change, -4, 4).astype(np.float32)


def mirrored_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks (m, 131, 2), in units of the crop, of the mirrored faces."""
    return landmarks[:, MIRROR] * np.array([-1, 1], np.float32) + np.array([1, 0], np.float32)


def _augmentation(random: np.random.Generator) -> tuple[bool, np.ndarray]:
    """Whether to mirror an item, and how its light and colour vary: (3, 256) uint8, the new level of each old one."""
    mirror = random.random() < 0.5
    # A gain for each channel (brightness and white balance) and a contrast about the middle grey.
    gain = random.uniform(0.85, 1.15) * random.uniform(0.95, 1.05, 3)
    contrast = random.uniform(0.85, 1.15)
    levels = (np.arange(256) * gain[:, None] - 128) * contrast + 128
    return mirror, np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _planes(images: np.ndarray, mirror: bool, light: np.ndarray | None) -> np.ndarray:
    """Images (n, H, W, 3) uint8 as (n, 3, H, W) float32 in [0, 1], mirrored and with the levels of `light`."""
    levels = np.tile(np.arange(256, dtype=np.uint8), (3, 1)) if light is None else light
    table = levels.astype(np.float32) / 255
    planes = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
    for image, out in zip(images, planes, strict=True):
        for channel, plane in enumerate(cv2.split(cv2.flip(image, 1) if mirror else image)):
            cv2.LUT(plane, table[channel], dst=out[channel])
    return planes
