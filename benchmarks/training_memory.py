"""GPU memory that training takes: what the backward pass needs of each window, and the states.

    python -m benchmarks.training_memory                  # computed without a GPU
    python -m benchmarks.training_memory --device cuda    # measured

The networks have the paper's size. Computed: they run on tensors without data, which count what autograd keeps: of the
network, of VGG-19 at two scales (eq. 9) and of the discriminator. Measured: the same passes, and the backward pass, of
one window and of two; what the second adds to the peak is a window's. Weights, gradients, Adam's moments and the moving
average take 20 bytes a parameter. Only the measured numbers hold workspaces, and neither the optimizer's temporary
copies or the allocator's gaps: the largest micro_batch leaves a fifth of the memory for these.
"""

import argparse
import dataclasses
import functools
import sys

from media.errors import Parser, command, quick_help
from models.devices import usable_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--device", type=usable_device, metavar="cpu|cuda", help="measure there; default: compute")
    return parser.parse_args()


import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torchvision.models import vgg19

from benchmarks.memory import peak_memory, reset_peak
from losses.perceptual import ENDS
from media.crop import CROPS, CropForm
from models import FaceSynthesizer, FaceSynthesizerConfig, G4GConfig, G4GSynthesizer
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.guidance import inputs_of
from training.config import TrainConfig
from training.learner import recomputing

FRAMES, REFERENCES = 5, 5
GPUS = (24, 48, 80)  # GB
USED = 0.8  # of a GPU's memory
_STATE = 20  # bytes a parameter: float32 weight, gradient, two moments, moving average


@dataclasses.dataclass
class Need:
    """Bytes that a step takes: of the states, and kept for the backward pass of each window."""

    states: int
    window: int

    def largest_batch(self, gigabytes: float) -> int:
        """The most windows that fit into a GPU of `gigabytes`."""
        return max(0, int((USED * gigabytes * 1e9 - self.states) / self.window))


def _networks(crop: CropForm) -> tuple[FaceSynthesizer | G4GSynthesizer, PatchDiscriminator]:
    """The synthesizer and the discriminator of configs/stsa_face.yaml, or for a crop of DINet's framing of g4g.yaml."""
    if crop.framing == "dinet":
        g4g = G4GSynthesizer(G4GConfig(crop=crop, references=REFERENCES, stride=4))
        return g4g, PatchDiscriminator(DiscriminatorConfig(scales=1, together=FRAMES))
    return FaceSynthesizer(FaceSynthesizerConfig(crop=crop, references=REFERENCES)), PatchDiscriminator()


def need(crop: CropForm, bf16: bool, checkpointing: bool) -> Need:
    """What a step of train_face.py on crops of the form `crop` takes, computed on tensors without data."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = _Step(crop, bf16, checkpointing, torch.device("cpu"))
        own = {id(parameter) for network in step.networks for parameter in network.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            if id(tensor) not in own:
                storage = tensor.untyped_storage()
                kept[storage._cdata] = storage
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            step.forward(1)
    return Need(step.states, sum(storage.nbytes() for storage in kept.values()))


def measured_need(crop: CropForm, bf16: bool, checkpointing: bool, device: torch.device) -> Need:
    """The same, measured on `device`: what a second window adds to the peak of the passes."""
    step = _Step(crop, bf16, checkpointing, device)
    peaks = []
    for windows in (1, 2):
        reset_peak(device)
        step.forward(windows).backward()
        for network in step.networks:
            network.zero_grad()
        peaks.append(peak_memory(device) * 2**20)
    return Need(step.states, round(peaks[1] - peaks[0]))


class _Step:
    """The passes of a step of train_face.py: the synthesizer, VGG-19 at two scales and the discriminator."""

    def __init__(self, crop: CropForm, bf16: bool, checkpointing: bool, device: torch.device):
        self.crop, self.bf16, self.device = crop, bf16, device
        with device:
            synthesizer, judge = _networks(crop)
            features = vgg19(weights=None, init_weights=False).features[: ENDS[-1]].requires_grad_(False)
        synthesizer.eval()  # batch norm refuses the one window
        recomputing(synthesizer, TrainConfig(gradient_checkpointing=checkpointing))
        self.synthesizer, self.judge, self.features = synthesizer, judge, features
        self.networks: list[nn.Module] = [synthesizer, judge, features]
        self.states = _STATE * sum(p.numel() for network in (synthesizer, judge) for p in network.parameters())

    def forward(self, windows: int) -> Tensor:
        """The sum of what the networks return for `windows` windows."""
        batch = {name: value.expand(windows, *value.shape[1:]) for name, value in _window(self.crop).items()}
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            faces = self.synthesizer(*inputs_of(self.synthesizer, batch))
            images = faces.flatten(0, 1)
            found = [self.features(x) for x in (images, nn.functional.avg_pool2d(images, 2))]
            for maps in self.judge(faces):
                found += maps
        return torch.stack([each.float().sum() for each in found]).sum()


def _window(crop: CropForm) -> dict[str, Tensor]:
    heatmaps = crop.guidance, crop.guidance
    shapes = {
        "frames": (FRAMES, 3, *crop.shape),
        "heatmaps": (FRAMES, 1, *heatmaps),
        "reference_images": (REFERENCES, 3, *crop.shape),
        "reference_heatmaps": (REFERENCES, 1, *heatmaps),
        "audio": (FRAMES, 80, 16),
    }
    return {name: torch.zeros(1, *shape) for name, shape in shapes.items()}


@command
def main() -> None:
    options = parse()
    find = need if options.device is None else functools.partial(measured_need, device=options.device)
    sizes = " | ".join(f"{size} GB" for size in GPUS)
    print(f"| crop | precision | gradient_checkpointing | GiB a window | {sizes} |")
    print(f"| --- | --- | --- | --- |{' --- |' * len(GPUS)}")
    for name in ("stsa", "stsa-256", "g4g"):
        for bf16 in (False, True):
            for checkpointing in (False, True)[: 1 if name == "g4g" else 2]:  # it recomputes STSA's blocks only
                found = find(CROPS[name], bf16, checkpointing)
                batches = " | ".join(str(found.largest_batch(size)) for size in GPUS)
                precision = "bf16" if bf16 else "float32"
                words = f"{name} | {precision} | {str(checkpointing).lower()} | {found.window / 2**30:.2f}"
                print(f"| {words} | {batches} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
