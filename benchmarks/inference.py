"""Measure the cost of a frame in the plain and in the fast form of a method's networks, and the forms' difference.

    python -m benchmarks.inference                      # STSA's released networks' form at the paper's size
    python -m benchmarks.inference --config checkpoints/demo/config.yaml
    python -m benchmarks.inference --network g4g        # G4G at its paper's 416x320, as in configs/g4g.yaml

The plain form follows the reference code: every frame encodes the references again, the predictor decodes a window of T
frames and uses one of them, and SPADE's two convolutions run for each reference. The fast form is that of inference.py:
it encodes references once a video and uses `accelerate_inference`, `encode_frames` and `predict_centre`. Weights are
random with the statistics of trained ones, so no checkpoint is needed. The forms are timed in turns, and the best time
of each counts. The bf16 form is left out on a CPU without bf16 instructions.
"""

import argparse
import copy
import dataclasses
import functools
import sys
import time
from collections.abc import Callable

from media.crop import CROPS, CropForm
from media.errors import Parser, command, positive, quick_help
from models.devices import usable_device


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", help="a checkpoint's config.yaml; default: the released form at the paper's size")
    parser.add_argument("--network", choices=("stsa", "g4g"), default="stsa", help="the method (default: stsa)")
    parser.add_argument(
        "--crop", choices=[*CROPS], help="form of the crops, where no --config is given (default: that of --network)"
    )
    parser.add_argument("--width", type=float, default=1.0, help="factor of the channels, where no --config is given")
    parser.add_argument("--batch", type=positive, default=4, help="frames of the second measurement")
    parser.add_argument("--threads", type=positive, help="CPU threads; default: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each form is run, three times over")
    parser.add_argument("--device", type=usable_device, metavar="cpu|cuda", help="default: both, where CUDA is there")
    return parser.parse_args(arguments)


import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_memory, reset_peak
from media.audio import FEATURES
from media.heatmap import ORDER
from models.checkpoint import Network, build_network, network_config
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.fast import accelerate_inference, autocast, forbid_tf32, graphed
from models.g4g import G4GConfig, G4GSynthesizer
from models.guidance import guidance, inputs_of, takes_landmarks
from models.heatmap_predictor import HeatmapPredictorConfig, WindowEncoder
from models.modulation import SpadeNorm
from models.temporal import FlowPredictor


@dataclasses.dataclass
class Inputs:
    """Consecutive frames of one video, (1, frames, ...), and the references of the video."""

    frames: Tensor
    heatmaps: Tensor
    audio: Tensor
    predictor_audio: Tensor
    reference_images: Tensor
    reference_heatmaps: Tensor
    landmarks: Tensor
    reference_landmarks: Tensor


class PlainFlowPredictor(nn.Module):
    """`FlowPredictor` as in the reference code: one reference after the other, each with its own modulations."""

    def __init__(self, predictor: FlowPredictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, features: Tensor, heatmaps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """As `FlowPredictor.forward`."""
        apart = features.unflatten(0, (len(heatmaps), -1)).unbind(1)
        predicted = [self.predictor(feature, heatmaps, audio) for feature in apart]
        flows, logits = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*predicted, strict=True))
        return flows, logits


class PlainDubbing:
    """Both networks in the plain form."""

    def __init__(self, predictor: WindowEncoder, synthesizer: FaceSynthesizer):
        self.predictor, self.synthesizer = predictor, copy.deepcopy(synthesizer)
        if self.synthesizer.temporal is not None:
            temporal = self.synthesizer.temporal
            temporal.add_module("flow_predictor", PlainFlowPredictor(temporal.flow_predictor))
        for module in self.synthesizer.modules():
            if isinstance(module, SpadeNorm):
                module.folds = False

    def prepare(self, inputs: Inputs) -> None:
        """Does nothing: the plain form keeps nothing between frames."""

    def dub(self, inputs: Inputs) -> Tensor:
        count = inputs.frames.shape[1]
        windows = _windows(count, self.predictor.config.frames, inputs.frames.device)
        references = inputs.reference_heatmaps.expand(count, -1, -1, -1, -1)
        poses, audio = inputs.heatmaps[0][windows], inputs.predictor_audio[0][windows]
        centre = windows.shape[1] // 2
        reference_landmarks = inputs.reference_landmarks.expand(count, -1, -1, -1)
        given = {"landmarks": inputs.landmarks[0][windows], "reference_landmarks": reference_landmarks}
        predicted, keypoints = self.predictor(audio, poses, references, *inputs_of(self.predictor, given))
        heatmaps, further = guidance(self.synthesizer, predicted[:, centre], keypoints[:, centre], inputs.landmarks[0])
        images = inputs.reference_images.expand(count, -1, -1, -1, -1)
        own = inputs.frames[0], heatmaps, inputs.audio[0], *further
        frames, heatmaps, audio, *further = (x[:, None] for x in own)
        further += [reference_landmarks] if further else []
        return self.synthesizer(frames, heatmaps, images, references, audio, *further)[:, 0][None]


class FastDubbing:
    """Both networks in the fast form, as in inference.py."""

    def __init__(self, predictor: WindowEncoder, synthesizer: FaceSynthesizer):
        self.predictor, self.synthesizer = predictor, accelerate_inference(synthesizer)

    def prepare(self, inputs: Inputs) -> None:
        """Encode the references, once a video."""
        self.reference_tokens = self.predictor.encode_references(inputs.reference_heatmaps)
        further = inputs_of(self.synthesizer, {"reference_landmarks": inputs.reference_landmarks})
        shown = inputs.reference_images, inputs.reference_heatmaps, *further
        self.references = self.synthesizer.encode_references(*shown)

    def dub(self, inputs: Inputs) -> Tensor:
        poses = inputs.heatmaps[0]
        tokens = self.predictor.encode_frames(inputs.predictor_audio[0], poses)
        windows = _windows(len(poses), self.predictor.config.frames, poses.device)
        given = {"landmarks": inputs.landmarks[0], "reference_landmarks": inputs.reference_landmarks}
        heatmaps, keypoints = self.predictor.predict_centre(
            tokens[windows],
            self.reference_tokens,
            poses,
            *inputs_of(self.predictor, given),
            keypoints=takes_landmarks(self.synthesizer),
        )
        heatmaps, further = guidance(self.synthesizer, heatmaps, keypoints, inputs.landmarks[0])
        placed = [x[None] for x in further]
        faces = self.synthesizer.render(inputs.frames, heatmaps[None], self.references, inputs.audio, *placed)
        assert isinstance(faces, Tensor)  # a pair only with `alignment`
        return faces


class PlainG4G:
    """G4G's network, which encodes the references again for every frame."""

    def __init__(self, synthesizer: G4GSynthesizer):
        self.synthesizer = synthesizer

    def prepare(self, inputs: Inputs) -> None:
        """Does nothing: the plain form keeps nothing between frames."""

    def dub(self, inputs: Inputs) -> Tensor:
        count = inputs.frames.shape[1]
        shown = (x.expand(count, -1, -1, -1, -1) for x in (inputs.reference_images, inputs.reference_heatmaps))
        faces = self.synthesizer(inputs.frames[0][:, None], *shown, inputs.audio[0][:, None])
        assert isinstance(faces, Tensor)  # a pair only with `alignment`
        return faces[:, 0][None]


class FastG4G:
    """G4G's network in the fast form, as in inference.py."""

    def __init__(self, synthesizer: G4GSynthesizer):
        self.synthesizer = accelerate_inference(synthesizer)

    def prepare(self, inputs: Inputs) -> None:
        """Encode the references, once a video."""
        self.references = self.synthesizer.encode_references(inputs.reference_images, inputs.reference_heatmaps)

    def dub(self, inputs: Inputs) -> Tensor:
        faces = self.synthesizer.render(inputs.frames, self.references, inputs.audio)
        assert isinstance(faces, Tensor)
        return faces


def _windows(count: int, length: int, device: torch.device) -> Tensor:
    """(count, length) indices of each frame's window; the first and last frames are repeated at the ends."""
    centres = torch.arange(count, device=device)[:, None]
    return (centres + torch.arange(length, device=device) - length // 2).clamp(0, count - 1)


def trained_like(network: Network) -> Network:
    """Fill `network` in place with random weights that have a trained network's statistics, and set it to eval mode.

    Convolutions keep the variance, batch norms are not the identity, AdaAT's maps are close to it and flows are a few
    pixels.
    """
    random = torch.Generator().manual_seed(0)
    near_identity = ("scale", "rotation", "translation")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.dim() > 1:
                gain = 0.1 if "adaat." in name and name.split(".")[-2] in near_identity else 1.0
                parameter.copy_(noise * gain * (1.5 / parameter[0].numel()) ** 0.5)
            else:
                is_scale = name.endswith("weight")
                parameter.copy_(1 + 0.1 * noise if is_scale else 0.05 * noise)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=random))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=random))
    return network.eval()


def random_inputs(
    predictor: WindowEncoder | None, synthesizer: FaceSynthesizer | G4GSynthesizer, frames: int, seed: int = 0
) -> Inputs:
    """Smooth images and sparse heatmaps of the networks' sizes; G4G has no predictor."""
    random = torch.Generator().manual_seed(seed)
    crop, references = synthesizer.config.crop, synthesizer.config.references

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, 3, crop.height // 8, crop.width // 8, generator=random)
        return F.interpolate(coarse, size=crop.shape, mode="bicubic").clamp(0, 1)[None]

    def heatmaps(count: int) -> Tensor:
        return torch.rand(1, count, 1, crop.guidance, crop.guidance, generator=random) ** 8

    def audio(kind: str) -> Tensor:
        return torch.randn(1, frames, *FEATURES[kind], generator=random)

    def landmarks(count: int) -> Tensor:
        face = torch.rand(1, 1, len(ORDER), 2, generator=random)
        return face + 0.02 * torch.randn(1, count, len(ORDER), 2, generator=random)

    return Inputs(
        images(frames),
        heatmaps(frames),
        audio(synthesizer.config.audio),
        audio((predictor or synthesizer).config.audio),
        images(references),
        heatmaps(references),
        landmarks(frames),
        landmarks(references),
    )


def _graphed(dub: Callable[[Inputs], Tensor], inputs: Inputs) -> Callable[[Inputs], Tensor]:
    replay = graphed(lambda *tensors: dub(Inputs(*tensors)), list(vars(inputs).values()))
    return lambda inputs: replay(*vars(inputs).values())


def measure(run: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Best wall-clock seconds of `run` within about `seconds`, at least two runs."""
    best, start = float("inf"), time.perf_counter()
    repeats = 0
    while repeats < 2 or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, repeats = min(best, time.perf_counter() - began), repeats + 1
    return best


def count_gflop(run: Callable[[], object]) -> float:
    """10^9 operations of `run`, a multiply-add counted as two; convolutions and matrix products only."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def load_configs(
    path: str | None, width: float, crop: CropForm
) -> tuple[HeatmapPredictorConfig, FaceSynthesizerConfig]:
    """The networks' configs: of a checkpoint's config.yaml, or the released forms at `width` on crops of `crop`."""
    if path is None:
        predictor = dataclasses.replace(HeatmapPredictorConfig.released(), width=width, crop=crop)
        return predictor, dataclasses.replace(FaceSynthesizerConfig.released(width=width), crop=crop)
    return network_config(path, "heatmap_predictor"), network_config(path, "face_synthesizer")


def g4g_config(path: str | None, width: float, crop: CropForm) -> G4GConfig:
    """G4G's config: of a checkpoint's config.yaml, or the paper's network at `width` on crops of `crop`."""
    if path is not None:
        return network_config(path, "g4g_synthesizer")
    return G4GConfig(width=width, crop=crop, stride=4 if crop.framing == "dinet" else 2)  # as in configs/


@torch.inference_mode()
def compare(
    predictor: WindowEncoder | None,
    synthesizer: FaceSynthesizer | G4GSynthesizer,
    frames: int,
    device: torch.device,
    seconds: float,
) -> list[str]:
    """Measure every form on `frames` consecutive frames; returns the lines of the table."""
    inputs = random_inputs(predictor, synthesizer, frames)
    inputs = Inputs(*(value.to(device) for value in vars(inputs).values()))
    synthesizer = synthesizer.to(device)
    plain: PlainDubbing | PlainG4G
    fast: FastDubbing | FastG4G
    if isinstance(synthesizer, G4GSynthesizer):
        plain, fast = PlainG4G(synthesizer), FastG4G(synthesizer)
    else:
        assert predictor is not None
        predictor = predictor.to(device)
        plain, fast = PlainDubbing(predictor, synthesizer), FastDubbing(predictor, synthesizer)
    forms: dict[str, Callable[[Inputs], Tensor]] = {"plain": plain.dub, "fast": fast.dub}
    fast.prepare(inputs)
    # A CPU without bf16 instructions takes eight times as long as with float32.
    if device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        forms["fast bf16"] = _autocast(fast.dub, torch.bfloat16)
    if device.type == "cuda":
        forms["fast fp16"] = _autocast(fast.dub, torch.float16)
        forms |= {f"{name} graph": _graphed(dub, inputs) for name, dub in forms.items() if name != "plain"}

    expected = plain.dub(inputs)
    gflop = {
        name: count_gflop(functools.partial(dub, inputs)) / frames
        for name, dub in (("plain", plain.dub), ("fast", fast.dub))
    }
    times = dict.fromkeys(forms, float("inf"))
    for _ in range(3):  # in turns, so that other load on the machine affects every form
        for name, dub in forms.items():
            times[name] = min(times[name], measure(functools.partial(dub, inputs), device, seconds))
    lines = []
    for name, dub in forms.items():
        replayed = name.endswith("graph")  # runs in the memory that its recording allocated
        reset_peak(device)
        difference = (dub(inputs) - expected).abs().max().item()
        memory = "-" if replayed else f"{peak_memory(device) / 1024:.2f}"
        per_frame = times[name] / frames
        lines.append(
            f"{device.type:5s} {frames:6d}  {name:16s} {gflop[name.split()[0]]:10.1f} {1e3 * per_frame:10.1f} "
            f"{1 / per_frame:9.2f} {times['plain'] / times[name]:8.2f} {memory:>8s} {difference:11.1e}"
        )
    once = count_gflop(lambda: fast.prepare(inputs))
    lines.append(f"{device.type:5s}         once a video  {once:13.1f}")
    return lines


def _autocast(dub: Callable[[Inputs], Tensor], dtype: torch.dtype) -> Callable[[Inputs], Tensor]:
    def run(inputs: Inputs) -> Tensor:
        with autocast(inputs.frames.device, dtype):
            return dub(inputs).float()

    return run


@command
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    forbid_tf32()  # its error would exceed the forms' difference
    crop = CROPS[options.crop or options.network]  # the methods' names are those of their crops
    predictor: WindowEncoder | None = None
    if options.network == "g4g":
        synthesizer = trained_like(build_network("g4g_synthesizer", g4g_config(options.config, options.width, crop)))
    else:
        predictor_config, synthesizer_config = load_configs(options.config, options.width, crop)
        predictor = trained_like(build_network("heatmap_predictor", predictor_config))
        synthesizer = trained_like(build_network("face_synthesizer", synthesizer_config))
    names = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    devices = [options.device] if options.device else [torch.device(name) for name in names]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    print("device frames form             GFLOP/frame   ms/frame  frames/s   x plain      GiB  max. diff.")
    for device in devices:
        for frames in sorted({1, options.batch}):
            for line in compare(predictor, synthesizer, frames, device, options.seconds):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
