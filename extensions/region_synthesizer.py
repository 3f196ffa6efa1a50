"""A face synthesizer that generates the hidden region only, at a quarter of the crop's size. Not in the paper.

It keeps two of the paper's ideas: dense flow from each reference to the target with a weight a pixel (eq. 6), and
inpainting from the aligned references (eq. 8). The flow starts from a warp between landmarks. Flow and weights are
computed at a quarter of the size; the references' pixels are warped and blended at full size, so that the face is as
sharp as they are. There is no spatial path, and the sound acts through the landmarks alone.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extensions.landmark_maps import FaceParts, RegionWarp, Unlikeness, centres, region_warp, unlike_references
from media.crop import CropForm
from media.heatmap import KEYPOINTS
from models.face_synthesizer import Alignment, FaceSynthesizer, FaceSynthesizerConfig, References
from models.layers import ConvBlock, check_positive, scaled
from models.precision import full_precision

STRIDE = 4  # px of the crop in a pixel of the flow
_COARSEST = 16  # px of the crop in a pixel of the painter's coarsest features
_CONTEXT = 1 / 16  # of the crop: the visible margin around the hidden rectangle that the network also sees
_SHARPNESS = 3.0  # initial factor on the logits of the references' shares
# Initial factor on `unlike_references`: a reference whose lips differ by 0.005 of the crop gets a tenth of the share of
# one with the target's lips. With a sixth of it, the mean of several mouths has half the detail of a true one.
_UNLIKENESS = 90000.0
_STEP = 1 / 128  # of the crop: unit of the displacements that the network sees and predicts
_SHADE = 0.1  # unit of the shading
_PAINT = 0.25  # unit of the painted colours
_TEETH = -4.0  # initial logit of the teeth's two warps, against 0 of the skin's


@dataclass
class RegionSynthesizerConfig(FaceSynthesizerConfig):
    """The settings of a `RegionSynthesizer`. It takes no sound: `audio` selects the features that its batches hold."""

    form: str = "region"  # the form of this network
    spatial: bool = False  # it has no spatial path
    bank: int = 16  # references in dubbing; of these, each frame blends the `references` that are most like it

    def resolved(self) -> "RegionSynthesizerConfig":
        """This config: no default depends on the form."""
        return self


class Region(NamedTuple):
    """The part of a crop that the network sees, and the hidden rectangle within it, as rows and columns in pixels."""

    rows: slice
    columns: slice
    hidden: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def of(self, images: Tensor, stride: int = 1) -> Tensor:
        """This region of images (..., H / stride, W / stride)."""
        rows, columns = (slice(s.start // stride, s.stop // stride) for s in (self.rows, self.columns))
        return images[..., rows, columns]


def seen_region(crop: CropForm) -> Region:
    """The hidden rectangle and a margin of 1/16 of the crop, in whole pixels of the coarsest features."""

    def widened(hidden: slice, side: int) -> slice:
        margin = round(_CONTEXT * side)
        start, stop = max(0, hidden.start - margin), min(side, hidden.stop + margin)
        return slice(start // _COARSEST * _COARSEST, -(-stop // _COARSEST) * _COARSEST)

    rows, columns = (widened(*each) for each in zip(crop.hidden_pixels, crop.shape, strict=True))
    down, across = crop.hidden_pixels
    hidden = (
        slice(down.start - rows.start, down.stop - rows.start),
        slice(across.start - columns.start, across.stop - columns.start),
    )
    return Region(rows, columns, hidden)


class ReferenceFeatures(nn.Module):
    """Images (M, 3, H, W) and heatmaps (M, 1, G, G) of references -> features (M, C, H/4, W/4); once per video."""

    def __init__(self, channels: int):
        super().__init__()
        c = channels
        self.first = ConvBlock(2, 3, c // 2, kernel_size=5, stride=2, padding=2)
        self.quarter = ConvBlock(2, c // 2 + 1, c, stride=2)
        self.same = _residual(c, 1)
        self.coarse = nn.Sequential(ConvBlock(2, c, 2 * c, stride=2), *_residual(2 * c, 1))
        self.back = ConvBlock(2, 2 * c, c, kernel_size=1, padding=0, activation=nn.Identity())
        self.last = ConvBlock(2, c, c)

    def forward(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        half = self.first(images)
        drawn = _resized(heatmaps, half.shape[-2:])
        quarter = self.same(self.quarter(torch.cat([half, drawn.to(half.dtype)], dim=1)))
        return self.last(quarter + _enlarged(self.back(self.coarse(quarter))))


class Aligner(nn.Module):
    """Corrects each reference's warp, and weights the references at each pixel.

    Its inputs and outputs have a quarter of the size. For each reference: a displacement, the logit of its share, and
    the logits of three warps to choose from: that of the skin, and those of the upper and of the lower teeth, which
    move with the skull and the jaw and not with the lips.
    """

    def __init__(self, channels: int, seen: int):
        super().__init__()
        c = channels
        self.own = nn.Conv2d(c + seen, c, 3, padding=1)
        self.target = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c)
        self.coarse = nn.Sequential(ConvBlock(2, c, 2 * c, stride=2), *_residual(2 * c, 1))
        self.back = ConvBlock(2, 2 * c, c, kernel_size=1, padding=0, activation=nn.Identity())
        self.last = ConvBlock(2, c, c)
        self.heads = nn.Conv2d(c, 5, 3, padding=1)
        nn.init.zeros_(self.heads.weight)  # training starts from the landmarks' warp
        with torch.no_grad():
            cast(Tensor, self.heads.bias).copy_(torch.tensor([0.0, 0.0, 0.0, _TEETH, _TEETH]))

    def forward(self, references: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """References' inputs (B, N, C + seen, h, w), target features (B, C, h, w) -> features, (B N, 5, h, w)."""
        count = references.shape[1]
        shared = self.target(target)
        x = self.own(references.flatten(0, 1)).unflatten(0, (-1, count)) + shared[:, None]
        x = F.relu(self.norm(x.flatten(0, 1)))
        x = self.last(x + _enlarged(self.back(self.coarse(x))))
        return x, self.heads(x)


class Painter(nn.Module):
    """A U-Net that shades the region, and paints the mouth: teeth and tongue that no reference shows."""

    def __init__(self, channels: int):
        super().__init__()
        c = channels
        self.quarter = ConvBlock(2, 2 * c + 3 * STRIDE**2, 2 * c)
        self.eighth = nn.Sequential(ConvBlock(2, 2 * c, 3 * c, stride=2), *_residual(3 * c, 1))
        self.coarsest = nn.Sequential(ConvBlock(2, 3 * c, 4 * c, stride=2), *_residual(4 * c, 2))
        self.to_eighth = ConvBlock(2, 4 * c, 3 * c, kernel_size=1, padding=0, activation=nn.Identity())
        self.again_eighth = nn.Sequential(*_residual(3 * c, 1))
        self.to_quarter = ConvBlock(2, 3 * c, 2 * c, kernel_size=1, padding=0, activation=nn.Identity())
        self.again_quarter = ConvBlock(2, 2 * c, 2 * c)
        self.shade = nn.Conv2d(2 * c, 3, 3, padding=1)
        self.to_half = ConvBlock(2, 2 * c, 4 * (3 * c // 4), kernel_size=1, padding=0)
        fine = 3 * c // 4
        self.fine = nn.Sequential(ConvBlock(2, fine + 3 * 4 + 1, fine), *_residual(fine, 1))
        self.colours = nn.Conv2d(fine, 3 * 4, 3, padding=1)
        for parameter in (*self.shade.parameters(), *self.colours.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, aligned: Tensor, target: Tensor, drawn: Tensor, copied: Tensor) -> tuple[Tensor, Tensor]:
        """The painted change of the colours (B, 3, h, w), and the shading (B, 3, h/4, w/4).

        Args:
            aligned, target: (B, C, h/4, w/4).
            drawn: (B, 1, h/2, w/2), the heatmap.
            copied: (B, 3, h, w), the blended references.
        """
        x = self.quarter(torch.cat([aligned, target, F.pixel_unshuffle(copied, STRIDE)], dim=1))
        eighth = self.eighth(x)
        coarsest = self.coarsest(eighth)
        eighth = self.again_eighth(F.relu(eighth + _enlarged(self.to_eighth(coarsest))))
        x = self.again_quarter(F.relu(x + _enlarged(self.to_quarter(eighth))))
        half = F.pixel_shuffle(self.to_half(x), 2)
        half = self.fine(torch.cat([half, F.pixel_unshuffle(copied, 2), drawn], dim=1))
        return F.pixel_shuffle(self.colours(half), 2), self.shade(x)


class RegionSynthesizer(FaceSynthesizer):
    """Masked frames, references, landmarks and heatmaps -> faces whose hidden region is generated.

    The visible pixels of a face are those of its frame.
    """

    Config = RegionSynthesizerConfig
    inputs: ClassVar[tuple[str, ...]] = (*FaceSynthesizer.inputs, "landmarks", "reference_landmarks")
    takes_sound: ClassVar[bool] = False
    config: RegionSynthesizerConfig
    keypoints: Tensor
    coarse: Tensor
    pixels: Tensor

    def __init__(self, config: RegionSynthesizerConfig):
        nn.Module.__init__(self)
        _check(config)
        self.config = config
        self.bgr, self.heatmap_channels = False, 1
        self.region = seen_region(config.crop)
        self.spatial = self.temporal = self.mutual_information = None
        c = scaled(32, config.width)
        self.references = ReferenceFeatures(c)
        self.target = ConvBlock(2, 3 * STRIDE**2 + (STRIDE // 2) ** 2, c)
        self.aligner = Aligner(c, 6)  # channels of `RegionWarp.seen`
        self.painter = Painter(c)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())
        self.unlikeness = nn.Parameter(torch.tensor(_UNLIKENESS).log())
        self.register_buffer("keypoints", torch.tensor(KEYPOINTS), persistent=False)
        self.parts = FaceParts()
        self.register_buffer("coarse", centres(config.crop, *self.region[:2], STRIDE), persistent=False)
        whole = slice(0, config.crop.height), slice(0, config.crop.width)
        self.register_buffer("pixels", centres(config.crop, *whole, 1), persistent=False)

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
        """As `FaceSynthesizer.forward`; `audio` (B, T, C, W) is not read.

        Args:
            landmarks, reference_landmarks: (B, T, 131, 2) and (B, N, 131, 2) in units of the crop, through which the
                heatmaps are drawn. ValueError where they are None.
        """
        references = self.encode_references(reference_images, reference_heatmaps, reference_landmarks)
        made = self.render(frames, heatmaps, references, audio, landmarks, alignment=alignment or flow_only)
        return made[1] if flow_only else made

    def encode_references(
        self, reference_images: Tensor, reference_heatmaps: Tensor, reference_landmarks: Tensor | None = None
    ) -> References:
        """The part of `forward` that depends only on the references; in dubbing, once a video.

        The result's `temporal` holds the references' features (B, N, C, H/4, W/4), images and landmarks.
        """
        others = _given(reference_landmarks)
        shape = reference_images.shape[:2]
        features = self.references(reference_images.flatten(0, 1), reference_heatmaps.flatten(0, 1))
        return References([], [], [features.unflatten(0, shape), reference_images, others])

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
        """As `forward`, with `encode_references`' result for the B windows, of any number of references."""
        faces, full, weights, start, chosen = self._rendered(frames, heatmaps, references, landmarks)
        if not alignment:
            return faces
        return faces, Alignment(None, *self._whole(full, weights, start, frames.shape[:2]), chosen)

    def render_with_flow(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        references: References,
        audio: Tensor,
        landmarks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """See `FaceSynthesizer`."""
        faces, full, _, _, chosen = self._rendered(frames, heatmaps, references, landmarks)
        return faces, full[..., *self.region.hidden].unflatten(0, frames.shape[:2]), chosen

    def _rendered(
        self, frames: Tensor, heatmaps: Tensor, references: References, landmarks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, RegionWarp, Tensor | None]:
        """Faces; sampling points and weights of the region's pixels, the landmarks' warp; `Alignment.chosen`."""
        shape, landmarks = frames.shape[:2], _given(landmarks)
        features, images, others = references.repeat(shape[1]).temporal
        frames, heatmaps, landmarks = (x.flatten(0, 1) for x in (frames, heatmaps, landmarks))
        crop, region = self.config.crop, self.region

        seen = region.of(frames).clone()
        seen[..., *region.hidden] = 0
        drawn = region.of(_resized(heatmaps, (crop.height // 2, crop.width // 2)), 2).to(seen.dtype)
        target = self.target(torch.cat([F.pixel_unshuffle(seen, STRIDE), F.pixel_unshuffle(drawn, STRIDE // 2)], dim=1))

        unlike = unlike_references(landmarks.detach(), others, self.parts)
        chosen = None
        if others.shape[1] > self.config.references:
            chosen = (unlike.lips + unlike.pose).topk(self.config.references, dim=1, largest=False).indices
            features, images, others = (_taken(x, chosen) for x in (features, images, others))
            unlike = Unlikeness(*(_taken(x, chosen) for x in unlike))
        start = region_warp(landmarks, others, self.coarse, self.parts)
        own = torch.cat([_sampled(features, start.skin), start.seen(_STEP)], dim=2)
        aligned, heads = self.aligner(own, target)
        grid, logits = self._moved(start, heads.unflatten(0, own.shape[:2]))
        logits = self.sharpness.exp() * logits - self.unlikeness.exp() * unlike.at(start.around)
        shares = logits.softmax(dim=1)  # (B, N, 1, h/4, w/4)
        pooled = (aligned.unflatten(0, shares.shape[:2]) * shares).sum(dim=1)
        full, weights = self._full_size(grid), _enlarged(shares.flatten(0, 1), STRIDE).unflatten(0, shares.shape[:2])
        copied = _blended(images, full, weights).to(seen.dtype)

        painted, shade = self.painter(pooled, target, drawn, copied)
        enlarged = _enlarged(torch.cat([shade, start.mouth.to(shade.dtype)], dim=1), STRIDE)
        hidden = _over(painted, enlarged[:, 3:], copied, enlarged[:, :3])[..., *region.hidden]
        faces = frames.clone()
        faces[..., *crop.hidden_pixels] = hidden.to(faces.dtype)
        chosen = chosen if chosen is None else chosen.unflatten(0, shape)
        return faces.unflatten(0, shape), full, weights, start, chosen

    def whole_faces(self, landmarks: Tensor, keypoints: Tensor) -> Tensor:
        """Landmarks (..., 131, 2) with the predicted keypoints (..., 57, 2) in place of their own."""
        dtype = torch.promote_types(landmarks.dtype, keypoints.dtype)  # half precision would round to half pixels
        return landmarks.to(dtype).index_copy(-2, self.keypoints, keypoints.to(dtype))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters of the references' features and of the aligner, which every loss term's gradient may reach."""
        return [parameter for part in (self.references, self.aligner) for parameter in part.parameters()]

    def _moved(self, start: RegionWarp, heads: Tensor) -> tuple[Tensor, Tensor]:
        """The aligner's outputs (B, N, 5, h, w) -> sampling points (B, N, 2, h, w) and the shares' logits."""
        heads = full_precision(heads)
        shift, logits, teeth = heads.split([2, 1, 2], dim=2)
        skull, jaw = torch.cat([torch.zeros_like(logits), teeth], dim=2).softmax(dim=2)[:, :, 1:].split(1, dim=2)
        grid = start.skin + skull * (start.skull - start.skin) + jaw * (start.jaw - start.skin)
        return grid + 2 * _STEP * shift, logits

    def _full_size(self, grid: Tensor) -> Tensor:
        """Sampling points (B, N, 2, h, w) of the flow's pixels -> those of the region's."""
        moved = _enlarged((grid - self.coarse).flatten(0, 1), STRIDE).unflatten(0, grid.shape[:2])
        return self.region.of(self.pixels) + moved

    def _whole(self, grid: Tensor, weights: Tensor, start: RegionWarp, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """`Alignment`'s grid and weights of a whole crop, outside the region those of an affine map and equal."""
        crop, region = self.config.crop, self.region
        whole = start.affine(self.pixels)
        whole[..., region.rows, region.columns] = grid
        shares = whole.new_full((*whole.shape[:2], 1, *crop.shape), 1 / whole.shape[1])
        shares[..., region.rows, region.columns] = weights
        return whole.unflatten(0, shape), shares.unflatten(0, shape)


def _given(landmarks: Tensor | None) -> Tensor:
    if landmarks is None:
        raise ValueError("form region takes landmarks and reference_landmarks; give both")
    return landmarks


def _taken(x: Tensor, chosen: Tensor) -> Tensor:
    """For each of B frames, K of x (B, N, ...), by their indices (B, K): (B, K, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], chosen]


def _residual(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ConvBlock(2, channels, channels, residual=True) for _ in range(count)))


def _resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Heatmaps (M, 1, G, G) with the height and width `shape`."""
    return x if x.shape[-2:] == shape else F.interpolate(x, size=shape, mode="bilinear")


def _enlarged(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")


def _sampled(features: Tensor, grid: Tensor) -> Tensor:
    """Features (B, N, C, H, W) at the points (B, N, 2, h, w): (B, N, C, h, w)."""
    return torch.stack([_read(*pair) for pair in zip(features.unbind(1), grid.unbind(1), strict=True)], dim=1)


def _blended(images: Tensor, grid: Tensor, shares: Tensor) -> Tensor:
    """Images (B, N, 3, H, W) at the points (B, N, 2, h, w), summed by the shares (B, N, 1, h, w): (B, 3, h, w)."""
    total = grid.new_zeros(())
    # One reference at a time: images that the frames of a video share are then read in place instead of copied.
    for image, points, share in zip(images.unbind(1), grid.unbind(1), shares.unbind(1), strict=True):
        total = torch.addcmul(total, _read(image, points), share)
    return total


def _read(features: Tensor, points: Tensor) -> Tensor:
    """Features (B, C, H, W) at the points (B, 2, h, w), x and y in [-1, 1]; the edge's beyond it."""
    places = points.permute(0, 2, 3, 1)
    return F.grid_sample(features.to(points.dtype), places, padding_mode="border", align_corners=False)


def _over(painted: Tensor, mouth: Tensor, copied: Tensor, shade: Tensor) -> Tensor:
    """Colours in [0, 1] (B, 3, h, w): the shaded copy, changed by the painting within the `mouth` (B, 1, h, w).

    Nothing can blend the copy with a blurred one, which pixel losses prefer to a sharp face. Training starts from the
    copy. Computed in float32: bfloat16 resolves half of an image's grey levels.
    """
    painted, mouth, copied, shade = (full_precision(x) for x in (painted, mouth, copied, shade))
    return (copied + _SHADE * shade + _PAINT * mouth * painted).clamp(0, 1)


def _check(config: RegionSynthesizerConfig) -> None:
    check_positive(config, "width", "references", "bank")
    if config.spatial or not config.temporal or config.mutual_information:
        raise ValueError("form region has the temporal path alone; leave spatial, temporal and mutual_information out")
    for name in ("height", "width"):
        if getattr(config.crop, name) % _COARSEST:
            raise ValueError(
                f"crop.{name} is {getattr(config.crop, name)}; form region needs a multiple of {_COARSEST}"
            )
