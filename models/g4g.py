"""G4G's face synthesizer (Zhang et al.): the hidden part of a face from references, their landmarks and sound alone.

It is conditioned on no heatmap of the target: the sound deforms the references' features. Details that the paper leaves
open follow DINet (Zhang et al. 2023), from which G4G takes deformation and inpainting, or are this project's choice:

- i_s and i_r have d channels at 8 x 8 positions. The 1-D convolutions take the positions row by row. The aligned
  feature is averaged over them. Eq. 5's statistics are taken over the positions.
- The prior landmarks L_r are the references' heatmaps, encoded separately. l_r is the mean of their features.
- The encoder g' of the negatives (eq. 6, 7) is g. Negatives are the other rows of the batch, and unsynced sounds of the
  same clip (eq. 16). The outputs of g_v and g_a serve the contrastive loss only; the deformation takes their inputs.
- The composite's mask is 1 in the hidden part. Its edge towards the visible part is smoothed by a Gaussian. A mask of
  the target's face would show the network where the target's chin is. The Gaussian-smoothed face mask (3.2) is
  therefore applied where a face is pasted into its frame (dubbing/paste.py).
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.crop import CropForm
from models.face_synthesizer import mask_hidden
from models.layers import (
    AUDIO_CHANNELS,
    AudioEncoder,
    ConvBlock,
    check_positive,
    check_references,
    painted_over,
    repeated,
    scaled,
)
from models.precision import full_precision
from models.spatial import AdaAT, residual_pair

_SOFT_EDGE = 1 / 32  # of the crop: sigma of the composite's mask
_COARSEST = 8  # height and width of the embeddings before they are flattened
_SMALLEST = 64  # px; a crop of 64 px has one feature for each of the 8 positions across


@dataclass
class G4GConfig:
    """The defaults are the paper's network on small crops; configs/g4g.yaml has its crop and its stride."""

    audio: str = "mel"  # kind of sound features: "mel" (the paper's), "wav2vec2", "hama" or "whisper"
    width: float = 1.0  # factor of every layer's channels
    references: int = 5  # N, fixed by the stacking of the reference images
    crop: CropForm = field(default_factory=CropForm)  # the paper's is CROPS["g4g"]
    stride: int = 2  # the crop's size divided by F_ref's, 2 or 4; at the paper's crop 4, as DINet's
    alignment_blocks: int = 2  # residual blocks of the intra-modality alignment
    alignment: bool = True  # both alignments; false (Table 2's ablation) replaces them by convolutions
    fusion: bool = True  # the face fusion network; false (Table 2's ablation) returns the composite


class G4GReferences(NamedTuple):
    """The encoded references of a video, the same for all of its frames.

    features: F_ref (B, C, H/stride, W/stride), which the sound deforms.
    embedding: i_r (B, d, L), L positions of the coarsest features.
    landmarks: l_r (B, d).
    """

    features: Tensor
    embedding: Tensor
    landmarks: Tensor

    def repeat(self, times: int) -> "G4GReferences":
        """Each video's references repeated `times` times: (B times, ...)."""
        return G4GReferences(*(repeated(x, times) for x in self))


class G4GAlignment(NamedTuple):
    """The features of B windows that the losses compare: (B, T, d) each, `landmarks` (B, d).

    visual: l_s (eq. 12), a linear map of the aligned visual feature; the loss compares it with `landmarks`, l_r.
    visual_embedding: g_v of the aligned visual feature (eq. 6, 7); None without alignment.
    audio_embedding: g_a of the audio feature (eq. 6, 7); None without alignment.
    unsynced: g'_a of K unsynced sounds a window (eq. 6, 16), (B, K, d); None without them or without alignment.
    """

    visual: Tensor
    landmarks: Tensor
    visual_embedding: Tensor | None
    audio_embedding: Tensor | None
    unsynced: Tensor | None = None


class FeatureEncoder(nn.Module):
    """Images (B, c, H, W) -> features (B, 4 base, H/stride, W/stride)."""

    def __init__(self, in_channels: int, base: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(2, in_channels, base, kernel_size=7, padding=3),
            ConvBlock(2, base, 2 * base, stride=2),
            ConvBlock(2, 2 * base, 4 * base, stride=stride // 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class EmbeddingEncoder(nn.Module):
    """Features (B, C, h, w) -> embeddings (B, d, L) of L = 8 x 8 positions."""

    def __init__(self, in_channels: int, embedding: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(2, in_channels, embedding, stride=2), ConvBlock(2, embedding, embedding, stride=2)
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.layers(features), _COARSEST).flatten(2)


class AlignmentBlock(nn.Module):
    """x + (AdaIN, ReLU, conv, AdaIN, ReLU, conv)(x). AdaIN is conditioned on the landmarks (eq. 5)."""

    def __init__(self, embedding: int):
        super().__init__()
        self.style_1 = nn.Linear(embedding, 2 * embedding)
        self.conv_1 = nn.Conv1d(embedding, embedding, 3, padding=1)
        self.style_2 = nn.Linear(embedding, 2 * embedding)
        self.conv_2 = nn.Conv1d(embedding, embedding, 3, padding=1)

    def forward(self, x: Tensor, landmarks: Tensor) -> Tensor:
        """x (B, d, L) and landmarks (B, d) -> (B, d, L)."""
        y = self.conv_1(F.relu(adain(x, self.style_1(landmarks))))
        return x + self.conv_2(F.relu(adain(y, self.style_2(landmarks))))


def adain(x: Tensor, style: Tensor) -> Tensor:
    """Eq. 5: normalises each channel of x (B, d, L), then scales it by 1 + gamma and adds beta; style (B, 2 d)."""
    gamma, beta = style[..., None].chunk(2, dim=1)
    return F.instance_norm(x) * (1 + gamma) + beta


class IntraModalityAlignment(nn.Module):
    """Aligns source and reference embeddings with the references' landmarks (3.1.1)."""

    def __init__(self, embedding: int, blocks: int):
        super().__init__()
        self.join = nn.Conv1d(2 * embedding, embedding, 1)
        self.blocks = nn.ModuleList(AlignmentBlock(embedding) for _ in range(blocks))

    def forward(self, source: Tensor, references: Tensor, landmarks: Tensor) -> Tensor:
        """i_s, i_r (B, d, L) and l_r (B, d) -> the aligned visual feature (B, d)."""
        x = self.join(torch.cat([source, references], dim=1))
        for block in self.blocks:
            x = block(x, landmarks)
        return x.mean(dim=2)


class ConvolvedInstead(nn.Module):
    """The ablation of `IntraModalityAlignment`: convolutions of its three inputs, concatenated by channel."""

    def __init__(self, embedding: int, blocks: int):
        super().__init__()
        rest = [ConvBlock(1, embedding, embedding, residual=True) for _ in range(blocks)]
        self.layers = nn.Sequential(ConvBlock(1, 3 * embedding, embedding), *rest)

    def forward(self, source: Tensor, references: Tensor, landmarks: Tensor) -> Tensor:
        landmarks = landmarks[..., None].expand_as(source)
        return self.layers(torch.cat([source, references, landmarks], dim=1)).mean(dim=2)


class Decoder(nn.Module):
    """Source and deformed features, (B, 4 base, H/stride, W/stride) each -> a face (B, 3, H, W) in [0, 1]."""

    def __init__(self, base: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(2, 8 * base, 4 * base),
            residual_pair(4 * base),
            nn.Upsample(scale_factor=stride // 2, mode="bilinear"),
            ConvBlock(2, 4 * base, 2 * base),
            residual_pair(2 * base),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            ConvBlock(2, 2 * base, base),
            nn.Conv2d(base, 3, 7, padding=3),
        )

    def forward(self, source: Tensor, deformed: Tensor) -> Tensor:
        return torch.sigmoid(full_precision(self.layers(torch.cat([source, deformed], dim=1))))


class BlendNet(nn.Module):
    """The composite (B, 3, H, W), the masked face and the mask -> the final face.

    Adds no residual to the composite. A learned weight a pixel blends the composite with a generated face; training
    starts near the composite.
    """

    def __init__(self, base: int):
        super().__init__()
        self.fine = ConvBlock(2, 7, base)
        self.coarse = nn.Sequential(
            ConvBlock(2, base, 2 * base, stride=2),
            residual_pair(2 * base),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )
        self.join = ConvBlock(2, 3 * base, base)
        self.paint = nn.Conv2d(base, 4, 3, padding=1)

    def forward(self, composite: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
        fine = self.fine(torch.cat([composite, masked, mask.expand(len(masked), 1, -1, -1)], dim=1))
        return painted_over(self.paint(self.join(torch.cat([fine, self.coarse(fine)], dim=1))), composite)


class G4GSynthesizer(nn.Module):
    """Frames with a part hidden -> whole faces, from references of the same person and sound.

    Attributes:
        inputs: the names in a batch of `ClipDataset` that `forward` takes, in its order.

    Raises:
        ValueError: an option of the config has no such value.
    """

    Config = G4GConfig
    inputs: ClassVar[tuple[str, ...]] = ("frames", "reference_images", "reference_heatmaps", "audio")

    mask: Tensor

    def __init__(self, config: G4GConfig):
        super().__init__()
        if config.audio not in AUDIO_CHANNELS:
            raise ValueError(f"audio is {config.audio!r}; it can be {' or '.join(map(repr, AUDIO_CHANNELS))}")
        if config.stride not in (2, 4):
            raise ValueError(f"stride is {config.stride}; it can be 2 or 4")
        for name in ("height", "width"):
            side = getattr(config.crop, name)
            if side % 4 or side < _SMALLEST:
                raise ValueError(f"crop.{name} is {side}; it must be a multiple of 4, at least {_SMALLEST}")
        check_positive(config, "width", "references", "alignment_blocks")
        self.config = config
        base, embedding = scaled(64, config.width), scaled(256, config.width)
        self.audio_encoder = AudioEncoder(AUDIO_CHANNELS[config.audio], embedding)
        self.source = FeatureEncoder(3, base, config.stride)
        self.references = FeatureEncoder(3 * config.references, base, config.stride)
        self.landmarks = FeatureEncoder(1, scaled(16, config.width), 4)
        self.embed_source = EmbeddingEncoder(4 * base, embedding)
        self.embed_references = EmbeddingEncoder(4 * base, embedding)
        self.embed_landmarks = EmbeddingEncoder(4 * scaled(16, config.width), embedding)
        self.describe = nn.Linear(embedding, embedding)  # gives l_r both signs; else all faces have similar directions
        alignment = IntraModalityAlignment if config.alignment else ConvolvedInstead
        self.align = alignment(embedding, config.alignment_blocks)
        self.to_landmarks = nn.Linear(embedding, embedding)
        self.see = nn.Linear(embedding, embedding) if config.alignment else None
        self.hear = nn.Linear(embedding, embedding) if config.alignment else None
        self.before = residual_pair(4 * base)
        self.adaat = AdaAT(4 * base, embedding, "plain", slope=0.2)  # with a ReLU, the sound soon loses its effect
        self.after = residual_pair(4 * base)
        self.decoder = Decoder(base, config.stride)
        self.fusion = BlendNet(scaled(32, config.width)) if config.fusion else None
        self.register_buffer("mask", soft_hidden(config.crop), persistent=False)

    def forward(
        self,
        frames: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        *,
        alignment: bool = False,
        unsynced: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, G4GAlignment]:
        """As `FaceSynthesizer.forward`: faces (B, T, 3, H, W) in [0, 1]; with `alignment`, also a `G4GAlignment`.

        `unsynced`, (B, K, C, W), are negatives of the contrastive loss. They do not change the faces.
        """
        references = self.encode_references(reference_images, reference_heatmaps)
        return self.render(frames, references, audio, alignment=alignment, unsynced=unsynced)

    def encode_references(self, reference_images: Tensor, reference_heatmaps: Tensor) -> G4GReferences:
        """Encode I_r (B, N, 3, H, W) and L_r (B, N, 1, H, W) of the references (eq. 3, 4); in dubbing, once a video."""
        check_references(reference_images, self.config.references)
        features = self.references(reference_images.flatten(1, 2))
        landmarks = self.embed_landmarks(self.landmarks(reference_heatmaps.flatten(0, 1))).mean(dim=2)
        landmarks = self.describe(landmarks.unflatten(0, reference_heatmaps.shape[:2]).mean(dim=1))
        return G4GReferences(self.before(features), self.embed_references(features), landmarks)

    def render(
        self,
        frames: Tensor,
        references: G4GReferences,
        audio: Tensor,
        *,
        alignment: bool = False,
        unsynced: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, G4GAlignment]:
        """As `forward`, with `encode_references`' result for the B windows (eq. 1, 2 and 11)."""
        shape, identity = frames.shape[:2], references.landmarks
        references = references.repeat(shape[1])
        masked = mask_hidden(frames.flatten(0, 1), self.config.crop)
        sound, unsynced = self._encode_sounds(audio.flatten(0, 1), unsynced)
        source = self.source(masked)
        visual = self.align(self.embed_source(source), references.embedding, references.landmarks)
        deformed = self.after(self.adaat(references.features, torch.cat([sound, visual], dim=1)))  # eq. 11
        faces = torch.lerp(full_precision(masked), self.decoder(source, deformed), self.mask)
        if self.fusion is not None:
            faces = self.fusion(faces, masked, self.mask)
        faces = faces.unflatten(0, shape)
        if not alignment:
            return faces
        visual, sound = visual.unflatten(0, shape), sound.unflatten(0, shape)
        if self.see is None or self.hear is None:
            return faces, G4GAlignment(self.to_landmarks(visual), identity, None, None)
        unsynced = None if unsynced is None else self.hear(unsynced)
        return faces, G4GAlignment(self.to_landmarks(visual), identity, self.see(visual), self.hear(sound), unsynced)

    def _encode_sounds(self, audio: Tensor, unsynced: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Eq. 1: the audio features (B T, d) of `audio` (B T, C, W), and (B, K, d) of `unsynced` (B, K, C, W).

        Both are one batch: separate batch norm statistics would reveal which sounds are unsynced.
        """
        if unsynced is None or self.hear is None:
            return self.audio_encoder(audio), None
        features = self.audio_encoder(torch.cat([audio, unsynced.flatten(0, 1)]))
        return features[: len(audio)], features[len(audio) :].unflatten(0, unsynced.shape[:2])


def soft_hidden(crop: CropForm) -> Tensor:
    """(1, H, W): 1 where `crop` is hidden, and around it the tail of a Gaussian.

    The mask is soft outside the hidden part only: inside, it would blend in the masked pixels.
    """
    edge = min(crop.shape) * _SOFT_EDGE
    above, beside = (
        torch.maximum(hidden.start - pixels - 0.5, pixels + 0.5 - hidden.stop).clamp(min=0) / edge
        for hidden, pixels in zip(crop.hidden_pixels, map(torch.arange, crop.shape), strict=True)
    )
    return torch.exp(-(above[:, None] ** 2 + beside**2) / 2)[None]
