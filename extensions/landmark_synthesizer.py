"""A face synthesizer whose flow starts from landmarks and that copies the references' pixels. Not in the paper.

The paper's flow is supervised through image losses only, which takes days of training. Here it is a correction to the
dense warp between the references' landmarks and the target's, and the face is blended from what the generator paints
and from the references' own pixels, so that training starts from a plausible face (extensions/README.md).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from extensions.landmark_maps import ANCHORS, apply_affine, fit_similarity, landmark_warp, unlike_lips
from extensions.point_reader import PointReader
from media.heatmap import KEYPOINTS, LIP_POINTS
from models.face_synthesizer import (
    FORMS,
    Alignment,
    FaceSynthesizer,
    FaceSynthesizerConfig,
    Gathered,
    References,
    SynthesizerForm,
    TemporalPath,
)
from models.inpainting import InpaintingGenerator
from models.layers import painted_over
from models.precision import full_precision
from models.temporal import deformation, warp_and_sum

_SHARPNESS = 3.0  # factor on the logits of the references' shares in a copy, which training leaves small
# Factor on `unlike_lips`: a reference whose lips differ by 0.02 of the crop gets less than a third of the share of a
# reference with the target's lips.
_UNLIKENESS = 3000.0


@dataclass
class LandmarkSynthesizerConfig(FaceSynthesizerConfig):
    """The settings of a `LandmarkSynthesizer`: those of `FaceSynthesizerConfig`, with its `form`, and these."""

    form: str = "landmarks"  # the form of this network
    base: str = "paper"  # the form of all other layers, "paper" or "released"
    # The spatial path stacks its references colour by colour, as the released network does, instead of image by image.
    # null: as in `base`.
    colour_major: bool | None = None
    # The flow starts from a warp between landmarks, and a copy takes the mouth of the references whose lips have a
    # similar shape.
    landmark_flow: bool = True
    copy_references: bool = True  # blend in the warped references' own pixels

    def resolved(self) -> Self:
        """See `FaceSynthesizerConfig`."""
        return replace(super().resolved(), colour_major=self.layers().colour_major)

    def layers(self) -> SynthesizerForm:
        """See `FaceSynthesizerConfig`; without a setting, SPADE has no ReLU."""
        if self.form != "landmarks":
            raise ValueError(f"form is {self.form!r}; it is 'landmarks' here")
        if self.base not in FORMS:
            raise ValueError(f"base is {self.base!r}; it can be {' or '.join(map(repr, FORMS))}")
        form = FORMS[self.base]._replace(spade_relu=bool(self.spade_relu))
        return form if self.colour_major is None else form._replace(colour_major=self.colour_major)


class LandmarkSynthesizer(FaceSynthesizer):
    """`FaceSynthesizer` with a `LandmarkTemporalPath`, and with a `CopyingGenerator` where it copies references."""

    Config = LandmarkSynthesizerConfig
    inputs: ClassVar[tuple[str, ...]] = (*FaceSynthesizer.inputs, "landmarks", "reference_landmarks")
    config: LandmarkSynthesizerConfig
    keypoints: Tensor

    def __init__(self, config: LandmarkSynthesizerConfig):
        if not config.temporal:
            raise ValueError("form landmarks guides the temporal path and copies what it warps; switch temporal on")
        if not (config.landmark_flow or config.copy_references):
            raise ValueError("form landmarks is landmark_flow or copy_references; switch one on, or set form: paper")
        super().__init__(config)
        self.reader = PointReader() if self.config.landmark_flow else None
        self.register_buffer("keypoints", torch.tensor(KEYPOINTS), persistent=False)

    def _temporal_path(self, base: int, hidden: int, code: int) -> TemporalPath:
        return LandmarkTemporalPath(self.config, base, hidden, code)

    def _generator(self, base: int, hidden: int, code: int) -> InpaintingGenerator:
        kind = CopyingGenerator if self.config.copy_references else InpaintingGenerator
        return kind(self.heatmap_channels, base, hidden, code, self.config.layers().spade_relu)

    def forward(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        landmarks: Tensor | None = None,
        reference_landmarks: Tensor | None = None,
        *,
        alignment: bool = False,
        flow_only: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment] | Alignment:
        """As `FaceSynthesizer.forward`.

        Args:
            landmarks, reference_landmarks: (B, T, 131, 2) and (B, N, 131, 2) in units of the crop, through which the
                heatmaps are drawn. With None, they are read off the heatmaps, which is less exact.
        """
        if flow_only:
            further = self._landmarks(reference_heatmaps, reference_landmarks), self._landmarks(heatmaps, landmarks)
            return self._align(heatmaps, reference_images, reference_heatmaps, audio, *further)
        references = self.encode_references(reference_images, reference_heatmaps, reference_landmarks)
        return self.render(frames, heatmaps, references, audio, landmarks, alignment=alignment)

    def encode_references(
        self, reference_images: Tensor, reference_heatmaps: Tensor, reference_landmarks: Tensor | None = None
    ) -> References:
        """See `FaceSynthesizer`; `reference_landmarks` as `forward` takes them."""
        further = self._landmarks(reference_heatmaps, reference_landmarks)
        return self._encode(reference_images, reference_heatmaps, *further)

    def render(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        references: References,
        audio: Tensor,
        landmarks: Tensor | None = None,
        *,
        alignment: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment]:
        """See `FaceSynthesizer`; `landmarks` as `forward` takes them."""
        return self._render(frames, heatmaps, references, audio, alignment, *self._landmarks(heatmaps, landmarks))

    def finish(
        self, masked: Tensor, heatmaps: Tensor, aligned: list[Tensor], audio: Tensor, gathered: Gathered | None
    ) -> Tensor:
        """See `FaceSynthesizer`; with copy_references, blends the copy in."""
        if isinstance(gathered, GatheredCopy):
            return self.generator(masked, heatmaps, aligned, audio, gathered.copy)
        return super().finish(masked, heatmaps, aligned, audio, gathered)

    def whole_faces(self, landmarks: Tensor, keypoints: Tensor) -> Tensor:
        """Landmarks (..., 131, 2) with the predicted keypoints (..., 57, 2) in place of their own."""
        dtype = torch.promote_types(landmarks.dtype, keypoints.dtype)  # half precision would round to half pixels
        return landmarks.to(dtype).index_copy(-2, self.keypoints, keypoints.to(dtype))

    def _landmarks(self, heatmaps: Tensor, landmarks: Tensor | None) -> tuple[Tensor, ...]:
        """The landmarks that the temporal path takes of the target or of the references; empty without a reader."""
        if self.reader is None:
            return ()
        return (self.reader(heatmaps) if landmarks is None else landmarks,)


@dataclass
class GatheredCopy(Gathered):
    """`Gathered` with `copy`, faces (B, 3, H, W) that are blended from the references' warped pixels."""

    copy: Tensor


class LandmarkTemporalPath(TemporalPath):
    """`TemporalPath` whose flow starts from a warp between landmarks; it also warps the references' images."""

    lip_points: Tensor
    upper_points: Tensor

    def __init__(self, config: LandmarkSynthesizerConfig, base: int, hidden: int, code: int):
        super().__init__(config, base, hidden, code)
        self.crop = config.crop
        self.landmark_flow, self.copies = config.landmark_flow, config.copy_references
        # Buffers, so that they are on the network's device: a CUDA graph cannot use an index tensor of the host.
        self.register_buffer("lip_points", torch.tensor(LIP_POINTS), persistent=False)
        self.register_buffer("upper_points", torch.tensor(ANCHORS), persistent=False)

    def encode(self, images: Tensor, heatmaps: Tensor, landmarks: Tensor | None = None) -> list[Tensor]:
        """As `TemporalPath.encode`; then the images with copy_references, and the landmarks with landmark_flow."""
        copied = [images] if self.copies else []
        further = [] if landmarks is None else [landmarks]
        return [*super().encode(images, heatmaps), *copied, *further]

    def forward(
        self, references: list[Tensor], heatmaps: Tensor, audio: Tensor, landmarks: Tensor | None = None
    ) -> Gathered:
        """As `TemporalPath.forward`, with the target's landmarks (B, 131, 2) for landmark_flow."""
        grid, logits = self._deform(references, heatmaps, audio, landmarks)
        weights = torch.sigmoid(logits)
        features = [warp_and_sum(each, grid, weights) for each in references[:3]]
        if not self.copies:
            return Gathered(features, grid, weights)
        # Sharp shares: a mean of several faces would be blurred.
        logits = _SHARPNESS * logits
        if landmarks is not None:
            logits = logits - _UNLIKENESS * self._unlike(landmarks.detach(), references[-1])
        images = references[3]
        shares = logits.unflatten(0, (-1, images.shape[1])).softmax(dim=1).flatten(0, 1)
        return GatheredCopy(features, grid, weights, warp_and_sum(images, grid, shares))

    def deform(
        self, references: list[Tensor], heatmaps: Tensor, audio: Tensor, landmarks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `TemporalPath.deform`."""
        grid, logits = self._deform(references, heatmaps, audio, landmarks)
        return grid, torch.sigmoid(logits)

    def _deform(
        self, references: list[Tensor], heatmaps: Tensor, audio: Tensor, landmarks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`Gathered`'s grid, and the logits of its weights."""
        half = references[1].flatten(0, 1)
        if landmarks is None:
            flows, logits = self.flow_predictor(half, heatmaps, audio)
            return deformation(flows, self.grid), logits
        start = landmark_warp(landmarks, references[-1], self.crop)
        flows, logits = self.flow_predictor(_warp(half, start), heatmaps, audio)
        return _displaced(start, flows), logits

    def _unlike(self, landmarks: Tensor, references: Tensor) -> Tensor:
        """`unlike_lips` of the targets (B, 131, 2) and the pose-normalised references (B, N, 131, 2).

        It only selects references, so it passes no gradient to the landmarks.
        """
        landmarks, references = full_precision(landmarks), full_precision(references)
        upper = landmarks.index_select(1, self.upper_points)
        to_target = fit_similarity(references.index_select(2, self.upper_points), upper[:, None])
        carried = apply_affine(references.index_select(2, self.lip_points), to_target)
        return unlike_lips(landmarks.index_select(1, self.lip_points), carried, self.crop)


class CopyingGenerator(InpaintingGenerator):
    """`InpaintingGenerator` that blends its face into a copy of the references by a learned weight a pixel.

    Training starts near the copy.
    """

    outputs: ClassVar[int] = 4  # the colours and the blending weight's logit

    def forward(
        self, masked: Tensor, heatmaps: Tensor, aligned: list[Tensor], audio: Tensor, copy: Tensor | None = None
    ) -> Tensor:
        """As `InpaintingGenerator.forward`, with `copy` (B, 3, H, W) in [0, 1]."""
        if copy is None:
            raise ValueError("this generator blends into a copy of the references; give it one")
        return painted_over(self.paint(masked, heatmaps, aligned, audio), copy)


def _warp(features: Tensor, grid: Tensor) -> Tensor:
    """Sample features (M, C, h, w) at the points (M, 2, H, W) of `landmark_warp`; zeros outside."""
    if grid.shape[-2:] != features.shape[-2:]:
        grid = F.interpolate(grid, size=features.shape[-2:], mode="bilinear")
    warped = F.grid_sample(features.to(grid.dtype), grid.permute(0, 2, 3, 1), align_corners=False)
    return warped.to(features.dtype)


def _displaced(start: Tensor, flow: Tensor) -> Tensor:
    """The points `start` (M, 2, H, W), x and y in [-1, 1], displaced by the flow (M, 2, H, W) in pixels."""
    height, width = flow.shape[-2:]
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
    return torch.stack([start[:, 0] + flow[:, 0] * (2 / width), start[:, 1] + flow[:, 1] * (2 / height)], dim=1)
