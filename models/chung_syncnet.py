"""SyncNet for LSE-D and LSE-C (Chung and Zisserman, "Out of time", 2016), with the weights `syncnet_v2.model`."""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from media.audio import mfcc
from models.layers import renamed

SIZE = 224  # px, side of the input face
MARGIN = 0.4  # of half the face: margin on both sides, and twice that below, as in the published pipeline
GREY = 110  # fills the crop outside of the frame
MFCC_A_FRAME, MFCC_A_WINDOW = 4, 20  # at 100 Hz, against 25 fps
SHIFTS = 15  # frames either way: range of the search for an offset


class ChungSyncNet(nn.Module):
    """Embeds 0.2 s of speech and of a talking face; the smaller their distance, the better they are in sync.

    Its modules have the names of the published weights, because it is used with these only.
    """

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_convolution(nn.Conv2d, 1, 64, 3, padding=1),
            nn.MaxPool2d(1, 1),
            *_convolution(nn.Conv2d, 64, 192, 3, padding=1),
            nn.MaxPool2d(3, (1, 2)),
            *_convolution(nn.Conv2d, 192, 384, 3, padding=1),
            *_convolution(nn.Conv2d, 384, 256, 3, padding=1),
            *_convolution(nn.Conv2d, 256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            *_convolution(nn.Conv2d, 256, 512, (5, 4)),
        )
        self.netcnnlip = nn.Sequential(
            *_convolution(nn.Conv3d, 3, 96, (5, 7, 7), stride=(1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution(nn.Conv3d, 96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_convolution(nn.Conv3d, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_convolution(nn.Conv3d, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_convolution(nn.Conv3d, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution(nn.Conv3d, 256, 512, (1, 6, 6)),
        )
        self.netfcaud = _head()
        self.netfclip = _head()

    def audio(self, mfcc: Tensor) -> Tensor:
        """Embed speech: (B, 1, 13, 20), 13 MFCC at 100 Hz, -> (B, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def video(self, lips: Tensor) -> Tensor:
        """Embed five frames: (B, 3, 5, 224, 224), BGR face crops in [0, 255], -> (B, 1024)."""
        return self.netfclip(self.netcnnlip(lips).flatten(1))


def _convolution(kind: type[nn.Conv2d] | type[nn.Conv3d], in_channels: int, out_channels: int, *args, **kwargs) -> list:
    norm = nn.BatchNorm2d if kind is nn.Conv2d else nn.BatchNorm3d
    return [kind(in_channels, out_channels, *args, **kwargs), norm(out_channels), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def released_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `syncnet_v2.model` that the network needs, by name.

    Raises:
        ValueError: a tensor is missing; the message names it.
    """
    with torch.device("meta"):
        names = ChungSyncNet().state_dict()
    return renamed(state_dict, zip(names, names, strict=True))


def mfcc_windows(features: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The 0.2 s of sound of each window of five frames; silence stands in before and after the recording.

    Args:
        features: (M, 13) MFCC at 100 Hz.
        frames: (K,) first frames of the windows, at 25 fps; negative ones lie before the sound.

    Returns:
        (K, 1, 13, 20) float32.
    """
    steps = MFCC_A_FRAME * np.asarray(frames, np.int64)[:, None] + np.arange(MFCC_A_WINDOW)
    there = (steps >= 0) & (steps < len(features))
    silence = mfcc(np.zeros(400, np.float32))[0]
    windows = np.where(there[..., None], features[steps.clip(0, len(features) - 1)], silence)
    return np.ascontiguousarray(windows.transpose(0, 2, 1)[:, None], np.float32)


def sync_crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Crop a face as SyncNet's published pipeline does: a square with margins at the sides and below the chin.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box: (4,) face box, x1 y1 x2 y2.

    Returns:
        (224, 224, 3) uint8 RGB.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    half = max(x2 - x1, y2 - y1) / 2
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    # One warp crops, fills and resizes; the square spans half above the centre to half (1 + 2 margins) below.
    side = 2 * half * (1 + MARGIN)
    left, top = centre_x - side / 2, centre_y - half
    scale = SIZE / side
    matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
    return cv2.warpAffine(
        frame, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )
