"""A heatmap predictor whose mouth follows the sound alone. Not in the paper.

The references' mean gives the person's shut mouth, by a linear map that closes it. A small convolutional network over
sound features of some half a second (`hama`) moves it; the mean of several that were trained on other windows errs less
than one. The upper face gives the pose: with crops of framing `upright`, the source's jaw has no part in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extensions.drawing import CurveDrawing
from extensions.landmark_maps import ANCHORS, TurnedHead, apply_affine, fit_similarity
from media.audio import FEATURES
from media.heatmap import KEYPOINTS, ORDER
from models.heatmap_predictor import WindowEncoder, WindowEncoderConfig
from models.layers import check_positive, in_full_precision, scaled
from models.precision import without_autocast

REACH = 4  # frames on either side of a frame whose sound moves its mouth
SHUT = 0.005  # inner lips' distance of a shut mouth, share of the face's height
MOTIONS = 20  # number of principal directions of the mouth's motion
_SHAPES = 6  # of the motions, whose shares in the references' mean describe a person
_PERSON = 4 + _SHAPES  # numbers that describe a person's mouth
_UPPER, _LOWER, _OUTER_UPPER, _OUTER_LOWER, _RIGHT, _LEFT = (
    KEYPOINTS.tolist().index(ORDER.index(id)) for id in (13, 14, 0, 17, 61, 291)
)


@dataclass
class SpeechPredictorConfig(WindowEncoderConfig):
    """The settings of a `SpeechPredictor`. It has no transformer: `layers` and `heads` have no effect."""

    form: str = "speech"  # the form of this network
    audio: str = "hama"  # kind of sound features: "mel", "wav2vec2", "hama" or "whisper"
    width: float = 0.1875  # factor of every layer's channels, 512 at 1
    members: int = 3  # networks whose mean motion moves the mouth; in training, each has its share of a step's windows
    frames: int = 9  # T, consecutive frames in a window: 2 REACH + 1
    dropout: float = 0.3  # of features, channels and hidden units


def opening(keypoints: Tensor) -> Tensor:
    """Distance of the inner lips' middles (MediaPipe ids 13 and 14) of keypoints (..., 57, 2): (...)."""
    return (keypoints[..., _UPPER, :] - keypoints[..., _LOWER, :]).norm(dim=-1)


def face_height(landmarks: Tensor) -> Tensor:
    """Mean height of the box of landmarks (..., N, 131, 2): (...)."""
    y = landmarks[..., 1]
    return (y.amax(dim=-1) - y.amin(dim=-1)).mean(dim=-1)


class SpokenMotion(nn.Module):
    """Sound and a person's numbers -> shares of the mouth's main motions, frame by frame."""

    def __init__(self, config: SpeechPredictorConfig):
        super().__init__()
        channels, rows = FEATURES[config.audio]
        width, narrow = scaled(512, config.width), scaled(340, config.width)
        self.row = nn.Linear(channels, narrow)
        self.token = nn.Linear(rows * narrow, width)
        self.first = nn.Conv1d(width + _PERSON, width, REACH + 1)
        self.second = nn.Conv1d(width, width, REACH + 1)
        self.head = nn.Linear(width, MOTIONS)
        self.amplitude = nn.Linear(_PERSON, 1)
        nn.init.zeros_(self.amplitude.weight)
        nn.init.zeros_(self.amplitude.bias)
        self.dropout, self.channel_dropout = nn.Dropout(config.dropout), nn.Dropout1d(config.dropout)

    def embed(self, sound: Tensor) -> Tensor:
        """Scaled features (M, W, C) -> (M, width)."""
        rows = F.gelu(self.row(self.dropout(sound)))
        return F.gelu(self.token(self.dropout(rows).flatten(1)))

    def forward(self, tokens: Tensor, person: Tensor) -> Tensor:
        """`embed`'s (B, T + 2 REACH, width) and a person's numbers (B, 10) -> (B, T, 20)."""
        told = person[:, None].expand(-1, tokens.shape[1], -1).to(tokens.dtype)
        x = torch.cat([tokens, told], dim=2).transpose(1, 2)
        x = F.gelu(self.first(self.channel_dropout(x)))
        x = F.gelu(self.second(self.channel_dropout(x))).transpose(1, 2)
        strength = in_full_precision(self.amplitude, person).exp()
        return in_full_precision(self.head, self.dropout(x)) * strength[:, None]


class SpeechPredictor(WindowEncoder):
    """Predicts 57 keypoints from sound, the upper face and the references' landmarks; draws heatmaps through them.

    It has the methods of a `WindowEncoder`, and none of its layers.

    Attributes:
        inputs: the names in a batch of `ClipDataset` that `forward` takes, in its order.
    """

    Config = SpeechPredictorConfig
    inputs: ClassVar[tuple[str, ...]] = (
        "audio",
        "pose_heatmaps",
        "reference_heatmaps",
        "landmarks",
        "reference_landmarks",
    )
    upper_points: Tensor
    keypoints: Tensor
    mean: Tensor
    deviation: Tensor
    closing: Tensor
    motions: Tensor

    def __init__(self, config: SpeechPredictorConfig | None = None):
        nn.Module.__init__(self)
        self.config = config = config or SpeechPredictorConfig()
        if config.audio not in FEATURES:
            raise ValueError(f"audio is {config.audio!r}; give one of {', '.join(FEATURES)}")
        check_positive(config, "width", "members")
        channels, _ = FEATURES[config.audio]
        self.drawing = CurveDrawing(config.crop.guidance)
        self.turning = TurnedHead()
        self.members = nn.ModuleList(SpokenMotion(config) for _ in range(config.members))
        # Fitted in closed form before training (`extensions.speech_training`).
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("closing", torch.zeros(len(KEYPOINTS), 2))  # keypoints' motion as the lips part by 1
        self.register_buffer("motions", torch.zeros(MOTIONS, 2 * len(KEYPOINTS)))
        self.register_buffer("upper_points", torch.tensor(ANCHORS), persistent=False)
        self.register_buffer("keypoints", torch.as_tensor(KEYPOINTS), persistent=False)

    def forward(
        self,
        audio: Tensor,
        pose_heatmaps: Tensor | None,
        reference_heatmaps: Tensor | None,
        landmarks: Tensor,
        reference_landmarks: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """Predict the 57 keypoints of T consecutive frames, and draw their heatmaps.

        Args:
            audio: (B, T, C, W), the window of sound around each frame.
            pose_heatmaps: (B, T, 1, G, G) in [0, 1], the upper face of the target frames; None where none are drawn.
            reference_heatmaps: not used.
            landmarks: (B, T, 131, 2) in units of the crop; only those of the upper faces are used.
            reference_landmarks: (B, N, 131, 2) in units of the crop.

        Returns:
            heatmaps (B, T, 1, G, G) in [0, 1], or None without `pose_heatmaps`; keypoints (B, T, 57, 2) in units of
            the crop, 17 of the jaw, then 40 of the lips.
        """
        tokens = self._embed(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])
        # At both ends of a window, its last frame is repeated.
        first, last = (tokens[:, end].expand(-1, REACH, -1, -1) for end in (slice(0, 1), slice(-1, None)))
        padded = torch.cat([first, tokens, last], dim=1)
        keypoints = self._move(padded, landmarks, reference_landmarks)
        if pose_heatmaps is None:
            return None, keypoints
        drawn = torch.maximum(pose_heatmaps.flatten(0, 1), self.drawing(keypoints.flatten(0, 1)))
        return drawn.unflatten(0, pose_heatmaps.shape[:2]), keypoints

    def encode_frames(self, audio: Tensor, pose_heatmaps: Tensor) -> Tensor:
        """Embed the sound of frames independently: audio (F, C, W) -> (F, members, width)."""
        return self._embed(audio)

    def encode_references(self, reference_heatmaps: Tensor) -> Tensor:
        """Nothing: the references' landmarks say all. (B, N, 1, G, G) -> zeros (B, N, 1)."""
        return reference_heatmaps.new_zeros(*reference_heatmaps.shape[:2], 1)

    def predict_centre(
        self,
        frames: Tensor,
        references: Tensor,
        pose_heatmaps: Tensor,
        landmarks: Tensor,
        reference_landmarks: Tensor,
        *,
        keypoints: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of B windows, for the centre frames T // 2 only.

        Args:
            frames: (B, T, members, width), of `encode_frames`; at both ends of a video its last frame is repeated.
            references: not used.
            pose_heatmaps: (B, 1, G, G) of the centre frames.
            landmarks: (B, 131, 2) of the centre frames.
            reference_landmarks: (B or 1, N, 131, 2).
            keypoints: whether to return the keypoints.

        Returns:
            heatmaps (B, 1, G, G) in [0, 1], and keypoints (B, 57, 2), or None.
        """
        centre = frames.shape[1] // 2
        places = torch.arange(-REACH, REACH + 1, device=frames.device) + centre
        window = frames[:, places.clamp(0, frames.shape[1] - 1)]
        moved = self._move(window, landmarks[:, None], reference_landmarks.expand(len(frames), -1, -1, -1))[:, 0]
        return torch.maximum(pose_heatmaps, self.drawing(moved)), moved if keypoints else None

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that the gradient of every loss term reaches."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def shut_mouth(self, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
        """The keypoints of a shut mouth in the pose of `landmarks` (B, T, 131, 2): (B, T, 57, 2)."""
        still, _ = self._person(reference_landmarks)
        return self._posed(still[:, None], landmarks, reference_landmarks)

    def frontal(self, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
        """Keypoints of `landmarks` (B, F, 131, 2), pose-normalised to the references' mean and without the turn."""
        home, turned, _ = self._pose(landmarks, reference_landmarks)
        return apply_affine(landmarks.index_select(2, self.keypoints), home) - self.turning(turned)

    def _embed(self, audio: Tensor) -> Tensor:
        """(M, C, W) -> (M, members, width)."""
        sound = (audio.transpose(1, 2) - self.mean) / self.deviation
        return torch.stack([member.embed(sound) for member in cast(Iterable[SpokenMotion], self.members)], dim=1)

    def _move(self, tokens: Tensor, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
        """Keypoints (B, T, 57, 2) in the pose of landmarks (B, T, 131, 2).

        `tokens`: (B, T + 2 REACH, members, width).
        """
        still, person = self._person(reference_landmarks)
        each = zip(self.members, tokens.unbind(dim=2), strict=True)
        if self.training:
            mine = torch.arange(len(tokens), device=tokens.device).tensor_split(len(self.members))
            shares = torch.cat([member(x[rows], person[rows]) for rows, (member, x) in zip(mine, each, strict=True)])
        else:
            shares = torch.stack([member(x, person) for member, x in each]).mean(dim=0)
        with without_autocast(shares):
            height = face_height(reference_landmarks)[:, None, None, None]
            motion = (shares @ self.motions).unflatten(-1, (-1, 2)) * height
        return self._posed(still[:, None] + motion, landmarks, reference_landmarks)

    def _posed(self, mouths: Tensor, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
        """Frontal keypoints (B, T or 1, 57, 2) in the pose of landmarks (B, T, 131, 2)."""
        _, turned, away = self._pose(landmarks, reference_landmarks)
        return apply_affine(mouths + self.turning(turned), away)

    def _pose(self, landmarks: Tensor, reference_landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities of upper faces to the mean reference and back (B, T, 3, 2), and their turn (B, T, 74, 2)."""
        anchors = landmarks.index_select(2, self.upper_points)
        mean = self._aligned(reference_landmarks)[0].mean(dim=1, keepdim=True)
        home = fit_similarity(anchors, mean)
        return home, apply_affine(anchors, home) - mean, fit_similarity(mean, anchors)

    def _aligned(self, reference_landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """Upper faces (B, N, 74, 2) and keypoints (B, N, 57, 2) of references, pose-normalised to the first."""
        anchors = reference_landmarks.index_select(2, self.upper_points)
        together = fit_similarity(anchors, anchors[:, :1])
        return apply_affine(anchors, together), apply_affine(
            reference_landmarks.index_select(2, self.keypoints), together
        )

    def _person(self, reference_landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """The shut mouth (B, 57, 2) of references (B, N, 131, 2), and the person's numbers (B, 10).

        The numbers are the largest and the mean opening, the lips' thickness and the mouth's width, in units of the
        face's height, centred and scaled; and the main motions' shares in the references' mean. The shut mouth is that
        mean closed by `closing`: of one shut reference, the place would be off by the noise of its pose.
        """
        anchors, keypoints = self._aligned(reference_landmarks)
        frontal = keypoints - self.turning(anchors - anchors.mean(dim=1, keepdim=True))
        with without_autocast(frontal):
            height = face_height(reference_landmarks)[:, None]
            openings = opening(frontal)
            mean = frontal.mean(dim=1)
            still = mean - self.closing * (opening(mean)[:, None] - SHUT * height)[..., None]
            lips = (still[:, _OUTER_UPPER] - still[:, _OUTER_LOWER]).norm(dim=-1)
            wide = (still[:, _RIGHT] - still[:, _LEFT]).norm(dim=-1)
            sizes = openings.amax(dim=1), openings.mean(dim=1), lips, wide
            norms = zip(sizes, (14.0, 28.0, 7.0, 3.5), (1.0, 0.6, 1.0, 1.0), strict=True)  # no tensor: CUDA graphs
            person = torch.stack([scale * (size / height[:, 0]) - centre for size, scale, centre in norms], dim=1)
            motion = (mean - still).flatten(1) / height
            shapes = self.motions[:_SHAPES]
            shares = motion @ shapes.T / shapes.square().sum(dim=1).clamp_min(1e-12)
            return still, torch.cat([person, 0.7 * shares], dim=1)
