"""STSA's face synthesizer (paper III-B): the lower half of a face from references, heatmap and sound."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extensions.landmark_maps import ANCHORS, apply_affine, fit_similarity, landmark_warp, unlike_lips
from extensions.point_reader import PointReader
from media.heatmap import LIP_POINTS
from models import released_face
from models.inpainting import InpaintingGenerator
from models.layers import AUDIO_CHANNELS, AudioEncoder, ConvBlock, check_positive, check_references, repeated, scaled
from models.precision import full_precision
from models.spatial import AdaAT, AlignmentEncoder, HeatmapEncoder, ReferenceEncoder, residual_pair
from models.temporal import FlowPredictor, TemporalEncoder, deformation, warp, warp_and_sum


class Form(NamedTuple):
    """Where the paper's network and the released one differ.

    colour_major: the spatial path stacks all N red planes, then all green, then all blue; else image after image.
    grid: the flow's points, `deformation`'s "centres" or "corners".
    sampler: `AdaAT`'s, "plain" or "channel_blending".
    per_scale: an alignment CNN for each scale (eq. 5); else the coarsest scale's serves all.
    fusion_kernel: one 1x1 convolution a scale, or two of 3x3.
    bgr: the weights expect BGR images; images are RGB outside.
    heatmap_channels: equal channels of a heatmap.
    spade_relu: `SpadeNorm`'s.
    """

    colour_major: bool
    grid: str
    sampler: str
    per_scale: bool
    fusion_kernel: int
    bgr: bool
    heatmap_channels: int
    spade_relu: bool


FORMS = {
    "paper": Form(
        colour_major=False,
        grid="centres",
        sampler="plain",
        per_scale=True,
        fusion_kernel=1,
        bgr=False,
        heatmap_channels=1,
        spade_relu=True,
    ),
    "released": Form(
        colour_major=True,
        grid="corners",
        sampler="channel_blending",
        per_scale=False,
        fusion_kernel=3,
        bgr=True,
        heatmap_channels=3,
        spade_relu=False,
    ),
}


@dataclass
class FaceSynthesizerConfig:
    """The defaults are the paper's network. None means: as `form` says."""

    form: str = "paper"  # or "released", the network whose weights the authors published; `FORMS`
    audio: str = "mel"  # "mel" (80 channels, 16 wide) or "wav2vec2" (768 channels, 10 wide)
    width: float = 1.0  # factor of every layer's channels
    references: int = 5  # N, fixed by the spatial path's stacking
    size: int = 128  # H = W of the face crops, a multiple of 4, at least 100
    # A ReLU between SPADE's two convolutions, as in its paper. The default of networks with landmark_flow or
    # copy_references is none.
    spade_relu: bool | None = None
    # The spatial path stacks its references colour by colour, as the released network does, instead of image by image.
    # Only a network with landmark_flow or copy_references may depart from its form.
    colour_major: bool | None = None
    spatial: bool = True  # the spatial path; Table III's ablations leave one out
    temporal: bool = True  # the temporal path; a path that is absent has no parameters
    # Not in the paper, small models gain: the flow starts from a warp between landmarks, and a copy takes the mouth of
    # the references whose lips have a similar shape.
    landmark_flow: bool = False
    copy_references: bool = False  # not in the paper, small models gain: blend in the warped references' own pixels
    # The CIL module's embeddings and T_theta, which only training needs. In a config file the weight
    # losses.mutual_information decides, and None, its default there, follows it.
    mutual_information: bool | None = False

    @classmethod
    def released(cls, **options) -> "FaceSynthesizerConfig":
        """The network whose weights the STSA authors published."""
        return cls(**({"form": "released", "audio": "wav2vec2"} | options)).resolved()

    def resolved(self) -> "FaceSynthesizerConfig":
        """This config with a value in the place of each None; ValueError where `form` is unknown."""
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; it can be {' or '.join(map(repr, FORMS))}")
        form = FORMS[self.form]
        # Networks that landmarks guide are this project's, and were trained without it.
        relu = form.spade_relu and not (self.landmark_flow or self.copy_references)
        return dataclasses.replace(
            self,
            spade_relu=relu if self.spade_relu is None else self.spade_relu,
            colour_major=form.colour_major if self.colour_major is None else self.colour_major,
            mutual_information=bool(self.mutual_information),
        )


_TAKING_SIDES = 3.0  # on the logits of a copy's shares, which training otherwise leaves small
_ALIKE = 3000.0  # on `unlike_lips`: a mouth whose lips lie 0.02 of the crop off weighs less than a third of one like it


class References(NamedTuple):
    """What `encode_references` keeps of a video: nothing in it depends on the frame to be made.

    spatial: a scale each, the features (B, C, h, w) that AdaAT samples from.
    alignment: a scale each (the coarsest alone in the released form), the alignment CNN's reference part.
    temporal: a scale each, the N references' features (B, N, C, h, w).
    copied: with copy_references, their images (B, N, 3, H, W), alone in a list.
    points: with landmark_flow, their landmarks (B, N, 131, 2), alone in a list.
    """

    spatial: list[Tensor]
    alignment: list[Tensor]
    temporal: list[Tensor]
    copied: list[Tensor]
    points: list[Tensor]

    def repeat(self, times: int) -> "References":
        """Each video's references `times` over: (B times, ...); one video's are not copied."""
        return References(*([repeated(x, times) for x in part] for part in self))


class Alignment(NamedTuple):
    """What the losses ask about how the references of B windows of T frames were aligned.

    information: a scale each, the embeddings E^spa and E^tem that eq. 7 compares, (B T, d) each; None without the CIL
        module.
    grid: the points of each reference that the temporal path reads, (B, T, N, 2, H, W), x and y in [-1, 1] between the
        image's outer edges; None without that path.
    weights: of each reference at each pixel in that path's sum, (B, T, N, 1, H, W) in [0, 1], before they are divided
        by their sum; None without that path.
    """

    information: list[tuple[Tensor, Tensor]] | None
    grid: Tensor | None
    weights: Tensor | None = None


class SpatialPath(nn.Module):
    """Reference features moved channel by channel, at three scales (eq. 5)."""

    def __init__(self, config: FaceSynthesizerConfig, base: int, code: int):
        super().__init__()
        channels, form = [base, 4 * base, 8 * base], FORMS[config.form]
        self.per_scale, self.colour_major = form.per_scale, config.colour_major
        self.references = ReferenceEncoder(3 * config.references, base)
        self.target_heatmap = HeatmapEncoder(form.heatmap_channels, base)
        self.reference_heatmaps = HeatmapEncoder(form.heatmap_channels * config.references, base)
        scales = range(3) if self.per_scale else [2]
        self.alignment = nn.ModuleList(AlignmentEncoder(channels[i] + 2 * base, code, doublings=2 - i) for i in scales)
        self.adaat = nn.ModuleList(AdaAT(c, code, form.sampler) for c in channels)
        for adaat in self.adaat:
            nn.init.xavier_uniform_(adaat.shared.weight)  # as the authors' linear layers
        self.before = nn.ModuleList(residual_pair(c) for c in channels)
        self.after = nn.ModuleList(residual_pair(c) for c in channels)

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, N, 3, H, W), heatmaps (B, N, c, H, W) -> what AdaAT samples from, what alignment compares with."""
        features = self.references((images.transpose(1, 2) if self.colour_major else images).flatten(1, 2))
        poses = self.reference_heatmaps(heatmaps.flatten(1, 2))
        compared = [torch.cat(pair, dim=1) for pair in zip(features, poses, strict=True)]
        sampled = [adaat.blend(before(x)) for adaat, before, x in zip(self.adaat, self.before, features, strict=True)]
        return sampled, compared if self.per_scale else compared[2:]

    def forward(self, references: References, heatmaps: Tensor, audio: Tensor) -> list[Tensor]:
        """Heatmaps (B, c, H, W), audio (B, code) -> features at full, half and quarter size."""
        poses = self.target_heatmap(heatmaps)
        poses = poses if self.per_scale else poses[2:]
        codes = [
            torch.cat([audio, encoder(torch.cat([compared, pose], dim=1))], dim=1)
            for encoder, compared, pose in zip(self.alignment, references.alignment, poses, strict=True)
        ]
        codes = codes if self.per_scale else codes * 3
        return [
            after(adaat(sampled, code))
            for after, adaat, sampled, code in zip(self.after, self.adaat, references.spatial, codes, strict=True)
        ]


class Gathered(NamedTuple):
    """What the temporal path takes from the references for B frames.

    features: at full, half and quarter size, (B, C, h, w) each.
    copied: with copy_references, the faces (B, 3, H, W) that the references' own pixels make, alone in a list.
    grid: `deformation`'s, (B N, 2, H, W).
    weights: the references' in the features' sum, (B N, 1, H, W) in [0, 1].
    """

    features: list[Tensor]
    copied: list[Tensor]
    grid: Tensor
    weights: Tensor


class Told(NamedTuple):
    """What landmarks tell of N references for B frames.

    start: where each shows what lies at the target's pixels, `landmark_warp`'s (B N, 2, H, W).
    unlike: `unlike_lips`, (B N, 1, H, W), where a copy's shares go by it, else None. It chooses references and moves
        nothing: it passes no gradient to landmarks.
    """

    start: Tensor
    unlike: Tensor | None


class TemporalPath(nn.Module):
    """Reference features warped by dense flow and summed by weight, at three scales (eq. 6)."""

    def __init__(self, config: FaceSynthesizerConfig, base: int, hidden: int, code: int):
        super().__init__()
        form = FORMS[config.form]
        self.grid, self.size = form.grid, config.size
        self.landmark_flow, self.copies = config.landmark_flow, config.copy_references
        self.encoder = TemporalEncoder(3 + form.heatmap_channels, base)
        self.flow_predictor = FlowPredictor(form.heatmap_channels, base, hidden, code, config.spade_relu)
        # Where the device is: an index that came from the host could not be part of a CUDA graph.
        self.register_buffer("lip_points", torch.tensor(LIP_POINTS), persistent=False)
        self.register_buffer("upper_points", torch.tensor(ANCHORS), persistent=False)

    def encode(self, images: Tensor, heatmaps: Tensor) -> list[Tensor]:
        """Images (B, N, 3, H, W), heatmaps (B, N, c, H, W) -> a scale each, features (B, N, C, h, w)."""
        shape = images.shape[:2]
        features = self.encoder(torch.cat([images, heatmaps], dim=2).flatten(0, 1))
        return [x.unflatten(0, shape) for x in features]

    def forward(self, references: References, heatmaps: Tensor, audio: Tensor, points: Tensor | None) -> Gathered:
        """Heatmaps (B, c, H, W), audio (B, code), points (B, 131, 2) -> what is gathered from the references."""
        begun, told = self.begin(references.temporal[1], references.points, points)
        flows, logits = self.flow_predictor(begun, heatmaps, audio)
        return self.gather(references.temporal, references.copied, flows, logits, told)

    def align(self, references: References, heatmaps: Tensor, audio: Tensor, points: Tensor | None) -> Gathered:
        """As `forward`, of which it computes `grid` and `weights` alone."""
        begun, told = self.begin(references.temporal[1], references.points, points)
        return self.gather([], [], *self.flow_predictor(begun, heatmaps, audio), told)

    def begin(self, half: Tensor, reference_points: list[Tensor], points: Tensor | None) -> tuple[Tensor, Told | None]:
        """What the flow is predicted from, (B N, C, h, w), and with landmark_flow what landmarks tell.

        Args:
            half: the references' half-size features (B, N, C, h, w).
            reference_points, points: `References.points` and the targets' landmarks (B, 131, 2).
        """
        if not self.landmark_flow:
            return half.flatten(0, 1), None
        known = reference_points[0]
        start = landmark_warp(points, known, self.size)
        unlike = self._unlike(points.detach(), known) if self.copies else None
        return warp(half.flatten(0, 1), start), Told(start, unlike)

    def _unlike(self, points: Tensor, known: Tensor) -> Tensor:
        """`unlike_lips` of the targets (B, 131, 2) and references (B, N, 131, 2), however their heads are tilted."""
        points, known = full_precision(points), full_precision(known)
        upper, known_upper = points.index_select(1, self.upper_points), known.index_select(2, self.upper_points)
        carried = apply_affine(known.index_select(2, self.lip_points), fit_similarity(known_upper, upper[:, None]))
        return unlike_lips(points.index_select(1, self.lip_points), carried, self.size)

    def gather(
        self, features: list[Tensor], copied: list[Tensor], flows: Tensor, logits: Tensor, told: Told | None
    ) -> Gathered:
        """Warp and sum what `References` holds by the flows and the weights' logits, (B N, 2 and 1, H, W)."""
        grid, weights = deformation(flows, self.grid, told and told.start), torch.sigmoid(logits)
        warped = [warp_and_sum(each, grid, weights) for each in features]
        if copied:  # which takes sides: a mean of several faces is a blur
            logits = _TAKING_SIDES * logits - (_ALIKE * told.unlike if told else 0)
            shares = logits.unflatten(0, (-1, copied[0].shape[1])).softmax(dim=1).flatten(0, 1)
            copied = [warp_and_sum(each, grid, shares) for each in copied]
        return Gathered(warped, copied, grid, weights)


class MutualInformation(nn.Module):
    """The CIL module: embeddings of both paths' features at each scale, and T_theta on pairs of them (eq. 7).

    T_theta starts as the authors' does: weights from N(0, 0.02); its biases are 0.
    """

    def __init__(self, channels: list[int], embedding: int):
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embedding, 1), nn.BatchNorm2d(embedding)) for c in channels
        )
        self.statistics = nn.Sequential(
            nn.Linear(2 * embedding, embedding),
            nn.ELU(),
            nn.Linear(embedding, embedding),
            nn.ELU(),
            nn.Linear(embedding, 1),
        )
        for layer in self.statistics[::2]:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, spatial: list[Tensor], temporal: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Both paths' features of M frames -> a scale each, `score` of the pairs within these frames."""
        return [self.score(*pair) for pair in self.embeddings(spatial, temporal)]

    def embeddings(self, spatial: list[Tensor], temporal: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Both paths' features (M, C, h, w) of M = B T frames -> a scale each, E^spa and E^tem, (M, d) each."""
        return [
            (embed(features).mean(dim=(2, 3)), embed(others).mean(dim=(2, 3)))
            for embed, features, others in zip(self.embed, spatial, temporal, strict=True)
        ]

    def score(self, e_spa: Tensor, e_tem: Tensor) -> tuple[Tensor, Tensor]:
        """T_theta of the joint and of the marginal pairs of one scale.

        Every E^spa meets every E^tem, its own frame's too. The authors permute the frames (`torch.randperm`), which
        draws M of these pairs: their mean is the same in expectation, but 37 % of permutations leave no frame
        with itself, and then nothing bounds eq. 7. Over all pairs its estimate cannot exceed ln N.

        Args:
            e_spa: (M, d).
            e_tem: (N, d), N >= M; the first M are of the same frames as `e_spa`.

        Returns:
            The scores (M,) of the joint pairs and (M, N) of the marginal ones.
        """
        first, *rest = self.statistics
        own, others = first.weight.chunk(2, dim=1)  # of [E^spa, E^tem]: M + N products, not M N
        scores = F.linear(e_spa, own, first.bias)[:, None] + F.linear(e_tem, others)
        for layer in rest:
            scores = layer(scores)
        scores = scores.squeeze(-1)
        return scores.diagonal(), scores


class FaceSynthesizer(nn.Module):
    """Frames with the lower half hidden -> whole faces, from references of the same person, heatmaps and sound.

    Raises:
        ValueError: an option of the config is none of its choices, or the options exclude each other.
    """

    def __init__(self, config: FaceSynthesizerConfig):
        super().__init__()
        self.config = config = config.resolved()
        _check(config)
        form = FORMS[config.form]
        self.bgr, self.heatmap_channels = form.bgr, form.heatmap_channels
        base, hidden, code = scaled(32, config.width), scaled(256, config.width), scaled(128, config.width)
        self.audio_encoder = AudioEncoder(AUDIO_CHANNELS[config.audio], code)
        self.spatial = SpatialPath(config, base, code) if config.spatial else None
        self.temporal = TemporalPath(config, base, hidden, code) if config.temporal else None
        channels = [base, 4 * base, 8 * base]
        paths = config.spatial + config.temporal
        self.fusion = nn.ModuleList(_fusion(paths * c, c, form.fusion_kernel) for c in channels)
        self.mutual_information = MutualInformation(channels, code) if config.mutual_information else None
        self.generator = InpaintingGenerator(
            form.heatmap_channels, base, hidden, code, config.spade_relu, config.copy_references
        )
        self.reader = PointReader() if config.landmark_flow else None

    def forward(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        points: Tensor | None = None,
        reference_points: Tensor | None = None,
        alignment: bool = False,
        flow_only: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment] | Alignment:
        """Synthesize the frames of B windows.

        Args:
            frames: (B, T, 3, H, W) RGB in [0, 1]; their lower half is hidden here and may hold anything.
            heatmaps: (B, T, 1, H, W) in [0, 1], the full face as it shall be.
            reference_images, reference_heatmaps: (B, N, 3, H, W) and (B, N, 1, H, W) of the same person.
            audio: (B, T, C, W), the window of sound around each frame.
            points, reference_points: (B, T, 131, 2) and (B, N, 131, 2), the landmarks that the heatmaps are drawn
                through, in units of the crop; only landmark_flow uses them, and reads them off the heatmaps, less
                exactly, where they are not given.
            alignment: also return what the losses ask about it.
            flow_only: compute the temporal path's flow and weights alone.

        Returns:
            Faces (B, T, 3, H, W) in [0, 1]; with `alignment`, also that; with `flow_only`, an `Alignment` in the place
            of both, which has no `information`.
        """
        if flow_only:
            return self._align(heatmaps, reference_images, reference_heatmaps, audio, points, reference_points)
        references = self.encode_references(reference_images, reference_heatmaps, reference_points)
        return self.render(frames, heatmaps, references, audio, points, alignment)

    def encode_references(
        self, reference_images: Tensor, reference_heatmaps: Tensor, reference_points: Tensor | None = None
    ) -> References:
        """The part that depends on the references alone, as `forward` takes them; once a video."""
        check_references(reference_images, self.config.references)
        images, heatmaps = self._inside(reference_images), self._channels(reference_heatmaps)
        sampled, compared = self.spatial.encode(images, heatmaps) if self.spatial else ([], [])
        temporal = self.temporal.encode(images, heatmaps) if self.temporal else []
        copied = [images] if self.config.copy_references else []
        points = []
        if self.reader is not None:
            points = [self.reader(reference_heatmaps) if reference_points is None else reference_points]
        return References(sampled, compared, temporal, copied, points)

    def render(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        references: References,
        audio: Tensor,
        points: Tensor | None = None,
        alignment: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment]:
        """As `forward`, with `encode_references`' result for the B windows."""
        shape = frames.shape[:2]
        references = references.repeat(shape[1])
        if self.reader is not None:
            points = (self.reader(heatmaps) if points is None else points).flatten(0, 1)
        frames, heatmaps = self._inside(frames.flatten(0, 1)), self._channels(heatmaps.flatten(0, 1))
        audio = self.audio_encoder(audio.flatten(0, 1))

        paths, gathered = [], None
        if self.spatial is not None:
            paths.append(self.spatial(references, heatmaps, audio))
        if self.temporal is not None:
            gathered = self.temporal(references, heatmaps, audio, points)
            paths.append(gathered.features)
        aligned = [fuse(torch.cat(features, dim=1)) for fuse, *features in zip(self.fusion, *paths, strict=True)]
        copied = [] if gathered is None else gathered.copied
        faces = self.generator(mask_lower_half(frames), heatmaps, aligned, audio, *copied)
        faces = self._inside(faces).unflatten(0, shape)
        if not alignment:
            return faces
        cil = self.mutual_information
        information = None if cil is None else cil.embeddings(*paths)
        return faces, Alignment(information, *_of_windows(gathered, shape))

    def _align(
        self,
        heatmaps: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        points: Tensor | None,
        reference_points: Tensor | None,
    ) -> Alignment:
        """`forward` with `flow_only`."""
        shape, known = heatmaps.shape[:2], []
        if self.reader is not None:
            known = [self.reader(reference_heatmaps) if reference_points is None else reference_points]
            points = (self.reader(heatmaps) if points is None else points).flatten(0, 1)
        encoded = self.temporal.encode(self._inside(reference_images), self._channels(reference_heatmaps))
        references = References([], [], encoded, [], known).repeat(shape[1])
        audio = self.audio_encoder(audio.flatten(0, 1))
        gathered = self.temporal.align(references, self._channels(heatmaps.flatten(0, 1)), audio, points)
        return Alignment(None, *_of_windows(gathered, shape))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of both paths and of the audio encoder, which the gradient of every loss term may reach."""
        parts = [part for part in (self.audio_encoder, self.spatial, self.temporal) if part is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    def _inside(self, images: Tensor) -> Tensor:
        """Images (..., 3, H, W) between RGB and the order of the weights; its own inverse."""
        return images.flip(-3) if self.bgr else images

    def _channels(self, heatmaps: Tensor) -> Tensor:
        return heatmaps.expand(*heatmaps.shape[:-3], self.heatmap_channels, *heatmaps.shape[-2:])


def released_form(state_dict: dict[str, Tensor]) -> FaceSynthesizerConfig:
    """The form of the STSA authors' `face_weight.pth`: with eq. 7's network, to train on, where the file holds that."""
    informed = any(name.removeprefix("module.").startswith("mine.") for name in state_dict)
    return FaceSynthesizerConfig.released(mutual_information=informed)


def released_state(state_dict: dict[str, Tensor], config: FaceSynthesizerConfig | None = None) -> dict[str, Tensor]:
    """Turn the tensors of the STSA authors' `face_weight.pth` into this network's.

    Args:
        state_dict: theirs; a leading "module." of the names is dropped, tensors that are not needed are ignored.
        config: `released_form`'s, or `FaceSynthesizerConfig.released()`, which is only to dub with.

    Raises:
        ValueError: a tensor that is needed is missing or has another shape; the message names it.
    """
    config = config or FaceSynthesizerConfig.released()
    state_dict = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FaceSynthesizer(config).state_dict().items()}
    return released_face.convert(state_dict, shapes)


def mask_lower_half(frames: Tensor) -> Tensor:
    """Set the rows from H/2 on to 0."""
    height = frames.shape[-2]
    return F.pad(frames[..., : height // 2, :], (0, 0, 0, height - height // 2))


def _of_windows(gathered: Gathered | None, shape: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
    """`Alignment`'s grid and weights of (B, T) = `shape` frames."""
    if gathered is None:
        return None, None
    return tuple(x.unflatten(0, (*shape, -1)) for x in (gathered.grid, gathered.weights))


def _fusion(in_channels: int, channels: int, kernel_size: int) -> nn.Sequential:
    if kernel_size == 1:
        return nn.Sequential(ConvBlock(2, in_channels, channels, kernel_size=1, padding=0))
    return nn.Sequential(ConvBlock(2, in_channels, channels), ConvBlock(2, channels, channels))


def _check(config: FaceSynthesizerConfig) -> None:
    if config.audio not in AUDIO_CHANNELS:
        raise ValueError(f"audio is {config.audio!r}; it can be {' or '.join(map(repr, AUDIO_CHANNELS))}")
    check_positive(config, "width", "references")
    guided = config.landmark_flow or config.copy_references
    if config.colour_major != FORMS[config.form].colour_major and not guided:
        raise ValueError(f"colour_major is {config.colour_major}, which form: {config.form} is not; leave it out")
    if not (config.spatial or config.temporal):
        raise ValueError("the synthesizer needs its spatial or its temporal path; switch one on")
    if config.copy_references and not config.temporal:
        raise ValueError("copy_references copies what the temporal path warps; it needs that path")
    if config.landmark_flow and not config.temporal:
        raise ValueError("landmark_flow is where the temporal path's flow starts from; it needs that path")
    if config.mutual_information and not (config.spatial and config.temporal):
        raise ValueError("mutual information compares the spatial and the temporal path; it needs both")
    if config.size % 4 or config.size < 100:
        raise ValueError(f"size is {config.size}; the network's strides need a multiple of 4, at least 100")
