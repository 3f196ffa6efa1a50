"""A heatmap predictor that moves keypoints and draws heatmaps through them. Not in the paper.

A decoder of heatmaps (eq. 2) trains for days on many speakers. Moved keypoints train in minutes on a few clips
(extensions/README.md has the numbers): the references' mean keypoints, pose-normalised by their upper faces, are moved
by the head's turn, by the speech and by the transformer's tokens, and carried to the pose of the target's upper face.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from extensions.drawing import CurveDrawing
from extensions.landmark_maps import ANCHORS, TurnedHead, apply_affine, pose_beside
from extensions.point_reader import PointReader
from media.heatmap import JAW_POINTS, KEYPOINTS, LIP_POINTS
from models.heatmap_predictor import WindowEncoder, WindowEncoderConfig, audio_encoder
from models.layers import AUDIO_CHANNELS, in_full_precision, scaled

SPEECH_CONTEXT = 5  # number of frames around each frame whose sound the speech branch takes
_STEP = 0.1  # unit of the outputs, in which the keypoints' motion of some 0.01 of the crop suits usual learning rates


@dataclass
class LandmarkPredictorConfig(WindowEncoderConfig):
    """The settings of a `LandmarkPredictor`: those of `WindowEncoderConfig`, with its `form`."""

    form: str = "landmarks"  # the form of this network


class LandmarkPredictor(WindowEncoder):
    """Predicts 57 keypoints from eq. 1's tokens, the head's turn and the speech, and draws heatmaps through them.

    Attributes:
        inputs: the names in a batch of `ClipDataset` that `forward` takes, in its order.
        draws_in_training: whether `forward` draws heatmaps in training mode; if not, it returns None for them.
    """

    Config = LandmarkPredictorConfig
    inputs: ClassVar[tuple[str, ...]] = (
        "audio",
        "pose_heatmaps",
        "reference_heatmaps",
        "landmarks",
        "reference_landmarks",
    )
    upper_points: Tensor
    keypoints: Tensor

    def __init__(self, config: LandmarkPredictorConfig | None = None):
        config = config or LandmarkPredictorConfig()
        super().__init__(config)
        self.draws_in_training = True
        self.drawing = CurveDrawing(config.crop.guidance)
        self.turning = TurnedHead()
        self.reader = PointReader()
        self.lip_keypoints = _TokenKeypoints(len(LIP_POINTS), config.width)
        self.jaw_keypoints = _TokenKeypoints(len(JAW_POINTS), config.width)
        self.speech = SpeechBranch(AUDIO_CHANNELS[config.audio], config.width)
        # Buffers, so that they are on the network's device: a CUDA graph cannot use an index tensor of the host.
        self.register_buffer("upper_points", torch.tensor(ANCHORS), persistent=False)
        self.register_buffer("keypoints", torch.tensor(KEYPOINTS), persistent=False)

    def forward(
        self,
        audio: Tensor,
        pose_heatmaps: Tensor,
        reference_heatmaps: Tensor,
        landmarks: Tensor | None = None,
        reference_landmarks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Predict the 57 keypoints of T consecutive frames, and draw their heatmaps.

        Args:
            audio: (B, T, C, W), the window of sound around each frame.
            pose_heatmaps: (B, T, 1, G, G) in [0, 1], the upper face of the target frames.
            reference_heatmaps: (B, N, 1, G, G) in [0, 1], whole faces of the same person.
            landmarks: (B, T, 131, 2) in units of the crop; only those of the upper faces are used. With None, they are
                read off the heatmaps, which is less exact.
            reference_landmarks: (B, N, 131, 2) in units of the crop. With None, they are read off the heatmaps.

        Returns:
            heatmaps (B, T, 1, G, G) in [0, 1], or None (`draws_in_training`); keypoints (B, T, 57, 2) in units of
            the crop, 17 of the jaw, then 40 of the lips.
        """
        frames, references = self.encode(audio, pose_heatmaps, reference_heatmaps)
        landmarks = self.reader(pose_heatmaps) if landmarks is None else landmarks
        if reference_landmarks is None:
            reference_landmarks = self.reader(reference_heatmaps)
        keypoints = self._move(frames, references, landmarks, reference_landmarks)
        if self.training and not self.draws_in_training:
            return None, keypoints
        drawn = torch.maximum(pose_heatmaps.flatten(0, 1), self.drawing(keypoints.flatten(0, 1)))
        return drawn.unflatten(0, pose_heatmaps.shape[:2]), keypoints

    def encode_frames(self, audio: Tensor, pose_heatmaps: Tensor) -> Tensor:
        """As `WindowEncoder.encode_frames`, with the speech branch's embedding as third entry: (F, 3, width)."""
        tokens = super().encode_frames(audio, pose_heatmaps)
        return torch.cat([tokens, self.speech.embed(audio)[:, None]], dim=1)

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
        """`forward` of B windows, for the centre frames T // 2 only: the other frames are not drawn.

        Args:
            frames: (B, T, 3, width), windows of `encode_frames`; at both ends of a video its last frame is repeated.
            references: (B or 1, N, width), of `encode_references`.
            pose_heatmaps: (B, 1, G, G) of the centre frames.
            landmarks: (B, 131, 2) of the centre frames.
            reference_landmarks: (B or 1, N, 131, 2).
            keypoints: whether to return the keypoints.

        Returns:
            heatmaps (B, 1, G, G) in [0, 1], and keypoints (B, 57, 2), or None.
        """
        references = references.expand(len(frames), -1, -1)
        centre = frames.shape[1] // 2
        moved = self._move(frames, references, landmarks[:, None], reference_landmarks, centre)[:, 0]
        return torch.maximum(pose_heatmaps, self.drawing(moved)), moved if keypoints else None

    def _move(
        self,
        frames: Tensor,
        references: Tensor,
        landmarks: Tensor,
        reference_landmarks: Tensor,
        only: int | None = None,
    ) -> Tensor:
        """Keypoints (B, T, 57, 2) of frames (B, T, 3, width) and references (B, N, width).

        With `only`, `landmarks` (B, 1, 131, 2) and the result belong to that frame of the windows.
        """
        lip, jaw = self.relate(frames[:, :, :2], references)
        spoken = self.speech(frames[:, :, 2])
        if only is not None:
            lip, jaw, spoken = (x[:, only : only + 1] for x in (lip, jaw, spoken))
        upper = reference_landmarks.index_select(2, self.upper_points)
        reference_keypoints = reference_landmarks.index_select(2, self.keypoints)
        pose = pose_beside(landmarks.index_select(2, self.upper_points), upper, reference_keypoints)
        tokens = lip.flatten(0, 1), jaw.flatten(0, 1)
        rest = torch.cat([self.jaw_keypoints(tokens[1]), self.lip_keypoints(tokens[0])], dim=1)
        moved = apply_affine(pose.still + self.turning(pose.turned) + spoken, pose.away)
        return moved + rest.unflatten(0, lip.shape[:2])


class _TokenKeypoints(nn.Module):
    """A linear map of one token to the displacements of its keypoints; near zero before training."""

    def __init__(self, points: int, width: float):
        super().__init__()
        self.linear = nn.Linear(scaled(512, width), 2 * points)
        nn.init.normal_(self.linear.weight, std=1e-3)
        nn.init.zeros_(self.linear.bias)

    def forward(self, token: Tensor) -> Tensor:
        """(M, width) -> (M, points, 2)."""
        return _STEP * in_full_precision(self.linear, token).unflatten(1, (-1, 2))


class SpeechBranch(nn.Module):
    """Sound to keypoints directly: an audio encoder, and a linear map of five frames' embeddings.

    Pretrained on visemes of synthetic speech (`extensions.lessons`), then frozen. Trained through the transformer on
    few speakers, it would learn speaker identity instead of speech content.
    """

    def __init__(self, in_channels: int, width: float):
        super().__init__()
        self.encoder = audio_encoder(in_channels, width)
        self.linear = nn.Linear(SPEECH_CONTEXT * scaled(512, width), 2 * len(KEYPOINTS))
        nn.init.normal_(self.linear.weight, std=1e-4)  # near zero before training
        nn.init.zeros_(self.linear.bias)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode when the network is trained; the lesson switches `encoder` itself."""
        return super().train(False)

    def embed(self, audio: Tensor) -> Tensor:
        """(M, C, W) -> (M, width)."""
        return self.encoder(audio).mean(dim=-1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings of consecutive frames (B, T, width) -> displacements of the keypoints, (B, T, 57, 2)."""
        return self.linear(self.in_context(embeddings)).unflatten(-1, (-1, 2))

    @staticmethod
    def in_context(embeddings: Tensor) -> Tensor:
        """Each frame concatenated with its neighbours, (B, T, width) -> (B, T, 5 width); both ends are repeated."""
        half = SPEECH_CONTEXT // 2
        places = torch.arange(embeddings.shape[1], device=embeddings.device)
        steps = torch.arange(-half, half + 1, device=embeddings.device)
        places = (places[:, None] + steps).clamp(0, embeddings.shape[1] - 1)
        return embeddings[:, places].flatten(2)
