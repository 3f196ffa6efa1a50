"""LSE-D and LSE-C: lip-sync error of Chung's SyncNet, by distance and by confidence.

Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016; as a metric of dubbing: Prajwal et al., "A Lip
Sync Expert Is All You Need for Speech to Lip Generation In the Wild", 2020.
"""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from data_prep.unsynced import sync_sounds
from media.audio import SAMPLE_RATE, sound_features
from media.loudness import heard
from media.pictures import to_tensor
from media.place import crop_face, overlap
from media.timeline import FPS
from models.checkpoint import load_state, read_foreign
from models.chung_syncnet import MFCC_A_FRAME, MFCC_A_WINDOW, SHIFTS, SIZE, ChungSyncNet, mfcc_windows, sync_crop
from models.s3fd import S3FD, detect
from models.sync_expert import FRAMES, SyncExpert

EPSILON = 1e-6  # torch's pairwise distance, which the published scores use, adds it to each difference
BATCH = 8  # windows embedded at once
SEARCHED, LARGE = 0.25, 480  # scale at which S3FD searches a frame, and px a side from which it does
SURE, SAME = 0.9, 0.5  # least score of a face, least overlap of one face in two frames
REACH = 6  # frames either way over which boxes are smoothed, as SyncNet's published pipeline does


def load_s3fd(weights: Path) -> S3FD:
    """S3FD in eval mode from `sfd_face.pth` (`python -m checkpoints.fetch s3fd`); InputError if it is another file."""
    network = S3FD()
    load_state(network, read_foreign(weights), str(weights))
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class SyncScore:
    """The agreement of lips and sound.

    Attributes:
        offset: frames by which the sound must move later to fit best (negative: it comes too late).
        distance: LSE-D, the smallest mean distance over the shifts; lower is better.
        confidence: LSE-C, median minus minimum of the distances over the shifts; higher is better.
    """

    offset: int
    distance: float
    confidence: float


def sync_score(lips: np.ndarray, sound: np.ndarray) -> SyncScore:
    """LSE-D, LSE-C and the offset from SyncNet's embeddings, one a frame.

    The scores come from the curve of distances over shifts of the sound by -15 .. 15 frames. A distance is the mean
    over frames of the Euclidean distance of lips and sound; beyond the sound's ends its embeddings are zero.

    Args:
        lips, sound: (F, D) embeddings of the same F frames.

    Raises:
        ValueError: no frame, or series of different length.
    """
    if not len(lips) or len(lips) != len(sound):
        raise ValueError(f"{len(lips)} lip and {len(sound)} sound embeddings; give as many of both, one or more")
    lips = np.asarray(lips, np.float32)
    padded = np.pad(np.asarray(sound, np.float32), ((SHIFTS, SHIFTS), (0, 0)))
    distances = np.array(
        [
            np.linalg.norm(lips - padded[shift : shift + len(lips)] + EPSILON, axis=1).mean(dtype=np.float64)
            for shift in range(2 * SHIFTS + 1)
        ]
    )
    best = int(distances.argmin())
    return SyncScore(SHIFTS - best, float(distances[best]), float(np.median(distances) - distances[best]))


class DetectedBoxes:
    """Follows one face by S3FD's boxes, as SyncNet's published pipeline does, a quarter of the frame's size and up.

    Frames smaller than 480 px are searched at their own size. A frame without the face keeps its last box, where the
    pipeline interpolates.
    """

    def __init__(self, network: S3FD, device: str = "cpu"):
        self._network, self._device = network, device
        self._last: np.ndarray | None = None

    def box(self, frame: np.ndarray) -> np.ndarray | None:
        """The face's box in `frame` (H, W, 3) uint8 RGB, x1 y1 x2 y2; None before the first face."""
        scale = SEARCHED if min(frame.shape[:2]) >= LARGE else 1.0
        found = detect(self._network, frame, scale, SURE, self._device)
        last = self._last
        if len(found) and last is None:
            self._last = max(found, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        elif len(found) and last is not None:
            near = max(found, key=lambda box: overlap(box, last))
            self._last = near if overlap(near, last) > SAME else last
        return self._last


class ExpertEmbeddings:
    """Embeds a video's lips with a sync expert of this project, and scores them with the video's sound.

    Args:
        network: in eval mode, on `device`.
    """

    def __init__(self, network: SyncExpert, device: str = "cpu"):
        self._network = network
        self._device = device
        self._kind = network.config.audio
        config = network.config  # STSA's framing is stretched to any size, so its faces are cut at the expert's own
        self._crop = config.crop if config.crop.framing == "landmark_box" else config.faces
        self._crops: list[np.ndarray] = []
        self._lips: list[torch.Tensor] = []
        self._first: int | None = None

    def add(self, index: int, frame: np.ndarray, landmarks: np.ndarray) -> None:
        """Add frame `index`, (H, W, 3) uint8 RGB with a face of `landmarks` (478, 2); indices run without a gap."""
        if self._first is None:
            self._first = index
        self._crops.append(crop_face(frame, self._crop.place(landmarks), self._crop.shape))
        if len(self._crops) == FRAMES + BATCH - 1:
            self._embed()

    @torch.no_grad()
    def _embed(self) -> None:
        count = len(self._crops) - FRAMES + 1
        if count < 1:
            return
        frames = to_tensor(np.stack(self._crops), self._device)
        windows = torch.stack([frames[first : first + FRAMES] for first in range(count)])
        self._lips.append(self._network.embed_faces(self._network.lower_faces(windows)))
        del self._crops[:count]

    def score(self, wav: np.ndarray) -> float | None:
        """Similarity of lips and sound minus its median over shifts of the sound by up to 15 frames; higher is better.

        As in `metrics.quality` with --expert: a mean of cosines over windows of five frames. Windows whose shifted
        sounds reach beyond the recording are left out, unless none would remain.

        Args:
            wav: (samples,) at 16 kHz.

        Returns:
            None without five consecutive frames that have sound.
        """
        first, curves = self.curves(wav)
        if not len(curves):
            return None
        numbers, last = first + np.arange(len(curves)), int(len(wav) / SAMPLE_RATE * FPS) - FRAMES
        whole = (numbers >= SHIFTS) & (numbers + SHIFTS <= last)
        curve = (curves[whole] if whole.any() else curves).astype(np.float64).mean(axis=0)
        return float(curve[SHIFTS] - np.median(curve))

    def curves(self, wav: np.ndarray, features: np.ndarray | None = None) -> tuple[int, np.ndarray]:
        """Similarity of each window of five frames to its sound, shifted by -15 .. 15 frames.

        Args:
            wav: (samples,) at 16 kHz.
            features: of `wav`, from `features_of`; None computes them.

        Returns:
            The first window's first frame, and (windows, 31) float32, of the windows that have sound.
        """
        self._embed()
        if self._first is None or not self._lips:
            return 0, np.empty((0, 2 * SHIFTS + 1), np.float32)
        lips = torch.cat(self._lips)
        numbers = self._first + np.arange(len(lips))
        numbers = numbers[numbers <= int(len(wav) / SAMPLE_RATE * FPS) - FRAMES]
        if not len(numbers):
            return 0, np.empty((0, 2 * SHIFTS + 1), np.float32)
        spread = np.arange(numbers[0] - SHIFTS, numbers[-1] + SHIFTS + 1)
        sounds = sync_sounds(self.features_of(wav) if features is None else features, self._kind, spread)
        with torch.no_grad():
            parts = torch.from_numpy(sounds).split(64)
            sound = torch.cat([self._network.embed_audio(part.to(self._device)) for part in parts])
            places = torch.from_numpy(numbers - numbers[0])[:, None] + torch.arange(2 * SHIFTS + 1)
            near = (sound[places.to(self._device)] @ lips[numbers - self._first][..., None])[..., 0]
        return int(numbers[0]), near.float().cpu().numpy()

    def features_of(self, wav: np.ndarray) -> np.ndarray:
        """The features of `wav`, (samples,) at 16 kHz, that the network takes, at the loudness of its training."""
        return sound_features(heard(wav), self._kind, self._device, self._network.ear)


class SyncEmbeddings:
    """Embeds a video's lips from consecutive frames, and scores them with its sound.

    Args:
        network: in eval mode, on `device`.
    """

    def __init__(self, network: ChungSyncNet, device: str = "cpu"):
        self._network = network
        self._device = device
        self._waiting: deque[np.ndarray] = deque()  # frames that wait for the boxes after them
        self._squares: list[np.ndarray] = []
        self._crops: list[np.ndarray] = []
        self._lips: list[np.ndarray] = []
        self._first: int | None = None

    def add(self, index: int, frame: np.ndarray, box: np.ndarray | None) -> None:
        """Add frame `index`, (H, W, 3) uint8 RGB with the face in `box`; indices run without a gap.

        A crop's centre and size are the medians over the boxes of the 13 frames around it: a box that follows the jaw
        would cancel the jaw's motion in the crop. Without a box the whole frame is the crop.
        """
        if self._first is None:
            self._first = index
        if box is None:
            self._keep(cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR))
            return
        low, high = np.asarray(box, np.float64).reshape(2, 2)
        self._squares.append(np.array([*(low + high) / 2, (high - low).max() / 2]))
        self._waiting.append(frame)
        if len(self._waiting) > REACH:
            self._crop()

    def _crop(self) -> None:
        """Cut the face out of the frame that has waited longest."""
        place = len(self._squares) - len(self._waiting)
        x, y, half = np.median(self._squares[max(0, place - REACH) : place + REACH + 1], axis=0)
        box = np.array([x - half, y - half, x + half, y + half])
        self._keep(sync_crop(self._waiting.popleft(), box))

    def _keep(self, crop: np.ndarray) -> None:
        self._crops.append(crop[..., ::-1])
        if len(self._crops) == FRAMES + BATCH - 1:
            self._embed()

    @torch.no_grad()
    def _embed(self) -> None:
        count = len(self._crops) - FRAMES + 1
        if count < 1:
            return
        frames = torch.from_numpy(np.stack(self._crops)).to(self._device).permute(3, 0, 1, 2).float()
        windows = torch.stack([frames[:, first : first + FRAMES] for first in range(count)])
        self._lips.append(self._network.video(windows).cpu().numpy())
        del self._crops[:count]

    @torch.no_grad()
    def score(self, mfcc: np.ndarray) -> SyncScore | None:
        """LSE-D and LSE-C with the sound's MFCC, (M, 13) at 100 Hz; None if lips and sound share no 0.2 s."""
        while self._waiting:
            self._crop()
        self._embed()
        if self._first is None or not self._lips:
            return None
        lips = np.concatenate(self._lips)
        windows = (len(mfcc) - MFCC_A_WINDOW) // MFCC_A_FRAME + 1 - self._first
        lips = lips[: max(0, windows)]
        if not len(lips):
            return None
        sound = []
        for first in range(0, len(lips), 16 * BATCH):
            frames = self._first + np.arange(first, min(first + 16 * BATCH, len(lips)))
            chunk = torch.from_numpy(mfcc_windows(mfcc, frames)).to(self._device)
            sound.append(self._network.audio(chunk).cpu().numpy())
        return sync_score(lips, np.concatenate(sound))
