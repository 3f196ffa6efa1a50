"""Guidance prediction (paper III-A): speech, pose and reference heatmaps to the heatmaps of the speaking face."""

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from extensions.drawing import CurveDrawing
from extensions.landmark_maps import ANCHORS, apply_affine, pose_beside
from extensions.point_reader import PointReader
from media.heatmap import JAW_POINTS, KEYPOINTS, LIP_POINTS
from models.layers import AUDIO_CHANNELS, ConvBlock, check_positive, renamed, scaled
from models.precision import full_precision, without_autocast

SPEECH_CONTEXT = 5  # frames of sound that a drawn network's speech branch listens to around each frame
_LONGEST_WINDOW = 512
# Points move by hundredths of the crop: in these units a usual learning rate is not all noise.
_STEP = 0.1


class Form(NamedTuple):
    """Where the paper's network and the released one differ.

    shared_message: the lip-to-jaw message-passing layer serves both directions.
    add_pose: the output is h_m + h_lip + h_jaw, else h_lip + h_jaw.
    keypoint_shortcut, pose_messages: the config's.
    """

    shared_message: bool
    add_pose: bool
    keypoint_shortcut: bool
    pose_messages: bool


FORMS = {
    "paper": Form(shared_message=False, add_pose=True, keypoint_shortcut=False, pose_messages=False),
    "released": Form(shared_message=True, add_pose=False, keypoint_shortcut=True, pose_messages=True),
}


@dataclass
class HeatmapPredictorConfig:
    """What a `HeatmapPredictor` is made of; the defaults are the paper's form. None means: as `form` says."""

    form: str = "paper"  # or "released", the network whose weights the authors published; `FORMS`
    audio: str = "mel"  # the kind of sound features, "mel" or "wav2vec2"
    width: float = 1.0  # factor of every layer's channels, the transformer's width and feed-forward included
    frames: int = 5  # T, consecutive frames in a window
    references: int = 5  # N, reference frames it is trained with
    layers: int = 8  # of the transformer encoder
    heads: int = 4  # of the transformer encoder
    dropout: float = 0.1  # of the transformer encoder
    # Whether the keypoint extractors add the branch's token to what they read off its heatmap, as the released network
    # does; the paper extracts keypoints from the heatmaps alone.
    keypoint_shortcut: bool | None = None
    # Whether both decoder branches take the pose heatmap at 32x32, as in the released network; eq. 2 gives them tokens
    # alone.
    pose_messages: bool | None = None
    # "decoded" by the coupled decoder (paper), or "drawn" through keypoints: those of the references, moved to the
    # target's pose, by the sound and by the tokens. Not in the paper: drawn heatmaps need few people and minutes of
    # training, decoded ones days.
    heatmaps: str = "decoded"

    @classmethod
    def released(cls) -> Self:
        """The form of the authors' `heatmap_weight.pth`."""
        return cls(form="released", audio="wav2vec2").resolved()

    def resolved(self) -> Self:
        """This config with a value in the place of each None; ValueError where `form` is unknown."""
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; give {' or '.join(FORMS)}")
        names = ("keypoint_shortcut", "pose_messages")
        unset = [name for name in names if getattr(self, name) is None]
        return dataclasses.replace(self, **{name: getattr(FORMS[self.form], name) for name in unset})


SIZE = 128  # H and W of the heatmaps


class HeatmapPredictor(nn.Module):
    """The guidance prediction network.

    Args:
        config: see `HeatmapPredictorConfig`; ValueError where it cannot be built.
    """

    def __init__(self, config: HeatmapPredictorConfig | None = None):
        super().__init__()
        self.config = config = (config or HeatmapPredictorConfig()).resolved()
        width = scaled(512, config.width)
        _check(config, width)
        self.audio_encoder = _audio_encoder(AUDIO_CHANNELS[config.audio], config.width)
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
        decoded = config.heatmaps == "decoded"
        form, shortcut = FORMS[config.form], config.keypoint_shortcut
        self.add_pose = form.add_pose
        self.decoder = _CoupledDecoder(config.width, form.shared_message, config.pose_messages) if decoded else None
        self.drawing = None if decoded else CurveDrawing()
        self.turning = None if decoded else _TurnedHead()
        self.reader = None if decoded else PointReader()
        self.lip_keypoints = _KeypointExtractor(len(LIP_POINTS), config.width, decoded, shortcut)
        self.jaw_keypoints = _KeypointExtractor(len(JAW_POINTS), config.width, decoded, shortcut)
        self.speech = None if decoded else _SpeechBranch(AUDIO_CHANNELS[config.audio], config.width)
        # Where the device is: an index that came from the host could not be part of a CUDA graph.
        self.register_buffer("upper_points", torch.tensor(ANCHORS), persistent=False)
        self.register_buffer("keypoints", torch.tensor(KEYPOINTS), persistent=False)

    def forward(
        self,
        audio: Tensor,
        pose_heatmaps: Tensor,
        reference_heatmaps: Tensor,
        points: Tensor | None = None,
        reference_points: Tensor | None = None,
        draw: bool = True,
    ) -> tuple[Tensor | None, Tensor]:
        """Predict the heatmaps and the 57 keypoints of T consecutive frames (eq. 1, 2).

        Args:
            audio: (B, T, C, W), the window of sound around each frame.
            pose_heatmaps: (B, T, 1, 128, 128) in [0, 1], the upper face of the target frames.
            reference_heatmaps: (B, N, 1, 128, 128) in [0, 1], whole faces of the same person.
            points, reference_points: (B, T, 131, 2) and (B, N, 131, 2), what both are drawn through, in units of the
                crop, of the target frames the upper faces; only a "drawn" network uses them, and reads them off the
                heatmaps, less exactly, where they are not given.
            draw: a "drawn" network can leave the drawing out where only keypoints are needed; None in its place.

        Returns:
            heatmaps (B, T, 1, 128, 128), at least 0, the sum of curves that may cross: clip it at 1 to draw or to
            synthesize from it; landmarks (B, T, 57, 2) in units of the crop, 17 jaw points, then 40 lip points.
        """
        frames = self.encode_frames(audio.flatten(0, 1), pose_heatmaps.flatten(0, 1))
        frames = frames.unflatten(0, pose_heatmaps.shape[:2])
        references = self.encode_references(reference_heatmaps)
        if self.reader is not None:
            points = self.reader(pose_heatmaps) if points is None else points
            reference_points = self.reader(reference_heatmaps) if reference_points is None else reference_points
        return self.predict(frames, references, pose_heatmaps, points, reference_points, draw)

    def predict(
        self,
        frames: Tensor,
        references: Tensor,
        pose_heatmaps: Tensor,
        points: Tensor | None = None,
        reference_points: Tensor | None = None,
        draw: bool = True,
    ) -> tuple[Tensor | None, Tensor]:
        """As `forward`, of windows of `encode_frames` (B, T, 2 or 3, width) and `encode_references` (B, N, width).

        A "drawn" network needs points here.
        """
        shape, pose = pose_heatmaps.shape[:2], pose_heatmaps.flatten(0, 1)
        if self.drawing is None:
            lip, jaw = (z.flatten(0, 1) for z in self._mix(frames, references))
            lip_heatmaps, jaw_heatmaps = self.decoder(lip, jaw, pose)
            landmarks = self._keypoints(lip, jaw, lip_heatmaps, jaw_heatmaps).unflatten(0, shape)
            heatmaps = self._complete(lip_heatmaps, jaw_heatmaps, pose)
        else:
            landmarks = self._moved_keypoints(frames, references, points, reference_points)
            heatmaps = torch.maximum(pose, self.drawing(landmarks.flatten(0, 1))) if draw else None
        return None if heatmaps is None else heatmaps.unflatten(0, shape), landmarks

    def encode_frames(self, audio: Tensor, pose_heatmaps: Tensor) -> Tensor:
        """Embed frames, each by itself: audio (F, C, W), pose_heatmaps (F, 1, 128, 128) -> (F, 2, width), audio first.

        At inference a frame is a member of T windows, and need be embedded only once. A drawn network's speech branch
        adds a third embedding.
        """
        embeddings = [
            self.audio_encoder(audio).mean(dim=-1),
            self.pose_encoder(pose_heatmaps).flatten(1),
        ]
        tokens = self.norm(torch.stack(embeddings, dim=1))
        return tokens if self.speech is None else torch.cat([tokens, self.speech.embed(audio)[:, None]], dim=1)

    def encode_references(self, reference_heatmaps: Tensor) -> Tensor:
        """Embed reference heatmaps (B, N, 1, 128, 128) -> (B, N, width), at inference once a video."""
        embeddings = self.reference_encoder(reference_heatmaps.flatten(0, 1)).flatten(1)
        return self.norm(embeddings).unflatten(0, reference_heatmaps.shape[:2])

    def predict_centre(
        self,
        frames: Tensor,
        references: Tensor,
        pose_heatmaps: Tensor,
        points: Tensor | None = None,
        reference_points: Tensor | None = None,
        keypoints: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the centre frames of B windows: `forward(...)`'s at T // 2, without decoding the other frames.

        Args:
            frames: (B, T, 2 or 3, width), windows of `encode_frames` (first and last repeated at the ends).
            references: (B or 1, N, width), of `encode_references`.
            pose_heatmaps: (B, 1, 128, 128) of the centre frames.
            points, reference_points: (B, 131, 2) of the centre frames and (B or 1, N, 131, 2), as `forward`'s.
            keypoints: a network that decodes heatmaps reads keypoints off them only where they are asked for.

        Returns:
            heatmaps (B, 1, 128, 128), at least 0, and landmarks (B, 57, 2), or None.
        """
        centre = frames.shape[1] // 2
        references = references.expand(len(frames), -1, -1)
        if self.drawing is not None:
            points = None if points is None else points[:, None]
            landmarks = self._moved_keypoints(frames, references, points, reference_points, centre)[:, 0]
            return torch.maximum(pose_heatmaps, self.drawing(landmarks)), landmarks
        lip, jaw = (z[:, centre] for z in self._mix(frames, references))
        heatmaps = self.decoder(lip, jaw, pose_heatmaps)
        landmarks = self._keypoints(lip, jaw, *heatmaps) if keypoints else None
        return self._complete(*heatmaps, pose_heatmaps), landmarks

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of eq. 1, the encoders and the transformer, which the gradient of every loss term reaches."""
        encoders = (self.audio_encoder, self.pose_encoder, self.reference_encoder, self.norm, self.transformer)
        return [self.modality, *(parameter for module in encoders for parameter in module.parameters())]

    def whole_faces(self, points: Tensor, landmarks: Tensor) -> Tensor:
        """Points (..., 131, 2) of faces with predicted landmarks (..., 57, 2) in the place of theirs."""
        dtype = torch.promote_types(points.dtype, landmarks.dtype)  # not half precision, which goes by half pixels
        return points.to(dtype).index_copy(-2, self.keypoints, landmarks.to(dtype))

    def _mix(self, frames: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 1, Z = T(H(A, H_m, H_r)): (B, T, 2, width), (B, N, width) -> z_t and z_{t+T}, each (B, T, width)."""
        length = frames.shape[1]
        pose_modality, audio_modality, reference_modality = self.modality
        position = self.position[:length]
        audio = frames[:, :, 0] + position + audio_modality
        pose = frames[:, :, 1] + position + pose_modality
        tokens = torch.cat([references + reference_modality, audio, pose], dim=1)
        z = self.transformer(self.dropout(tokens))
        return z[:, -2 * length : -length], z[:, -length:]

    def _moved_keypoints(
        self,
        frames: Tensor,
        references: Tensor,
        points: Tensor | None,
        reference_points: Tensor | None,
        only: int | None = None,
    ) -> Tensor:
        """A drawn network's keypoints (B, T, 57, 2), of frames (B, T, 3, width) and references (B, N, width).

        The references are laid upon each other by their upper faces, their mean keypoints are moved by how the head is
        turned and by what is heard, and carried to where the target's upper face is: so the mouth sits right whatever
        the pose. With `only`, `points` (B, 1, 131, 2) and what is returned are of that frame of the windows alone.
        """
        if points is None or reference_points is None:
            raise ValueError("this network draws through keypoints; give it points and reference_points")
        lip, jaw = self._mix(frames[:, :, :2], references)
        spoken = self.speech(frames[:, :, 2])
        if only is not None:
            lip, jaw, spoken = (x[:, only : only + 1] for x in (lip, jaw, spoken))
        upper = reference_points.index_select(2, self.upper_points)
        known = reference_points.index_select(2, self.keypoints)
        pose = pose_beside(points.index_select(2, self.upper_points), upper, known)
        rest = self._keypoints(lip.flatten(0, 1), jaw.flatten(0, 1)).unflatten(0, lip.shape[:2])
        return apply_affine(pose.still + self.turning(pose.turned) + spoken, pose.away) + rest

    def _keypoints(self, lip: Tensor, jaw: Tensor, *heatmaps: Tensor) -> Tensor:
        """Tokens (M, width) each, and both branches' heatmaps where they are decoded -> (M, 57, 2), jaw first."""
        lip_heatmaps, jaw_heatmaps = heatmaps or (None, None)
        return torch.cat([self.jaw_keypoints(jaw, jaw_heatmaps), self.lip_keypoints(lip, lip_heatmaps)], dim=1)

    def _complete(self, lip_heatmaps: Tensor, jaw_heatmaps: Tensor, pose_heatmaps: Tensor) -> Tensor:
        heatmaps = lip_heatmaps + jaw_heatmaps
        return heatmaps + pose_heatmaps if self.add_pose else heatmaps


class _CoupledDecoder(nn.Module):
    """Eq. 2: two branches of transposed convolutions that pass messages (as in Look at Boundary)."""

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
        """Tokens (B, width) each and pose_heatmaps (B, 1, 128, 128) -> lip and jaw heatmaps (B, 1, 128, 128)."""
        lip, jaw = self.lip[:2](lip[..., None, None]), self.jaw[:2](jaw[..., None, None])  # 8x8
        jaw_to_lip = self.lip_to_jaw if self.jaw_to_lip is None else self.jaw_to_lip
        lip, jaw = lip + jaw_to_lip(jaw), jaw + self.lip_to_jaw(lip)
        lip, jaw = self.lip[2:4](lip), self.jaw[2:4](jaw)  # 32x32
        if self.pose_to_lip is not None:
            lip, jaw = lip + self.pose_to_lip(pose_heatmaps), jaw + self.pose_to_jaw(pose_heatmaps)
        return torch.tanh(self.lip[4:](lip)), torch.tanh(self.jaw[4:](jaw))


class _KeypointExtractor(nn.Module):
    """Keypoints of one branch's heatmap, and with `shortcut` of its token too; or of the token alone."""

    def __init__(self, points: int, width: float, reads_heatmap: bool, shortcut: bool):
        super().__init__()
        self.shortcut = shortcut
        self.encoder = _heatmap_encoder(width) if reads_heatmap else None
        self.linear = nn.Linear(scaled(512, width), 2 * points)
        if not reads_heatmap:  # a correction, next to nothing at first
            nn.init.normal_(self.linear.weight, std=1e-3)
            nn.init.zeros_(self.linear.bias)

    def forward(self, token: Tensor, heatmaps: Tensor | None) -> Tensor:
        """(B, width), (B, 1, 128, 128) -> (B, points, 2)."""
        if self.encoder is not None:
            seen = self.encoder(heatmaps).flatten(1)
            token = seen + token if self.shortcut else seen
        points = _in_full(self.linear, token).unflatten(1, (-1, 2))
        return points if self.encoder is not None else _STEP * points


class _TurnedHead(nn.Module):
    """How a head that turns moves the keypoints, as seen beside its upper face: a linear map of that one's shape.

    It is fitted, in closed form, before the rest is trained (`train_heatmap.py`), and then stays as it is.
    """

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 * len(ANCHORS), 2 * len(KEYPOINTS), bias=False)
        nn.init.zeros_(self.linear.weight)
        self.requires_grad_(False)

    def forward(self, turned: Tensor) -> Tensor:
        """`Pose.turned` (..., 74, 2) -> (..., 57, 2)."""
        return _in_full(self.linear, turned.flatten(-2)).unflatten(-1, (-1, 2))


def _in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in float32 under autocast: between 0.5 and 1 bfloat16 goes by half pixels."""
    with without_autocast(x):
        return layer(full_precision(x))


class _SpeechBranch(nn.Module):
    """A drawn network's short way from the sound to the keypoints: an audio encoder, and a linear map of five frames.

    It is trained apart, to hear visemes in many voices and how these move a mouth (`train_heatmap.py`), and then stays
    as it is, its parameters without gradient: through the transformer, a small network that sees few people learns
    nothing from the sound but their voices.
    """

    def __init__(self, in_channels: int, width: float):
        super().__init__()
        self.encoder = _audio_encoder(in_channels, width)
        self.linear = nn.Linear(SPEECH_CONTEXT * scaled(512, width), 2 * len(KEYPOINTS))
        nn.init.normal_(self.linear.weight, std=1e-4)  # next to nothing at first
        nn.init.zeros_(self.linear.bias)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode when the network is trained; to train the encoder itself, switch that."""
        return super().train(False)

    def embed(self, audio: Tensor) -> Tensor:
        """(M, C, W) -> (M, width)."""
        return self.encoder(audio).mean(dim=-1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Consecutive frames' embeddings (B, T, width) -> how the sound moves the keypoints, (B, T, 57, 2)."""
        return self.linear(self.in_context(embeddings)).unflatten(-1, (-1, 2))

    @staticmethod
    def in_context(embeddings: Tensor) -> Tensor:
        """Each frame beside its neighbours, (B, T, width) -> (B, T, 5 width); the first and last are repeated."""
        half = SPEECH_CONTEXT // 2
        places = torch.arange(embeddings.shape[1], device=embeddings.device)
        steps = torch.arange(-half, half + 1, device=embeddings.device)
        places = (places[:, None] + steps).clamp(0, embeddings.shape[1] - 1)
        return embeddings[:, places].flatten(2)


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
    # Half of the pixels start above 0, whatever the input: with a batch norm scale of 1 they weigh more than the face,
    # and training first spends hundreds of steps on blackening them. A negative bias would cut their gradients instead.
    nn.init.constant_(blocks[-1].norm.weight, 0.25)
    return nn.Sequential(*blocks)


def _pose_message(width: float) -> nn.Sequential:
    c32, c64 = scaled(32, width), scaled(64, width)
    return nn.Sequential(ConvBlock(2, 1, c32, stride=2), ConvBlock(2, c32, c64, stride=2))


def _heatmap_encoder(width: float) -> nn.Sequential:
    """(B, 1, 128, 128) -> (B, width, 1, 1) in [-1, 1]."""
    blocks, channels = [], 1
    for out, stride, residuals in ((32, 2, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1)):
        out = scaled(out, width)
        blocks.append(ConvBlock(2, channels, out, stride=stride))
        blocks += [ConvBlock(2, out, out, residual=True) for _ in range(residuals)]
        channels = out
    out = scaled(512, width)
    blocks += [ConvBlock(2, channels, out, padding=0), ConvBlock(2, out, out, 1, padding=0, activation=nn.Tanh())]
    return nn.Sequential(*blocks)


def _audio_encoder(in_channels: int, width: float) -> nn.Sequential:
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


def _check(config: HeatmapPredictorConfig, width: int) -> None:
    if config.audio not in AUDIO_CHANNELS:
        raise ValueError(f"audio is {config.audio!r}; give one of {', '.join(AUDIO_CHANNELS)}")
    if config.heatmaps not in ("decoded", "drawn"):
        raise ValueError(f"heatmaps is {config.heatmaps!r}; give decoded or drawn")
    check_positive(config, "width", "frames", "references", "layers", "heads")
    if width % config.heads:
        raise ValueError(f"{config.heads} heads do not divide the transformer's width {width}; change heads or width")


# Own module names against the released file's; the first that fits holds.
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
