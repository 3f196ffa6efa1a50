"""A lip-sync expert on pretrained sound features, small enough for ten minutes of video. Not in the papers.

Each frame of a grey mouth is encoded by itself, and each row of the features: a stretch of frames shares their codes
among all of its windows and all shifts of the sound (extensions/sync_stretches.py trains it so).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.unsynced import sync_rows
from media.audio import FEATURES
from media.crop import CropForm
from models.layers import ConvBlock, check_positive, scaled
from models.sync_expert import FRAMES, SyncExpert, SyncExpertConfig

_LUMA = (0.114, 0.587, 0.299)  # of blue, green and red


@dataclass
class FeatureExpertConfig(SyncExpertConfig):
    """The architecture of a `FeatureExpert`."""

    form: str = "features"  # the form of this network
    audio: str = "hama"  # kind of sound features: "wav2vec2", "hama" or "whisper"
    # Faces of the same framing and margin are scaled to this crop, whose hidden part, a mouth, is the expert's input.
    crop: CropForm = field(
        default_factory=lambda: CropForm(height=120, width=120, framing="upright", hidden=(0.3, 0.5, 0.7, 0.9))
    )
    dropout: float = 0.3  # of features and of the layers' outputs


class FeatureExpert(SyncExpert):
    """Embeds the features of five frames of speech, and five frames of a mouth, close to each other if in sync.

    Raises:
        ValueError: an option of the config has no such value.
    """

    Config = FeatureExpertConfig
    config: FeatureExpertConfig
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FeatureExpertConfig | None = None):
        nn.Module.__init__(self)
        self.config = config = config or FeatureExpertConfig()
        check_positive(config, "width")
        if config.audio not in FEATURES or config.audio == "mel":
            kinds = ", ".join(kind for kind in FEATURES if kind != "mel")
            raise ValueError(f"audio is {config.audio!r}; form features takes one of {kinds}")
        channels, hidden = FEATURES[config.audio][0], scaled(256, config.width)
        self.code = self.size = scaled(128, config.width)  # numbers of a frame's code, and of an embedding
        self.rows = sync_rows(config.audio, np.zeros(1, int)).shape[1]  # of the features, in a window of five frames
        mouth = torch.zeros(1, 1, *config.crop.shape)[..., *config.crop.hidden_pixels]
        convolutions = nn.Sequential(
            ConvBlock(2, 1, scaled(16, config.width), 5, 2, 2),
            ConvBlock(2, scaled(16, config.width), scaled(32, config.width), 3, 2),
            ConvBlock(2, scaled(32, config.width), scaled(64, config.width), 3, 2),
            ConvBlock(2, scaled(64, config.width), scaled(64, config.width), residual=True),
            nn.Flatten(),
            nn.Dropout(config.dropout),
        )
        with torch.no_grad():
            positions = convolutions.eval()(mouth).shape[1]
        self.frame = nn.Sequential(*convolutions.train(), nn.Linear(positions, self.code), nn.GELU())
        self.lips = _head(FRAMES * self.code, hidden, self.size, config.dropout)
        self.row = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(channels, self.code // 2), nn.GELU())
        self.speech = _head(self.rows * (self.code // 2), hidden, self.size, config.dropout)
        # `feature_scale.fit_scale` sets both to those of the training clips' features.
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def embed_audio(self, sound: Tensor) -> Tensor:
        """(B, 1, C, W) from `data_prep.unsynced.sync_sounds` -> (B, D) of length 1, not negative."""
        return self.embed_rows(self.encode_rows(sound[:, 0].transpose(1, 2)))

    def embed_faces(self, lower_faces: Tensor) -> Tensor:
        """(B, 15, h, w) from `lower_faces` -> (B, D) of length 1, not negative."""
        frames = lower_faces.unflatten(1, (FRAMES, 3))
        grey = (frames * frames.new_tensor(_LUMA)[:, None, None]).sum(dim=2)
        return self.embed_frames(self.encode_frames(grey.flatten(0, 1)[:, None]).unflatten(0, grey.shape[:2]))

    def lower_faces(self, frames: Tensor) -> Tensor:
        """The hidden part of crops (B, 5, 3, H, W) at the expert's size: (B, 15, h, w) BGR in [0, 1]."""
        faces = frames.flatten(0, 1)
        if faces.shape[-2:] != self.config.crop.shape:
            faces = F.interpolate(faces, self.config.crop.shape, mode="bilinear", align_corners=False, antialias=True)
        lower = faces[..., *self.config.crop.hidden_pixels].flip(1)
        return lower.reshape(len(frames), -1, *lower.shape[-2:])

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Rows of features (..., C) -> codes (..., K)."""
        return self.row((rows - self.mean) / self.deviation)

    def embed_rows(self, codes: Tensor) -> Tensor:
        """Codes of a window's rows (..., W, K) -> (..., D)."""
        return F.normalize(F.relu(self.speech(codes.flatten(-2))), dim=-1)

    def encode_frames(self, grey: Tensor) -> Tensor:
        """Grey mouths (F, 1, h, w) in [0, 1] -> codes (F, K')."""
        return self.frame(grey - grey.mean(dim=(1, 2, 3), keepdim=True))

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Codes of five frames (..., 5, K') -> (..., D)."""
        return F.normalize(F.relu(self.lips(codes.flatten(-2))), dim=-1)


def _head(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
