"""Speed and memory of train_face.py's step, and of reading clip files.

    python -m benchmarks.training [--data CLIPS] [--width 1 --windows 2 --frames 5 --steps 5] [--device cuda]

The step is that of `train_face.py`: eq. 10 with the discriminator's step, the optimizers and the loader. It is compared
with a step that uses the plain forward of the reference code: every frame encodes the references again, one after the
other, and tensors have PyTorch's default memory layout. --compile adds the step with `train.compile`, without the time
of compilation. Terms whose weights are absent (VGG-19, the sync expert) are left out of all steps and named.
`--clips N` also reads N clip files of 75 frames, directly and through `data.decoded`, compared with one PNG a frame.
Without --data, clips are drawn.
"""

import argparse
import copy
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from media.errors import Parser, command, positive, quick_help
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--data", help="folder of clip files (default: drawn ones)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the network (default: 1, the paper's)")
    parser.add_argument("--audio", choices=["mel", "wav2vec2"], default="mel")
    parser.add_argument("--windows", type=positive, default=2, help="windows a step (default: 2)")
    parser.add_argument("--frames", type=positive, default=5, help="frames a window (default: 5)")
    parser.add_argument("--steps", type=positive, default=5, help="steps that count (default: 5)")
    parser.add_argument("--warmup", type=positive, default=1, help="steps before them (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: 2)")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--compile", action="store_true", help="also measure the step with train.compile=true")
    add_device(parser)
    parser.add_argument("--sync-expert", default="", help="checkpoint folder of train_sync.py, for the sync loss")
    parser.add_argument("--clips", type=int, default=0, help="also measure reading, of this many clips and of PNGs")
    return parser.parse_args()


import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.memory import peak_memory, reset_peak
from checkpoints import fetch
from data_prep.clips import Clip, ClipData, encode_face, write_clip
from data_prep.storage import LONGEST_SIDE, QUALITY
from data_prep.windows import ClipDataset
from losses.face import FaceLosses, FaceObjective
from media.crop import STSA
from media.landmarks import TRACKED
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.face_synthesizer import Alignment, FaceSynthesizer, FaceSynthesizerConfig, MutualInformation
from models.guidance import inputs_of
from models.modulation import SpadeNorm
from train_face import FaceTrainConfig, FaceTraining
from training.config import DataConfig, check_compiler
from training.data import training_batches
from training.learner import Adversary, Learner, compiled

FRAMES = 75  # of a drawn clip
PORTRAIT = Path(__file__).resolve().parent.parent / "assets" / "portrait.mp4"


class OneByOne(nn.Module):
    """Calls a part of the temporal path separately for each of the N references of a frame, instead of once for all.

    Each call computes the modulations again.
    """

    def __init__(self, part: nn.Module, references: int):
        super().__init__()
        self.part, self.references = part, references

    def forward(self, features: Tensor, *conditions: Tensor) -> list[Tensor]:
        """Features (B N, ...), conditions (B, ...) -> the part's results, (B N, ...) each."""
        features = features.unflatten(0, (-1, self.references))
        each = [self.part(features[:, n], *conditions) for n in range(self.references)]
        return [torch.stack(results, dim=1).flatten(0, 1) for results in zip(*each, strict=True)]


class PlainSynthesizer(nn.Module):
    """A `FaceSynthesizer` with the same weights that encodes every frame and every reference separately."""

    def __init__(self, synthesizer: FaceSynthesizer):
        super().__init__()
        self.synthesizer = copy.deepcopy(synthesizer)
        path, references = self.synthesizer.temporal, synthesizer.config.references
        if path is not None:
            for name in ("encoder", "flow_predictor"):
                path.add_module(name, OneByOne(path.get_submodule(name), references))
        for module in self.synthesizer.modules():
            if isinstance(module, SpadeNorm):
                module.folds = False  # does not fold two convolutions into one

    def forward(
        self,
        frames: Tensor,
        heatmaps: Tensor,
        reference_images: Tensor,
        reference_heatmaps: Tensor,
        audio: Tensor,
        *,
        alignment: bool = False,
    ) -> Tensor | tuple[Tensor, Alignment]:
        """As `FaceSynthesizer.forward`, each frame a window of its own."""
        shape = frames.shape[:2]
        frames, heatmaps, audio = (x.flatten(0, 1)[:, None] for x in (frames, heatmaps, audio))
        images, poses = (x.repeat_interleave(shape[1], dim=0) for x in (reference_images, reference_heatmaps))
        faces, found = self.synthesizer(frames, heatmaps, images, poses, audio, alignment=True)
        faces = faces.reshape(*shape, *faces.shape[2:])
        return (faces, found) if alignment else faces


def channels_last(synthesizer: FaceSynthesizer) -> FaceSynthesizer:
    """The network in the memory layout of train_face.py."""
    return synthesizer.to(memory_format=torch.channels_last)


def stored(face: np.ndarray) -> bytes:
    """A whole picture as a clip file stores it."""
    height, width = face.shape[:2]
    return encode_face(face, np.array([0, 0, width, height]), QUALITY, LONGEST_SIDE)


def draw_clips(folder: Path, count: int, kind: str) -> None:
    """Write clip files of smooth random faces."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 255, (FRAMES, 12, 12, 3)).astype(np.uint8)
        faces = [stored(cv2.resize(face, STSA.shape[::-1], interpolation=cv2.INTER_CUBIC)) for face in small]
        points = list(random.uniform(12, 116, (FRAMES, len(TRACKED), 2)).astype(np.float32))
        boxes = [np.array([0, 0, STSA.width, STSA.height], np.int32)] * FRAMES
        audio = {"mel": random.uniform(-4, 4, (FRAMES * 80 // 25 + 1, 80)).astype(np.float32)}
        if kind == "wav2vec2":
            audio[kind] = random.normal(0, 1, (FRAMES * 2, 768)).astype(np.float32)
        wav = random.uniform(-0.1, 0.1, FRAMES * 640).astype(np.float32)
        write_clip(
            folder / f"{number:05d}.safetensors", ClipData(faces, points, boxes, list(range(FRAMES)), wav, audio)
        )


@dataclasses.dataclass
class Speed:
    """The cost of a run of steps: frames a second, share of time spent waiting for data, peak memory in MiB."""

    frames: float
    waiting: float
    memory: float


def measure(
    build: Callable[[FaceSynthesizer], nn.Module], config: FaceTraining, warmup: int, device: torch.device
) -> Speed:
    """Run `train_face.py`'s steps with `build(synthesizer)` as the network; the first `warmup` are not counted."""
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=config.train.precision)
    torch.backends.cudnn.benchmark = True  # as training.config.start does
    torch.manual_seed(0)
    synthesizer = FaceSynthesizer(config.model)
    network = build(synthesizer)
    cil = next((part for part in network.modules() if isinstance(part, MutualInformation)), None)
    learner = Learner(network, config.train, accelerator)
    objective = FaceObjective(config.losses, config.model, config.frames, config.sync_expert, cil=cil)
    objective = objective.to(accelerator.device)
    adversary = Adversary(PatchDiscriminator(config.discriminator), config.train, accelerator)
    discriminator = accelerator.unwrap_model(adversary.network)
    dataset = ClipDataset(config.data.train, config.model.audio, config.frames, config.model.references)
    synthesize = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], Tensor]:
        with accelerator.autocast():
            faces, alignment = synthesize(*inputs_of(synthesizer, part), alignment=True)
            return objective(faces, part, discriminator, alignment), faces.detach()

    began, waited = 0.0, 0.0
    waiting_since = time.perf_counter()
    for step, batch in enumerate(training_batches(dataset, config, accelerator, 0)):
        waited += time.perf_counter() - waiting_since
        if objective.information is not None:
            objective.information.begin()
        _, faces = learner.step(batch, step, compute)
        adversary.judge(batch["frames"], torch.cat(faces), batch, step)
        synchronize(accelerator.device)
        waiting_since = time.perf_counter()
        if step + 1 == warmup:
            began, waited = waiting_since, 0.0
            reset_peak(accelerator.device)
    seconds = waiting_since - began
    frames = (config.train.steps - warmup) * config.train.batch_size * config.frames
    peak = peak_memory(accelerator.device)
    accelerator.free_memory()
    return Speed(frames / seconds, waited / seconds, peak)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def draw_portraits(folder: Path, count: int) -> None:
    """Write clip files of the bundled portrait, whose frames compress like those of any face."""
    from media.video import read_frames  # imports PyAV, which a machine that only trains may lack

    source = np.stack(list(read_frames(PORTRAIT)))
    faces = [stored(cv2.resize(frame, STSA.shape[::-1], interpolation=cv2.INTER_AREA)) for frame in source]
    sound = np.zeros(FRAMES * 640, np.float32)
    points, box = np.full((len(TRACKED), 2), 5, np.float32), np.array([0, 0, STSA.width, STSA.height], np.int32)
    points[0] = [STSA.width - 5, STSA.height - 5]  # STSA's crop is the whole picture
    for number in range(count):
        shown = [faces[(number + i) % len(faces)] for i in range(FRAMES)]
        mel = {"mel": np.zeros((FRAMES * 80 // 25 + 1, 80), np.float32)}
        data = ClipData(shown, [points] * FRAMES, [box] * FRAMES, list(range(FRAMES)), sound, mel)
        write_clip(folder / f"{number:05d}.safetensors", data)


def reading(folder: Path, count: int) -> dict[str, float]:
    """Frames a second of `count` clips in random order: as PNGs, from clip files, and from their decoded copies."""
    clips, pictures, decoded = folder / "clips", folder / "png", folder / "decoded"
    draw_portraits(clips, count)
    paths = sorted(clips.glob("*.safetensors"))
    for path in paths:
        target = pictures / path.stem
        target.mkdir(parents=True)
        for i, face in enumerate(Clip(path, decoded=decoded).faces(range(FRAMES))):
            cv2.imwrite(str(target / f"{i}.png"), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    order = np.random.default_rng(0).permutation(count)

    def rate(read: Callable[[Path], object]) -> float:
        began = time.perf_counter()
        for position in order:
            read(paths[position])
        return count * FRAMES / (time.perf_counter() - began)

    def read_pictures(path: Path) -> np.ndarray:
        files = [pictures / path.stem / f"{i}.png" for i in range(FRAMES)]
        return np.stack([cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files])

    return {
        "PNG": rate(read_pictures),
        "clip files": rate(lambda path: Clip(path).faces(range(FRAMES))),
        "decoded copies": rate(lambda path: Clip(path, decoded=decoded).faces(range(FRAMES))),
    }


@command
def main() -> None:
    options = parse()

    absent = []
    losses = FaceLosses()
    if not fetch.available("vgg19"):
        losses.perceptual = 0.0
        absent.append("the perceptual loss")
    if not options.sync_expert or options.frames != 5:
        losses.sync = 0.0
        absent.append("the sync loss")
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            draw_clips(Path(folder, "train"), 16, options.audio)
        config = FaceTraining(
            data=DataConfig(train=options.data or str(Path(folder, "train")), workers=options.workers),
            model=FaceSynthesizerConfig(audio=options.audio, width=options.width, mutual_information=True),
            discriminator=DiscriminatorConfig(width=options.width),
            losses=losses,
            train=FaceTrainConfig(
                steps=options.warmup + options.steps, batch_size=options.windows, precision=options.precision
            ),
            frames=options.frames,
            sync_expert=options.sync_expert,
        )
        size = f"width {options.width:g}, {options.windows} windows of {options.frames} frames, {options.device}"
        size += f", precision {options.precision}"
        print(f"train_face.py's step: {size}, {torch.get_num_threads()} threads, {options.workers} workers")
        if absent:
            print(f"without {' and '.join(absent)}")
        print("forward | frames/s | x plain | waiting for data | peak memory")
        forms = {"plain": (PlainSynthesizer, config), "shared": (channels_last, config)}
        if options.compile:
            check_compiler(options.device)
            train = dataclasses.replace(config.train, compile=True)
            forms["shared, compiled"] = channels_last, dataclasses.replace(config, train=train)
        results = {}
        for name, (build, settings) in forms.items():
            results[name] = speed = measure(build, settings, options.warmup, options.device)
            times = speed.frames / results["plain"].frames
            row = f"{name} | {speed.frames:.3f} | {times:.2f} | {100 * speed.waiting:.1f} % | {speed.memory:.0f} MiB"
            print(row, flush=True)
        if options.clips > 0:
            rates = reading(Path(folder, "reading"), options.clips)
            print(f"{options.clips} clips of {FRAMES} frames | frames/s | x PNG")
            for name, rate in rates.items():
                print(f"{name} | {rate:.0f} | {rate / rates['PNG']:.1f}")


if __name__ == "__main__":
    sys.exit(main())
