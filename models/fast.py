"""Faster forms of the face synthesizers for inference. They compute the same faces.

`accelerate_inference` copies a trained network and replaces blocks by others that compute the same numbers in fewer
operations and fewer passes over memory:

- a batch norm's scale and shift move into the convolution before it;
- where no ReLU lies between SPADE's two convolutions, their 5x5 kernels are folded once instead of at every call;
- the released form's three equal heatmap channels are summed to one in the weights;
- the references' first instance norm in the flow predictor is computed once a video, and no frame copies the
  references' features;
- tensors are channels last in memory, and element-wise steps write in place.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.face_synthesizer import FaceSynthesizer, TemporalPath
from models.g4g import G4GSynthesizer
from models.layers import ConvBlock
from models.modulation import AdaInNorm, ModulatedBlock, Modulation, SpadeNorm, apply_folded, fold_kernels
from models.spatial import AdaAT, PreActivationBlock
from models.temporal import FlowPredictor

Synthesizer = TypeVar("Synthesizer", bound=FaceSynthesizer | G4GSynthesizer)

_EPSILON = 1e-5  # of instance norm, PyTorch's default


@torch.no_grad()
def accelerate_inference(synthesizer: Synthesizer) -> Synthesizer:
    """Return a copy of `synthesizer` in eval mode, for inference only, that computes the same faces faster.

    Its `render` takes the result of its own `encode_references` only: the contents differ from the original's.
    """
    fast = copy.deepcopy(synthesizer).eval().requires_grad_(False)
    if isinstance(fast, FaceSynthesizer):
        if fast.heatmap_channels > 1:
            _sum_heatmap_channels(fast)
        if fast.temporal is not None:
            fast.temporal = FastTemporalPath(fast.temporal)
    _exchange(fast)
    return cast(Synthesizer, fast.to(memory_format=torch.channels_last))


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast of products on `device` to `dtype` for inference; None keeps float32."""
    # Without a cache: a graph must not read cast weights from memory outside of it.
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False)


def forbid_tf32() -> None:
    """Make CUDA's convolutions use float32 instead of TF32, which has 13 bits fewer; for the whole process."""
    torch.backends.cudnn.allow_tf32 = False


def graphed(run: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Record `run(*inputs)` once as a CUDA graph; the returned function copies its arguments into it and replays it.

    Arguments must have the shapes of `inputs`. All other tensors that `run` reads must stay at their addresses. The
    next call overwrites the returned tensors.
    """
    static = [value.clone() for value in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(*static)

    def replay(*inputs: Tensor) -> Any:
        for target, value in zip(static, inputs, strict=True):
            target.copy_(value)
        graph.replay()
        return output

    return replay


def padded(tensor: Tensor, length: int) -> Tensor:
    """`tensor` (n, ...) with its last entry repeated up to `length` entries, the batch size of a graph."""
    missing = length - len(tensor)
    return tensor if missing <= 0 else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


def _exchange(module: nn.Module) -> None:
    """Replace each block below `module` that has a fast form."""
    for name, child in module.named_children():
        fast = _FAST_BLOCKS.get(type(child))
        if fast is not None:
            setattr(module, name, fast(child))
        else:
            _exchange(child)


def _sum_heatmap_channels(network: FaceSynthesizer) -> None:
    channels = network.heatmap_channels
    if network.spatial is not None:
        _sum_groups(network.spatial.target_heatmap.scale_1.conv, 0, channels)
        _sum_groups(network.spatial.reference_heatmaps.scale_1.conv, 0, channels)
    if network.temporal is not None:
        _sum_groups(network.temporal.encoder.scale_1.conv, 3, channels)
        for norm in network.temporal.flow_predictor.modules():
            if isinstance(norm, SpadeNorm):
                _sum_groups(norm.shared, 0, channels)
    _sum_groups(cast(ConvBlock, network.generator.encoder[0]).conv, 3, channels)
    network.heatmap_channels = 1


def _sum_groups(conv: nn.Conv1d | nn.Conv2d, start: int, group: int) -> None:
    """From input channel `start` on, sum the kernels of each `group` channels, whose inputs are always equal."""
    weight = conv.weight
    summed = weight[:, start:].unflatten(1, (-1, group)).sum(dim=2)
    conv.weight = nn.Parameter(torch.cat([weight[:, :start], summed], dim=1), requires_grad=False)
    conv.in_channels = conv.weight.shape[1]


class FastConvBlock(nn.Module):
    """`ConvBlock` with its batch norm inside the convolution."""

    def __init__(self, block: ConvBlock):
        super().__init__()
        self.conv = fuse_conv_bn_eval(block.conv, block.norm)
        self.residual = block.residual
        self.activation = nn.ReLU(inplace=True) if isinstance(block.activation, nn.ReLU) else block.activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.activation(y.add_(x) if self.residual else y)


class FastPreActivationBlock(nn.Module):
    """`PreActivationBlock` with its second batch norm inside the first convolution."""

    scale: Tensor
    shift: Tensor

    def __init__(self, block: PreActivationBlock):
        super().__init__()
        norm = block.norm_1
        assert norm.running_mean is not None and norm.running_var is not None  # `nn.BatchNorm2d`'s default
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale)[:, None, None])
        self.conv_1 = fuse_conv_bn_eval(block.conv_1, block.norm_2)
        self.conv_2 = block.conv_2

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(torch.addcmul(self.shift, x, self.scale).relu_())
        return self.conv_2(y.relu_()).add_(x)


class FastAdaAT(nn.Module):
    """`AdaAT` whose result has the memory layout of the convolutions after it."""

    def __init__(self, adaat: AdaAT):
        super().__init__()
        self.adaat = adaat

    def blend(self, features: Tensor) -> Tensor:
        return self.adaat.blend(features).contiguous()  # it samples channel by channel

    def forward(self, blended: Tensor, code: Tensor) -> Tensor:
        return self.adaat(blended, code).contiguous(memory_format=torch.channels_last)


class FastModulatedBlock(nn.Module):
    """`ModulatedBlock` with gamma + 1 in place of gamma, norms in few passes, and kernels folded where possible."""

    def __init__(self, block: ModulatedBlock):
        super().__init__()
        self.norm_1, self.norm_2 = _folded(block.norm_1), _folded(block.norm_2)
        self.conv_1, self.conv_2 = block.conv_1, block.conv_2

    def forward(self, x: Tensor, condition: Tensor, normalised: bool = False) -> Tensor:
        """As `ModulatedBlock`; may overwrite x. `normalised` x (B, N, C, H, W) skips the first norm and is kept."""
        size = x.shape[-2:]
        first, second = self.norm_1.modulation(condition, size), self.norm_2.modulation(condition, size)
        x = _scale_shift_activate(x, first) if normalised else _modulate(x, first)
        return self.conv_2(_modulate(self.conv_1(x), second))


def _folded(norm: SpadeNorm | AdaInNorm) -> "SpadeNorm | AdaInNorm | FoldedSpadeNorm":
    """`norm` with gamma + 1 in place of gamma, and with its kernels folded where possible."""
    bias = norm.gamma_beta.bias
    assert bias is not None  # PyTorch's default
    bias[: len(bias) // 2] += 1
    return FoldedSpadeNorm(norm) if isinstance(norm, SpadeNorm) and norm.folds else norm


class FoldedSpadeNorm(nn.Module):
    """`SpadeNorm` with its nine 5x5 kernels computed in advance."""

    def __init__(self, norm: SpadeNorm):
        super().__init__()
        kernels, biases = fold_kernels(norm.shared, norm.gamma_beta)
        for row in range(3):
            for column in range(3):
                self.register_buffer(f"kernel_{row}{column}", kernels[row][column])
                self.register_buffer(f"bias_{row}{column}", biases[row][column])

    def modulation(self, condition: Tensor, size: tuple[int, ...]) -> Modulation:
        condition = F.interpolate(condition, size=size, mode="nearest") if condition.shape[-2:] != size else condition
        kernels, biases = (
            [[getattr(self, f"{name}_{row}{column}") for column in range(3)] for row in range(3)]
            for name in ("kernel", "bias")
        )
        gamma, beta = apply_folded(condition, kernels, biases).chunk(2, dim=1)
        return gamma, beta


def _modulate(x: Tensor, modulation: Modulation) -> Tensor:
    """Instance norm, x gamma + beta with gamma of mean 1, LeakyReLU 0.2; may overwrite x (B N, C, H, W)."""
    gamma, beta = modulation
    if x.dtype.itemsize < 4 or x.is_cuda:
        return _scale_shift_activate(F.instance_norm(x).unflatten(0, (len(gamma), -1)), modulation)
    mean, inverse = _statistics(x)
    if gamma.shape[-2:] == (1, 1):  # both are one scale and one shift a channel
        mean, inverse = (part.unflatten(0, (len(gamma), -1)) for part in (mean, inverse))
        gamma = gamma[:, None] * inverse
        beta = beta[:, None] - mean * gamma
        return F.leaky_relu_(torch.addcmul(beta.flatten(0, 1), x, gamma.flatten(0, 1)), 0.2)
    normalised = torch.addcmul(-mean * inverse, x, inverse, out=x)
    return _scale_shift_activate(normalised.unflatten(0, (len(gamma), -1)), modulation)


def _scale_shift_activate(x: Tensor, modulation: Modulation) -> Tensor:
    """Normalised x (B, N, C, H, W) -> LeakyReLU 0.2 of x gamma + beta, (B N, C, H, W)."""
    gamma, beta = (part[:, None].to(x.dtype) for part in modulation)
    return F.leaky_relu_(torch.addcmul(beta, x, gamma).flatten(0, 1), 0.2)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's and channel's mean and 1 / standard deviation (M, C, 1, 1), of x (M, C, H, W).

    Two sums, several times faster on a CPU than the running update of `torch.var_mean`. Both subtract the mean of a few
    pixels, so that nothing cancels where the mean is far from zero.
    """
    about = x[:, :, ::8, ::8].mean(dim=(2, 3), keepdim=True)
    centred = x - about
    offset = centred.mean(dim=(2, 3), keepdim=True)
    variance = centred.square_().mean(dim=(2, 3), keepdim=True) - offset.square()
    return about + offset, torch.rsqrt(variance + _EPSILON)


class FastFlowPredictor(nn.Module):
    """`FlowPredictor` with the first convolutions of its two heads in one; also takes normalised features."""

    def __init__(self, predictor: FlowPredictor):
        super().__init__()
        self.spade_1 = FastModulatedBlock(predictor.spade_1)
        self.adain_1 = FastModulatedBlock(predictor.adain_1)
        self.spade_2 = FastModulatedBlock(predictor.spade_2)
        self.adain_2 = FastModulatedBlock(predictor.adain_2)
        self.spade_3 = FastModulatedBlock(predictor.spade_3)
        flow, first = predictor.flow, cast(nn.Conv2d, predictor.weight[0])
        assert flow.bias is not None and first.bias is not None  # `nn.Conv2d`'s default
        self.heads = copy.deepcopy(first)
        self.heads.weight = nn.Parameter(torch.cat([flow.weight, first.weight]), requires_grad=False)
        self.heads.bias = nn.Parameter(torch.cat([flow.bias, first.bias]), requires_grad=False)
        self.weight = predictor.weight[1:]

    def forward(
        self, features: Tensor, heatmaps: Tensor, audio: Tensor, normalised: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `FlowPredictor.forward`; `normalised` features are (B, N, C, H/2, W/2), after the first instance norm."""
        # A copy, since the blocks write in place.
        x = features if normalised else features.clone(memory_format=torch.channels_last)
        x = self.spade_1(x, heatmaps, normalised)
        x = self.adain_1(x, audio)
        x = self.spade_2(x, heatmaps)
        x = self.adain_2(x, audio)
        x = self.spade_3(F.pixel_shuffle(x, 2), heatmaps)
        flows, weights = self.heads(x).tensor_split([2], dim=1)
        return flows, self.weight(weights)


class FastTemporalPath(TemporalPath):
    """`TemporalPath` that normalises the references' features once a video and copies none of them for a frame."""

    def __init__(self, path: TemporalPath):
        nn.Module.__init__(self)
        self.grid, self.encoder, self.flow_predictor = path.grid, path.encoder, path.flow_predictor

    def encode(self, images: Tensor, heatmaps: Tensor) -> list[Tensor]:
        """As `TemporalPath.encode`, with the half-size features after their first instance norm as a last entry."""
        features = super().encode(images, heatmaps)
        normalised = F.instance_norm(features[1].flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        return [*features, normalised.unflatten(0, images.shape[:2])]

    def predict_flows(self, references: list[Tensor], heatmaps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """As `TemporalPath.predict_flows`, by a `FastFlowPredictor`."""
        return self.flow_predictor(references[3], heatmaps, audio, normalised=True)


_FAST_BLOCKS = {
    ConvBlock: FastConvBlock,
    PreActivationBlock: FastPreActivationBlock,
    AdaAT: FastAdaAT,
    ModulatedBlock: FastModulatedBlock,
    FlowPredictor: FastFlowPredictor,
}
