"""The heatmap predictor (paper III-A): speech, pose heatmaps and reference heatmaps to the speaking face's heatmaps."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from media.crop import STSA, CropForm
from media.heatmap import JAW_POINTS, LIP_POINTS
from models.layers import AUDIO_CHANNELS, ConvBlock, check_positive, in_full_precision, renamed, scaled

_LONGEST_WINDOW = 512


class PredictorForm(NamedTuple):
    """The differences between the paper's network and the released one.

    shared_message: the lip-to-jaw message-passing layer serves both directions.
    add_pose: the output is h_m + h_lip + h_jaw, else h_lip + h_jaw.
    keypoint_shortcut, pose_messages: as in the config.
    """

    shared_message: bool
    add_pose: bool
    keypoint_shortcut: bool
    pose_messages: bool


FORMS = {
    "paper": PredictorForm(shared_message=False, add_pose=True, keypoint_shortcut=False, pose_messages=False),
    "released": PredictorForm(shared_message=True, add_pose=False, keypoint_shortcut=True, pose_messages=True),
}


@dataclass
class WindowEncoderConfig:
    """The settings of a `WindowEncoder`; the defaults are the paper's."""

    form: str = "paper"  # "paper", or "released", the network whose weights the authors published
    audio: str = "mel"  # kind of sound features: "mel", "wav2vec2", "hama" or "whisper"
    width: float = 1.0  # factor of every layer's channels, the transformer's width and feed-forward included
    frames: int = 5  # T, consecutive frames in a window
    references: int = 5  # N, number of reference frames in training
    crop: CropForm = field(default_factory=CropForm)
    layers: int = 8  # number of layers of the transformer encoder
    heads: int = 4  # number of attention heads of each layer
    dropout: float = 0.1  # dropout of the transformer encoder

    def resolved(self) -> Self:
        """This config with a value in place of each None."""
        return self


@dataclass
class HeatmapPredictorConfig(WindowEncoderConfig):
    """The settings of a `HeatmapPredictor`; the defaults are the paper's. None takes the value of `form`."""

    # Whether the keypoint extractors add the branch's token to their heatmap's features, as in the released network;
    # the paper extracts keypoints from the heatmaps alone.
    keypoint_shortcut: bool | None = None
    # Whether both decoder branches take the pose heatmap at 32x32, as in the released network; eq. 2 gives them tokens
    # alone.
    pose_messages: bool | None = None

    @classmethod
    def released(cls) -> Self:
        """The form of the authors' `heatmap_weight.pth`."""
        return cls(form="released", audio="wav2vec2").resolved()

    def resolved(self) -> Self:
        """This config with a value in place of each None; ValueError where `form` is unknown."""
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; give {' or '.join(FORMS)}")
        names = ("keypoint_shortcut", "pose_messages")
        unset = [name for name in names if getattr(self, name) is None]
        return dataclasses.replace(self, **{name: getattr(FORMS[self.form], name) for name in unset})


class WindowEncoder(nn.Module):
    """Eq. 1: encoders of sound, pose and references, and a transformer that relates their embeddings.

    Raises:
        ValueError: an option of the config has no such value.
    """

    inputs: ClassVar[tuple[str, ...]]
    position: Tensor
    # After these arguments, a form may take more: those of `models.guidance.inputs_of`.
    predict_centre: Callable[..., tuple[Tensor, Tensor | None]]

    def __init__(self, config: WindowEncoderConfig):
        super().__init__()
        self.config = config
        width = scaled(512, config.width)
        _check(config, width)
        self.audio_encoder = audio_encoder(AUDIO_CHANNELS[config.audio], config.width)
        self.pose_encoder = _heatmap_encoder(config.width)
        self.reference_encoder = _heatmap_encoder(config.width)
        self.norm = nn.LayerNorm(width)
        self.modality = nn.Parameter(torch.randn(3, width))  # pose, audio, reference
        self.register_buffer("position", _sinusoids(_LONGEST_WINDOW, width), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, scaled(1024, config.width), config.dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def encode_frames(self, audio: Tensor, pose_heatmaps: Tensor) -> Tensor:
        """Embed frames independently: audio (F, C, W), pose_heatmaps (F, 1, G, G) -> (F, 2, width), audio first.

        In dubbing, a frame belongs to T windows and is embedded once.
        """
        embeddings = [
            self.audio_encoder(audio).mean(dim=-1),
            self.pose_encoder(pose_heatmaps).flatten(1),
        ]
        return self.norm(torch.stack(embeddings, dim=1))

    def encode_references(self, reference_heatmaps: Tensor) -> Tensor:
        """Embed reference heatmaps (B, N, 1, G, G) -> (B, N, width); in dubbing, once a video."""
        embeddings = self.reference_encoder(reference_heatmaps.flatten(0, 1)).flatten(1)
        return self.norm(embeddings).unflatten(0, reference_heatmaps.shape[:2])

    def encode(self, audio: Tensor, pose_heatmaps: Tensor, reference_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of `forward` as `encode_frames` (B, T, ..., width) and `encode_references` (B, N, width)."""
        frames = self.encode_frames(audio.flatten(0, 1), pose_heatmaps.flatten(0, 1))
        return frames.unflatten(0, pose_heatmaps.shape[:2]), self.encode_references(reference_heatmaps)

    def relate(self, frames: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 1, Z = T(H(A, H_m, H_r)): (B, T, 2, width), (B, N, width) -> z_t and z_{t+T}, each (B, T, width)."""
        length = frames.shape[1]
        pose_modality, audio_modality, reference_modality = self.modality
        position = self.position[:length]
        audio = frames[:, :, 0] + position + audio_modality
        pose = frames[:, :, 1] + position + pose_modality
        tokens = torch.cat([references + reference_modality, audio, pose], dim=1)
        z = self.transformer(self.dropout(tokens))
        return z[:, -2 * length : -length], z[:, -length:]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters of eq. 1, which the gradient of every loss term reaches."""
        encoders = (self.audio_encoder, self.pose_encoder, self.reference_encoder, self.norm, self.transformer)
        return [self.modality, *(parameter for module in encoders for parameter in module.parameters())]


class HeatmapPredictor(WindowEncoder):
    """Eq. 1 and 2: two coupled branches decode the transformer's tokens to heatmaps; keypoints are read off these.

    Args:
        config: ValueError where it cannot be built.

    Attributes:
        inputs: the names in a batch of `ClipDataset` that `forward` takes, in its order.
    """

    Config = HeatmapPredictorConfig
    inputs: ClassVar[tuple[str, ...]] = ("audio", "pose_heatmaps", "reference_heatmaps")

    def __init__(self, config: HeatmapPredictorConfig | None = None):
        config = (config or HeatmapPredictorConfig()).resolved()
        super().__init__(config)
        form, shortcut = FORMS[config.form], bool(config.keypoint_shortcut)
        self.add_pose = form.add_pose
        self.decoder = _CoupledDecoder(config.width, form.shared_message, bool(config.pose_messages))
        self.lip_keypoints = _KeypointExtractor(len(LIP_POINTS), config.width, shortcut)
        self.jaw_keypoints = _KeypointExtractor(len(JAW_POINTS), config.width, shortcut)

    def forward(self, audio: Tensor, pose_heatmaps: Tensor, reference_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the heatmaps and the 57 keypoints of T consecutive frames (eq. 1, 2).

        Args:
            audio: (B, T, C, W), the window of sound around each frame.
            pose_heatmaps: (B, T, 1, G, G) in [0, 1], the upper face of the target frames.
            reference_heatmaps: (B, N, 1, G, G) in [0, 1], whole faces of the same person.

        Returns:
            heatmaps (B, T, 1, G, G), at least 0; the sum of the branches may exceed 1, and is clipped at 1 before
            synthesis (`models.guidance`). Keypoints (B, T, 57, 2) in units of the crop, 17 of the jaw, then 40 of the
            lips.
        """
        lip, jaw = (z.flatten(0, 1) for z in self.relate(*self.encode(audio, pose_heatmaps, reference_heatmaps)))
        pose = pose_heatmaps.flatten(0, 1)
        lip_heatmaps, jaw_heatmaps = self.decoder(lip, jaw, pose)
        keypoints = self._keypoints(lip, jaw, lip_heatmaps, jaw_heatmaps)
        shape = pose_heatmaps.shape[:2]
        return self._complete(lip_heatmaps, jaw_heatmaps, pose).unflatten(0, shape), keypoints.unflatten(0, shape)

    def predict_centre(
        self, frames: Tensor, references: Tensor, pose_heatmaps: Tensor, *, keypoints: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of B windows, for the centre frames T // 2 alone: the other frames are not decoded.

        Args:
            frames: (B, T, 2, width), windows of `encode_frames`; at both ends of a video its last frame is repeated.
            references: (B or 1, N, width), of `encode_references`.
            pose_heatmaps: (B, 1, G, G) of the centre frames.
            keypoints: whether to compute the keypoints.

        Returns:
            heatmaps (B, 1, G, G), at least 0, and keypoints (B, 57, 2), or None.
        """
        centre = frames.shape[1] // 2
        references = references.expand(len(frames), -1, -1)
        lip, jaw = (z[:, centre] for z in self.relate(frames, references))
        lip_heatmaps, jaw_heatmaps = self.decoder(lip, jaw, pose_heatmaps)
        found = self._keypoints(lip, jaw, lip_heatmaps, jaw_heatmaps) if keypoints else None
        return self._complete(lip_heatmaps, jaw_heatmaps, pose_heatmaps), found

    def _keypoints(self, lip: Tensor, jaw: Tensor, lip_heatmaps: Tensor, jaw_heatmaps: Tensor) -> Tensor:
        """Tokens (M, width) and heatmaps (M, 1, G, G) of both branches -> (M, 57, 2), jaw first."""
        return torch.cat([self.jaw_keypoints(jaw, jaw_heatmaps), self.lip_keypoints(lip, lip_heatmaps)], dim=1)

    def _complete(self, lip_heatmaps: Tensor, jaw_heatmaps: Tensor, pose_heatmaps: Tensor) -> Tensor:
        """Eq. 2: the sum of both branches, and of the pose in the paper's form."""
        heatmaps = lip_heatmaps + jaw_heatmaps
        return heatmaps + pose_heatmaps if self.add_pose else heatmaps


class _CoupledDecoder(nn.Module):
    """Eq. 2: two branches of transposed convolutions that exchange messages (as in Look at Boundary)."""

    def __init__(self, width: float, shared_message: bool, pose_messages: bool):
        super().__init__()
        self.lip = _decoder_branch(width)
        self.jaw = _decoder_branch(width)
        channels = scaled(256, width)
        self.lip_to_jaw = ConvBlock(2, channels, channels)
        self.jaw_to_lip = None if shared_message else ConvBlock(2, channels, channels)
        self.pose_to_lip = _pose_message(width) if pose_messages else None
        self.pose_to_jaw = _pose_message(width) if pose_messages else None

    def forward(self, lip: Tensor, jaw: Tensor, pose_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, width) each and pose_heatmaps (B, 1, G, G) -> lip and jaw heatmaps (B, 1, G, G)."""
        lip, jaw = self.lip[:2](lip[..., None, None]), self.jaw[:2](jaw[..., None, None])  # 8x8
        jaw_to_lip = self.lip_to_jaw if self.jaw_to_lip is None else self.jaw_to_lip
        lip, jaw = lip + jaw_to_lip(jaw), jaw + self.lip_to_jaw(lip)
        lip, jaw = self.lip[2:4](lip), self.jaw[2:4](jaw)  # 32x32
        if self.pose_to_lip is not None and self.pose_to_jaw is not None:
            lip, jaw = lip + self.pose_to_lip(pose_heatmaps), jaw + self.pose_to_jaw(pose_heatmaps)
        return torch.tanh(self.lip[4:](lip)), torch.tanh(self.jaw[4:](jaw))


class _KeypointExtractor(nn.Module):
    """Keypoints of one branch from its heatmap; with `shortcut` also from its token."""

    def __init__(self, points: int, width: float, shortcut: bool):
        super().__init__()
        self.shortcut = shortcut
        self.encoder = _heatmap_encoder(width)
        self.linear = nn.Linear(scaled(512, width), 2 * points)
        # The keypoints start near the crop's middle. From its corner, the gradient of their common offset dominates the
        # loss for hundreds of steps, in which the transformer's tokens become the same for all inputs.
        nn.init.constant_(self.linear.bias, 0.5)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)

    def forward(self, token: Tensor, heatmaps: Tensor) -> Tensor:
        """(B, width), (B, 1, G, G) -> (B, points, 2)."""
        seen = self.encoder(heatmaps).flatten(1)
        return in_full_precision(self.linear, seen + token if self.shortcut else seen).unflatten(1, (-1, 2))


class _UpBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride, padding)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def _decoder_branch(width: float) -> nn.Sequential:
    channels = [scaled(c, width) for c in (512, 256, 128, 64, 32)] + [1]
    blocks = [_UpBlock(channels[0], channels[0], stride=1, padding=0)]  # 1x1 to 4x4
    blocks += [_UpBlock(a, b, stride=2, padding=1) for a, b in pairwise(channels)]
    # Half of the pixels start above 0, whatever the input. With a batch norm scale of 1 they dominate the loss, and
    # training first spends hundreds of steps on making them black. A negative bias would cut off their gradients.
    nn.init.constant_(blocks[-1].norm.weight, 0.25)
    return nn.Sequential(*blocks)


def _pose_message(width: float) -> nn.Sequential:
    c32, c64 = scaled(32, width), scaled(64, width)
    return nn.Sequential(ConvBlock(2, 1, c32, stride=2), ConvBlock(2, c32, c64, stride=2))


def _heatmap_encoder(width: float) -> nn.Sequential:
    """(B, 1, G, G) -> (B, width, 1, 1) in [-1, 1]."""
    blocks, channels = [], 1
    for out, stride, residuals in ((32, 2, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1)):
        out = scaled(out, width)
        blocks.append(ConvBlock(2, channels, out, stride=stride))
        blocks += [ConvBlock(2, out, out, residual=True) for _ in range(residuals)]
        channels = out
    out = scaled(512, width)
    blocks += [ConvBlock(2, channels, out, padding=0), ConvBlock(2, out, out, 1, padding=0, activation=nn.Tanh())]
    return nn.Sequential(*blocks)


def audio_encoder(in_channels: int, width: float) -> nn.Sequential:
    """(B, in_channels, W) -> (B, width, 1) for W = 10, (B, width, 2) for W = 16; in [-1, 1]."""
    c128, c256, c512 = (scaled(c, width) for c in (128, 256, 512))
    blocks = [ConvBlock(1, in_channels, c128)]
    for channels, out, stride in ((c128, c128, 1), (c128, c256, 2), (c256, c512, 2)):
        blocks.append(ConvBlock(1, channels, out, stride=stride))
        blocks += [ConvBlock(1, out, out, residual=True) for _ in range(2)]
    return nn.Sequential(
        *blocks,
        ConvBlock(1, c512, c512),
        ConvBlock(1, c512, c512, padding=0),
        ConvBlock(1, c512, c512, 1, padding=0, activation=nn.Tanh()),
    )


def _sinusoids(length: int, width: int) -> Tensor:
    """The Transformer's position table (length, width): sine in the even channels, cosine in the odd ones."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def _check(config: WindowEncoderConfig, width: int) -> None:
    if config.audio not in AUDIO_CHANNELS:
        raise ValueError(f"audio is {config.audio!r}; give one of {', '.join(AUDIO_CHANNELS)}")
    check_positive(config, "width", "frames", "references", "layers", "heads")
    if config.crop.guidance != STSA.guidance:
        raise ValueError(f"crop.guidance is {config.crop.guidance}; the layers' strides need {STSA.guidance}")
    if width % config.heads:
        raise ValueError(f"{config.heads} heads do not divide the transformer's width {width}; change heads or width")


# Pairs of own and released module prefixes; the first that matches applies.
_RELEASED_NAMES = (
    ("audio_encoder.", "mel_encoder."),
    ("reference_encoder.", "ref_encoder."),
    ("norm.", "Norm."),
    ("modality", "fusion_transformer.modality.weight"),
    ("transformer.", "fusion_transformer.transformer_encoder."),
    ("lip_keypoints.encoder.", "lip_encoder."),
    ("lip_keypoints.linear.", "mouse_keypoint_map."),
    ("jaw_keypoints.encoder.", "jaw_encoder."),
    ("jaw_keypoints.linear.", "jaw_keypoint_map."),
    *((f"decoder.lip.{i}.", f"heatmap_decoder.conv_t{i + 1}.") for i in range(6)),
    *((f"decoder.jaw.{i}.", f"heatmap_decoder.conv_t{i + 7}.") for i in range(6)),
    ("decoder.lip_to_jaw.", "heatmap_decoder.message_l2j.0."),
    ("decoder.pose_to_lip.", "heatmap_decoder.message_p2l."),
    ("decoder.pose_to_jaw.", "heatmap_decoder.message_p2j."),
)


def _released_name(name: str) -> str:
    own, foreign = next((pair for pair in _RELEASED_NAMES if name.startswith(pair[0])), ("", ""))
    name = foreign + name.removeprefix(own)
    block = "convT_block" if ".conv_t" in name else "conv_block"
    return name.replace(".conv.", f".{block}.0.").replace(".norm.", f".{block}.1.")


def released_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the authors' `heatmap_weight.pth` to those of `HeatmapPredictorConfig.released()`.

    Left out, because the network does not use them: `message_j2l`, the position tables (sinusoids, computed here) and
    the first of the four modalities.

    Raises:
        ValueError: a tensor that the network needs is missing; the message names it.
    """
    with torch.device("meta"):
        own_names = HeatmapPredictor(HeatmapPredictorConfig.released()).state_dict()
    state = renamed(state_dict, [(name, _released_name(name)) for name in own_names])
    state["modality"] = state["modality"][1:]
    return state
