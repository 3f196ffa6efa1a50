"""The lip-sync expert of L_sync: Wav2Lip's SyncNet (Prajwal et al., 2020), which can load its `lipsync_expert.pth`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from media.crop import CROPS, STSA, CropForm, check_same_crop
from media.errors import InputError
from models.layers import ConvBlock, check_positive, renamed, scaled

FRAMES = 5  # of a window
FRAMED = ("framing", "margin")  # the fields of a crop that an expert and a synthesizer have in common

# Encoders as rows of (channels, kernel, stride, padding, residual blocks that follow).
_FACE_LAYERS = (
    (32, 7, 1, 3, 0),
    (64, 5, (1, 2), 1, 2),
    (128, 3, 2, 1, 3),
    (256, 3, 2, 1, 2),
    (512, 3, 2, 1, 2),
    (512, 3, 2, 1, 0),
    (512, 3, 1, 0, 0),
    (512, 1, 1, 0, 0),
)
_AUDIO_LAYERS = (
    (32, 3, 1, 1, 2),
    (64, 3, (3, 1), 1, 2),
    (128, 3, 3, 1, 2),
    (256, 3, (3, 2), 1, 2),
    (512, 3, 1, 0, 0),
    (512, 1, 1, 0, 0),
)


@dataclass
class SyncExpertConfig:
    """The architecture of a `SyncExpert`."""

    # The form of the network: "wav2lip", or "features", a small network on pretrained sound features. It is in no paper
    # (extensions/README.md).
    form: str = "wav2lip"
    audio: str = "mel"  # kind of sound features; wav2lip takes mel only
    width: float = 1.0  # factor of every layer's channels, the embeddings' 512 included
    # Faces of the same framing and margin are scaled to this crop, whose hidden part is the expert's input.
    crop: CropForm = field(default_factory=lambda: CropForm(height=96, width=96))

    @classmethod
    def released(cls) -> "SyncExpertConfig":
        """The form of `lipsync_expert.pth`, which is used on faces of STSA's framing."""
        return cls()

    @property
    def faces(self) -> CropForm:
        """The form at which clips are cut for the expert, which scales them to its own size.

        STSA's size, or for a framing that keeps another aspect ratio, a form with that ratio.
        """
        form = CROPS["g4g-128"] if self.crop.framing == "dinet" else STSA
        return dataclasses.replace(form, framing=self.crop.framing, margin=self.crop.margin)


CROP = SyncExpertConfig().crop


class SyncExpert(nn.Module):
    """Embeds 0.2 s of speech and five frames of a lower face, close to each other if the two are in sync.

    Raises:
        ValueError: an option of the config has no such value.
    """

    Config = SyncExpertConfig
    ear: Path | None = None  # file of the speech encoder of its sound features, where its checkpoint has one

    def __init__(self, config: SyncExpertConfig | None = None):
        super().__init__()
        self.config = config = dataclasses.replace(config) if config else SyncExpertConfig()
        check_positive(config, "width")
        if config.audio != "mel":
            raise ValueError(f"audio is {config.audio!r}; form wav2lip takes mel, set form: features for other kinds")
        if config.crop.difference(CROP, ("height", "width", "hidden")):
            raise ValueError(
                f"crop.height, crop.width and crop.hidden can only be {CROP.height}, {CROP.width} and "
                f"{list(CROP.hidden)}, as Wav2Lip's"
            )
        self.audio_encoder = _encoder(1, _AUDIO_LAYERS, config.width)
        self.face_encoder = _encoder(3 * FRAMES, _FACE_LAYERS, config.width)

    def forward(self, mel: Tensor, lower_faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pairs of speech and face.

        Args:
            mel: (B, 1, 80, 16) log-mel spectrogram from the first frame's time on.
            lower_faces: (B, 15, 48, 96) in [0, 1], from `lower_faces`.

        Returns:
            Audio and face embeddings, (B, 512) each, of length 1. Their values are not negative, so their cosine
            similarity lies in [0, 1].
        """
        return self.embed_audio(mel), self.embed_faces(lower_faces)

    def embed_audio(self, mel: Tensor) -> Tensor:
        """(B, 1, 80, 16) -> (B, 512) of length 1."""
        return F.normalize(self.audio_encoder(mel).flatten(1))

    def embed_faces(self, lower_faces: Tensor) -> Tensor:
        """(B, 15, 48, 96) -> (B, 512) of length 1."""
        return F.normalize(self.face_encoder(lower_faces).flatten(1))

    def lower_faces(self, frames: Tensor) -> Tensor:
        """Face crops (B, 5, 3, H, W), RGB in [0, 1], as `embed_faces` takes them: (B, 15, 48, 96), differentiable."""
        return lower_faces(frames)


def lower_faces(frames: Tensor) -> Tensor:
    """Convert face crops to the expert's input: `CROP`'s hidden part, BGR, the channels of all frames concatenated.

    Args:
        frames: (B, 5, 3, H, W) RGB in [0, 1].

    Returns:
        (B, 15, 48, 96) in [0, 1], differentiable with respect to `frames`.
    """
    batch, count = frames.shape[:2]
    faces = frames.flatten(0, 1)
    if faces.shape[-2:] != CROP.shape:
        large = max(faces.shape[-2:]) > 3 * CROP.height  # a bilinear reading would pass over every third pixel
        faces = F.interpolate(faces, CROP.shape, mode="bilinear", align_corners=False, antialias=large)
    lower = faces[..., *CROP.hidden_pixels].flip(1)
    return lower.reshape(batch, 3 * count, *lower.shape[-2:])


def check_framing(expert: SyncExpertConfig, holder: str, crop: CropForm, other: str, remedy: str) -> None:
    """Raise InputError unless faces of the form `crop` show the part of the frame that the expert was trained on.

    holder, other: the expert and the owner of `crop`, for the message; remedy ends it.
    """
    check_same_crop(expert.crop, holder, crop, other, remedy, FRAMED)
    faces = expert.faces
    if crop.framing != "landmark_box" and crop.height * faces.width != crop.width * faces.height:
        raise InputError(
            f"{holder} takes {crop.framing} faces of {faces.height}x{faces.width}, {other} has {crop.height}x"
            f"{crop.width}, another aspect ratio; {remedy}"
        )


def _encoder(channels: int, layers: tuple[tuple, ...], width: float) -> nn.Sequential:
    blocks = []
    for out, kernel_size, stride, padding, residuals in layers:
        out = scaled(out, width)
        blocks.append(ConvBlock(2, channels, out, kernel_size, stride, padding))
        blocks += [ConvBlock(2, out, out, residual=True) for _ in range(residuals)]
        channels = out
    return nn.Sequential(*blocks)


def released_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of Wav2Lip's `lipsync_expert.pth` to those of `SyncExpert`.

    Raises:
        ValueError: a tensor that the network needs is missing; the message names it.
    """
    with torch.device("meta"):
        names = SyncExpert(SyncExpertConfig.released()).state_dict()
    foreign = [name.replace(".conv.", ".conv_block.0.").replace(".norm.", ".conv_block.1.") for name in names]
    return renamed(state_dict, zip(names, foreign, strict=True))
