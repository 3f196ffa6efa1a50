"""STSA's face synthesizer (paper III-B): the hidden part of a face from references, heatmaps and sound."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.crop import CropForm
from models import released_face
from models.inpainting import InpaintingGenerator
from models.layers import AUDIO_CHANNELS, AudioEncoder, ConvBlock, check_positive, check_references, repeated, scaled
from models.spatial import SMALLEST_ALIGNED, AdaAT, AlignmentEncoder, HeatmapEncoder, ReferenceEncoder, residual_pair
from models.temporal import FlowPredictor, TemporalEncoder, deformation, warp_and_sum


class SynthesizerForm(NamedTuple):
    """Where the paper's network and the released one differ.

    colour_major: the spatial path stacks all N red planes, then all green, then all blue; else image after image.
    grid: "centres" or "corners", as in `deformation`: the pixel positions of the flow.
    sampler: "plain" or "channel_blending", as in `AdaAT`.
    per_scale: an alignment CNN for each scale (eq. 5); else the coarsest scale's is used at all scales.
    fusion_kernel: 1 for one 1x1 convolution a scale, 3 for two 3x3 convolutions.
    bgr: the weights expect BGR images; the network converts RGB images.
    heatmap_channels: number of equal channels of a heatmap.
    spade_relu: as in `SpadeNorm`.
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
    "paper": SynthesizerForm(
        colour_major=False,
        grid="centres",
        sampler="plain",
        per_scale=True,
        fusion_kernel=1,
        bgr=False,
        heatmap_channels=1,
        spade_relu=True,
    ),
    "released": SynthesizerForm(
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
    """The settings of a `FaceSynthesizer`; the defaults are the paper's. None takes the value of `form`."""

    form: str = "paper"  # "paper", or "released", the network whose weights the authors published
    audio: str = "mel"  # kind of sound features: "mel" (80 channels, 16 wide), "wav2vec2" (768, 10), "hama", "whisper"
    width: float = 1.0  # factor of every layer's channels
    references: int = 5  # N, fixed by the spatial path's stacking
    crop: CropForm = field(default_factory=CropForm)
    spade_relu: bool | None = None  # a ReLU between SPADE's two convolutions, as in the paper of SPADE
    spatial: bool = True  # the spatial path; Table III's ablations leave out one path
    temporal: bool = True  # the temporal path; an absent path has no parameters
    # The CIL module's embeddings and T_theta, which only training needs. In a config file the default is null: the
    # module exists if losses.mutual_information is above 0.
    mutual_information: bool | None = False

    @classmethod
    def released(cls, **options) -> Self:
        """The network whose weights the STSA authors published."""
        return cls(**({"form": "released", "audio": "wav2vec2"} | options)).resolved()

    def resolved(self) -> Self:
        """This config with a value in place of each None; ValueError where `form` is unknown."""
        return dataclasses.replace(
            self, spade_relu=self.layers().spade_relu, mutual_information=bool(self.mutual_information)
        )

    def layers(self) -> SynthesizerForm:
        """The layers of this config's form, with the config's `spade_relu`; ValueError where `form` is unknown."""
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; it can be {' or '.join(map(repr, FORMS))}")
        form = FORMS[self.form]
        return form if self.spade_relu is None else form._replace(spade_relu=self.spade_relu)


class References(NamedTuple):
    """The encoded references of a video, the same for all of its frames.

    spatial: for each scale, the features (B, C, h, w) that AdaAT samples from.
    alignment: for each scale, the reference part of the alignment CNN's input; in the released form the coarsest only.
    temporal: what the temporal path's `encode` returns: for each scale, the N references' features (B, N, C, h, w).
    """

    spatial: list[Tensor]
    alignment: list[Tensor]
    temporal: list[Tensor]

    def repeat(self, times: int) -> "References":
        """Each video's references repeated `times` times: (B times, ...); those of a single video are not copied."""
        return References(*([repeated(x, times) for x in part] for part in self))


class Alignment(NamedTuple):
    """How the references of B windows of T frames were aligned, for the losses.

    information: for each scale, the embeddings E^spa and E^tem that eq. 7 compares, (B T, d) each; None without the CIL
        module.
    grid: the points of each reference that the temporal path samples, (B, T, N, 2, H, W), x and y in [-1, 1] between
        the image's outer edges; None without that path.
    weights: each reference's weight at each pixel in that path's sum, (B, T, N, 1, H, W) in [0, 1], before division by
        the weights' sum; None without that path.
    chosen: which references `grid` and `weights` are of, (B, T, N) int64; None: all, in their order.
    """

    information: list[tuple[Tensor, Tensor]] | None
    grid: Tensor | None
    weights: Tensor | None = None
    chosen: Tensor | None = None


class SpatialPath(nn.Module):
    """Reference features moved channel by channel, at three scales (eq. 5)."""

    def __init__(self, config: FaceSynthesizerConfig, base: int, code: int):
        super().__init__()
        channels, form = [base, 4 * base, 8 * base], config.layers()
        self.per_scale, self.colour_major = form.per_scale, form.colour_major
        self.references = ReferenceEncoder(3 * config.references, base)
        self.target_heatmap = HeatmapEncoder(form.heatmap_channels, base)
        self.reference_heatmaps = HeatmapEncoder(form.heatmap_channels * config.references, base)
        scales = range(3) if self.per_scale else [2]
        self.alignment = nn.ModuleList(AlignmentEncoder(channels[i] + 2 * base, code, doublings=2 - i) for i in scales)
        movers = [AdaAT(c, code, form.sampler) for c in channels]
        for adaat in movers:
            nn.init.xavier_uniform_(adaat.shared.weight)  # as in the authors' linear layers
        self.adaat = nn.ModuleList(movers)
        self.before = nn.ModuleList(residual_pair(c) for c in channels)
        self.after = nn.ModuleList(residual_pair(c) for c in channels)

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images (B, N, 3, H, W), heatmaps (B, N, c, H, W) -> `spatial` and `alignment` of `References`."""
        features = self.references((images.transpose(1, 2) if self.colour_major else images).flatten(1, 2))
        poses = self.reference_heatmaps(heatmaps.flatten(1, 2))
        compared = [torch.cat(pair, dim=1) for pair in zip(features, poses, strict=True)]
        sampled = [
            cast(AdaAT, adaat).blend(before(x))
            for adaat, before, x in zip(self.adaat, self.before, features, strict=True)
        ]
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


@dataclass
class Gathered:
    """The temporal path's output for B frames.

    features: at full, half and quarter size, (B, C, h, w) each.
    grid: the result of `deformation`, (B N, 2, H, W).
    weights: each reference's weight in the features' sum, (B N, 1, H, W) in [0, 1].
    """

    features: list[Tensor]
    grid: Tensor
    weights: Tensor


class TemporalPath(nn.Module):
    """Reference features warped by dense flow and summed by weight, at three scales (eq. 6)."""

    def __init__(self, config: FaceSynthesizerConfig, base: int, hidden: int, code: int):
        super().__init__()
        form = config.layers()
        self.grid = form.grid
        self.encoder = TemporalEncoder(3 + form.heatmap_channels, base)
        self.flow_predictor = FlowPredictor(form.heatmap_channels, base, hidden, code, form.spade_relu)

    def encode(self, images: Tensor, heatmaps: Tensor) -> list[Tensor]:
        """Images (B, N, 3, H, W), heatmaps (B, N, c, H, W) -> for each scale, features (B, N, C, h, w)."""
        shape = images.shape[:2]
        features = self.encoder(torch.cat([images, heatmaps], dim=2).flatten(0, 1))
        return [x.unflatten(0, shape) for x in features]

    def forward(self, references: list[Tensor], heatmaps: Tensor, audio: Tensor) -> Gathered:
        """`encode`'s result, heatmaps (B, c, H, W) and audio (B, code) -> the warped and summed features."""
        grid, weights = self.deform(references, heatmaps, audio)
        return Gathered([warp_and_sum(each, grid, weights) for each in references[:3]], grid, weights)

    def deform(self, references: list[Tensor], heatmaps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Only `Gathered`'s grid and weights."""
        flows, logits = self.predict_flows(references, heatmaps, audio)
        return deformation(flows, self.grid), torch.sigmoid(logits)

    def predict_flows(self, references: list[Tensor], heatmaps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`FlowPredictor`'s flows and logits, from the references' half-size features."""
        return self.flow_predictor(references[1].flatten(0, 1), heatmaps, audio)


class MutualInformation(nn.Module):
    """The CIL module: embeddings of both paths' features at each scale, and T_theta on pairs of them (eq. 7).

    T_theta is initialised as in the authors' code: weights from N(0, 0.02), biases 0.
    """

    def __init__(self, channels: list[int], embedding: int):
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embedding, 1), nn.BatchNorm2d(embedding)) for c in channels
        )
        widths = [2 * embedding, embedding, embedding, 1]
        linear = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        self.statistics = nn.Sequential(linear[0], nn.ELU(), linear[1], nn.ELU(), linear[2])
        for layer in linear:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def embeddings(self, spatial: list[Tensor], temporal: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Both paths' features (M, C, h, w) of M = B T frames -> for each scale, E^spa and E^tem, (M, d) each."""
        return [
            (embed(features).mean(dim=(2, 3)), embed(others).mean(dim=(2, 3)))
            for embed, features, others in zip(self.embed, spatial, temporal, strict=True)
        ]

    def score(self, e_spa: Tensor, e_tem: Tensor) -> tuple[Tensor, Tensor]:
        """T_theta of the joint and of the marginal pairs of one scale.

        The marginal pairs are all pairs of an E^spa and an E^tem, those of the same frame included. The authors sample
        M of these pairs by a permutation of the frames (`torch.randperm`), whose mean is the same in expectation. But
        37 % of permutations pair no frame with itself, and then nothing bounds the estimate of eq. 7. Over all pairs,
        it cannot exceed ln N.

        Args:
            e_spa: (M, d).
            e_tem: (N, d), N >= M; the first M belong to the frames of `e_spa`.

        Returns:
            The scores (M,) of the joint pairs and (M, N) of the marginal ones.
        """
        first, rest = cast(nn.Linear, self.statistics[0]), self.statistics[1:]
        own, others = first.weight.chunk(2, dim=1)  # of [E^spa, E^tem]: M + N products, not M N
        scores = F.linear(e_spa, own, first.bias)[:, None] + F.linear(e_tem, others)
        scores = rest(scores).squeeze(-1)
        return scores.diagonal(), scores


class FaceSynthesizer(nn.Module):
    """Fig. 2: masked frames, references of the same person, heatmaps and sound -> whole faces.

    Attributes:
        inputs: the names in a batch of `ClipDataset` that `forward` takes, in its order.
        takes_sound: whether the faces depend on `audio`; else it can have any kind of features.

    Raises:
        ValueError: an option of the config has no such value, or the options exclude each other.
    """

    Config = FaceSynthesizerConfig
    inputs: ClassVar[tuple[str, ...]] = ("frames", "heatmaps", "reference_images", "reference_heatmaps", "audio")
    takes_sound: ClassVar[bool] = True

    def __init__(self, config: FaceSynthesizerConfig):
        super().__init__()
        self.config = config = config.resolved()
        _check(config)
        form = config.layers()
        self.bgr, self.heatmap_channels = form.bgr, form.heatmap_channels
        base, hidden, code = scaled(32, config.width), scaled(256, config.width), scaled(128, config.width)
        self.audio_encoder = AudioEncoder(AUDIO_CHANNELS[config.audio], code)
        self.spatial = SpatialPath(config, base, code) if config.spatial else None
        self.temporal = TemporalPath(config, base, hidden, code) if config.temporal else None
        channels = [base, 4 * base, 8 * base]
        paths = config.spatial + config.temporal
        self.fusion = nn.ModuleList(_fusion(paths * c, c, form.fusion_kernel) for c in channels)
        self.mutual_information = MutualInformation(channels, code) if config.mutual_information else None
        self.generator = InpaintingGenerator(self.heatmap_channels, base, hidden, code, form.spade_relu)

    def forward(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        *,
        alignment: bool = False,
        flow_only: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment] | Alignment:
        """Synthesize the frames of B windows.

        Args:
            frames: (B, T, 3, H, W) RGB in [0, 1]. This method sets their hidden part to 0.
            heatmaps: (B, T, 1, G, G) in [0, 1], the full face to synthesize; they are resized to the crop.
            reference_images, reference_heatmaps: (B, N, 3, H, W) and (B, N, 1, G, G) of the same person.
            audio: (B, T, C, W), the window of sound around each frame.
            alignment: whether to return an `Alignment` for the losses.
            flow_only: compute only the temporal path's flow and weights.

        Returns:
            Faces (B, T, 3, H, W) in [0, 1]; with `alignment`, also an `Alignment`; with `flow_only`, only an
            `Alignment`, without `information`.
        """
        if flow_only:
            return self._align(heatmaps, reference_images, reference_heatmaps, audio)
        references = self.encode_references(reference_images, reference_heatmaps)
        return self.render(frames, heatmaps, references, audio, alignment=alignment)

    def encode_references(self, reference_images: Tensor, reference_heatmaps: Tensor) -> References:
        """The part of `forward` that depends only on the references; in dubbing, once a video."""
        check_references(reference_images, self.config.references)
        images, heatmaps = self._inside(reference_images), self._channels(reference_heatmaps, reference_images)
        sampled, compared = self.spatial.encode(images, heatmaps) if self.spatial else ([], [])
        return References(sampled, compared, self.temporal.encode(images, heatmaps) if self.temporal else [])

    def render(
        self, frames: Tensor, heatmaps: Tensor, references: References, audio: Tensor, *, alignment: bool = False
    ) -> Tensor | tuple[Tensor, Alignment]:
        """As `forward`, with `encode_references`' result for the B windows."""
        shape = frames.shape[:2]
        references = references.repeat(shape[1])
        frames, heatmaps = self._inside(frames.flatten(0, 1)), self._channels(heatmaps, frames).flatten(0, 1)
        audio = self.audio_encoder(audio.flatten(0, 1))

        paths, gathered = [], None
        if self.spatial is not None:
            paths.append(self.spatial(references, heatmaps, audio))
        if self.temporal is not None:
            gathered = self.temporal(references.temporal, heatmaps, audio)
            paths.append(gathered.features)
        aligned = [fuse(torch.cat(features, dim=1)) for fuse, *features in zip(self.fusion, *paths, strict=True)]
        faces = self.generator(mask_hidden(frames, self.config.crop), heatmaps, aligned, audio)
        faces = self._inside(faces).unflatten(0, shape)
        if not alignment:
            return faces
        cil = self.mutual_information
        information = None if cil is None else cil.embeddings(*paths)
        if gathered is None:
            return faces, Alignment(information, None, None)
        return faces, Alignment(information, *_of_windows(gathered.grid, gathered.weights, shape))

    def render_with_flow(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        references: References,
        audio: Tensor,
        landmarks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `render`, with `Alignment.grid` of the hidden part alone, (B, T, N, 2, rows, columns), and `chosen`.

        Only a network that takes landmarks reads them.
        """
        faces, alignment = self.render(frames, heatmaps, references, audio, alignment=True)
        flow = alignment.grid
        return faces, None if flow is None else flow[..., *self.config.crop.hidden_pixels], alignment.chosen

    def _align(
        self, heatmaps: Tensor, reference_images: Tensor, reference_heatmaps: Tensor, audio: Tensor
    ) -> Alignment:
        """`forward` with `flow_only`."""
        assert self.temporal is not None  # computes the flow
        shape = heatmaps.shape[:2]
        images, channels = self._inside(reference_images), self._channels(reference_heatmaps, reference_images)
        references = [repeated(x, shape[1]) for x in self.temporal.encode(images, channels)]
        audio = self.audio_encoder(audio.flatten(0, 1))
        heatmaps = self._channels(heatmaps, reference_images).flatten(0, 1)
        grid, weights = self.temporal.deform(references, heatmaps, audio)
        return Alignment(None, *_of_windows(grid, weights, shape))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters of both paths and of the audio encoder, which the gradient of every loss term may reach."""
        parts = [part for part in (self.audio_encoder, self.spatial, self.temporal) if part is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    def _inside(self, images: Tensor) -> Tensor:
        """Images (..., 3, H, W) from RGB to the colour order of the weights, or back."""
        return images.flip(-3) if self.bgr else images

    def _channels(self, heatmaps: Tensor, images: Tensor) -> Tensor:
        """Heatmaps (B, M, 1, G, G) -> (B, M, c, H, W), with the height and width of `images`."""
        if heatmaps.shape[-2:] != images.shape[-2:]:
            resized = F.interpolate(heatmaps.flatten(0, 1), size=images.shape[-2:], mode="bilinear")
            heatmaps = resized.unflatten(0, heatmaps.shape[:2])
        return heatmaps.expand(*heatmaps.shape[:-3], self.heatmap_channels, *heatmaps.shape[-2:])


def released_form(state_dict: dict[str, Tensor]) -> FaceSynthesizerConfig:
    """The config of the STSA authors' `face_weight.pth`, with eq. 7's network if the file contains it."""
    informed = any(name.removeprefix("module.").startswith("mine.") for name in state_dict)
    return FaceSynthesizerConfig.released(mutual_information=informed)


def released_state(state_dict: dict[str, Tensor], config: FaceSynthesizerConfig | None = None) -> dict[str, Tensor]:
    """Convert the tensors of the STSA authors' `face_weight.pth` to this network's.

    Args:
        state_dict: of the file. A leading "module." of the names is dropped; tensors that are not needed are ignored.
        config: the result of `released_form`, or `FaceSynthesizerConfig.released()`, which suffices for dubbing.

    Raises:
        ValueError: a needed tensor is missing or has another shape; the message names it.
    """
    config = config or FaceSynthesizerConfig.released()
    state_dict = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FaceSynthesizer(config).state_dict().items()}
    return released_face.convert(state_dict, shapes)


def mask_hidden(frames: Tensor, crop: CropForm) -> Tensor:
    """A copy of frames (..., H, W) of the form `crop` with the hidden part set to 0."""
    masked = frames.clone()
    masked[..., *crop.hidden_pixels] = 0
    return masked


def _of_windows(grid: Tensor, weights: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`Gathered`'s grid and weights of (B, T) = `shape` frames, in the shapes of `Alignment`."""
    grid, weights = (x.unflatten(0, (*shape, -1)) for x in (grid, weights))
    return grid, weights


def _fusion(in_channels: int, channels: int, kernel_size: int) -> nn.Sequential:
    if kernel_size == 1:
        return nn.Sequential(ConvBlock(2, in_channels, channels, kernel_size=1, padding=0))
    return nn.Sequential(ConvBlock(2, in_channels, channels), ConvBlock(2, channels, channels))


def _check(config: FaceSynthesizerConfig) -> None:
    if config.audio not in AUDIO_CHANNELS:
        raise ValueError(f"audio is {config.audio!r}; it can be {' or '.join(map(repr, AUDIO_CHANNELS))}")
    check_positive(config, "width", "references")
    if not (config.spatial or config.temporal):
        raise ValueError("the synthesizer needs its spatial or its temporal path; switch one on")
    if config.mutual_information and not (config.spatial and config.temporal):
        raise ValueError("mutual information compares the spatial and the temporal path; it needs both")
    smallest = 4 * SMALLEST_ALIGNED  # the alignment CNN's input has a quarter of the crop's size
    for name in ("height", "width"):
        side = getattr(config.crop, name)
        if side % 4 or side < smallest:
            raise ValueError(f"crop.{name} is {side}; the network's strides need a multiple of 4, at least {smallest}")
