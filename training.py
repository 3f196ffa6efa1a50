"""What the training scripts share: configs, the order of samples, checkpoints that resume exactly, and logging.

A run lives in the folder `output` of its config:

    output/config.yaml, NETWORK.safetensors   the newest weights, a checkpoint folder like any other
    output/best/                              the same for the best validation score so far
    output/state/step-00001000/               everything a resumed run needs; the newest `train.keep` are kept
    output/pretraining/                       what parts of a network have learned before the run (pretraining.py)
    output/tensorboard/                       curves and picture grids

Which samples a step sees (`StepSampler`) and the random numbers it draws (`Run.progress`) are functions of the seed and
the step alone, so a resumed run needs no loader state, and every number of processes or workers sees the same global
batches.
"""

import contextlib
import math
import os
import re
import shlex
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm
from yaml import YAMLError

from data_prep.clips import ClipDataset
from losses.adversarial import discriminator_loss
from media.errors import InputError, Parser
from media.files import check_output_folder, existing_file, output_folder
from models.checkpoint import save_checkpoint
from models.discriminator import DiscriminatorConfig


@dataclass
class DataConfig:
    """Where the clip files are and how they are read."""

    train: str = MISSING  # folder of clip files
    val: str = MISSING  # folder of clip files of people who are not in `train`; or `train`, with a holdout
    holdout: float = 0.0  # share at each clip's end that is not trained on, and of `val` the only one validated on
    workers: int = 2  # loader processes for each training process; 0 reads in the training process itself
    augment: bool = False  # flips and colour jitter, the same for a window and its references
    decoded: str | None = None  # folder for decoded copies of the faces, 48 kB each, that are read ten times as fast
    max_offset: int | None = None  # leave out clips of `train` whose sound `data_prep.offsets` found off by more frames
    correct_offsets: bool = False  # move the sound of each clip of `train` by the offset that it found


@dataclass
class TrainConfig:
    """The settings of a training loop."""

    steps: int = MISSING
    batch_size: int = MISSING  # windows a step, over all processes together
    seed: int = 0
    resume: bool = True  # go on from the newest state in `output`; false: refuse a folder that holds a run
    learning_rate: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0  # decoupled (AdamW); 0 is plain Adam, as in the paper's line of work
    schedule: str = "constant"  # or "cosine", down to zero at the last step
    warmup: int = 0  # steps of linear warm-up
    clip_gradients: float = 0.0  # largest gradient norm; 0 leaves them alone
    ema: float = 0.0  # decay of the exponential moving average whose weights are saved; 0 saves the trained ones
    precision: str = "no"  # "no", "bf16" or "fp16"; fp16 is for CUDA, bf16 also for CPUs that have AMX
    compile: bool = False  # the step through torch.compile; on several GPUs with freeze_batch_norm alone
    freeze_batch_norm: bool = False  # running statistics stay as they are, also in training
    log_every: int = 10
    validate_every: int = 1000
    validation_windows: int = 16  # fixed windows of `data.val`, spread over its clips
    save_every: int = 1000
    keep: int = 2  # training states kept for resuming


Config = TypeVar("Config")

# RuntimeErrors that tell of neither a file nor a config.
_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistBackendError)


def parse_config(schema: type[Config] | dict[str, type[Config]], description: str) -> Config:
    """Read `--config FILE [key=value ...]` from the command line into the dataclass `schema`.

    Of several schemas, by the name of the network that they train, the config's `network` chooses; its absence the
    first. A file may name another one under `base` (relative to itself), whose settings it overrides. An unknown key, a
    wrong type or a missing value raises an `InputError` that names it.
    """
    parser = Parser(description)
    parser.add_argument("--config", required=True, help="YAML file with the run's settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    arguments = parser.parse_args()
    return read_config(schema, arguments.config, arguments.overrides)


def read_config(
    schema: type[Config] | dict[str, type[Config]], path: str | Path, overrides: Sequence[str] = ()
) -> Config:
    """`parse_config` for a known file and list of `key=value` overrides."""
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is not a setting; write key=value, as in train.steps=20")
    layers = [*_layers(path), *map(_setting, overrides)]
    if isinstance(schema, dict):
        network = next((str(layer["network"]) for layer in reversed(layers) if "network" in layer), next(iter(schema)))
        if network not in schema:
            raise InputError(f"config {path}: network={network} is unknown; use {' or '.join(schema)}")
        schema = schema[network]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), *layers)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"config {path} does not set {', '.join(missing)}; add them or give {missing[0]}=VALUE")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        place = f" ({error.full_key})" if error.full_key else ""
        raise InputError(f"config {path}: {_first_line(error)}{place}; correct the key or value") from error


def _setting(override: str) -> Any:
    if override.endswith("="):
        override += '""'  # an empty text, where YAML reads none; that is key=null
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"the value in {override!r} is not YAML ({_first_line(error)}); correct it") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _layers(path: str | Path, depth: int = 0) -> list[Any]:
    """The YAML file `path` preceded by the files it is based on."""
    path = existing_file(path, "config")
    try:
        layer = OmegaConf.load(path)
    except Exception as error:  # the YAML library's own errors have many types and many lines
        raise InputError(f"config {path} is not YAML ({_first_line(error)}); mend that line") from error
    if not OmegaConf.is_dict(layer):
        raise InputError(f"config {path} does not hold settings; write key: value lines")
    base = layer.pop("base", None)
    if base is None:
        return [layer]
    if depth == 8:
        raise InputError(f"config {path} is based on itself through {base}; take one of the base lines out")
    return [*_layers(path.parent / str(base), depth + 1), layer]


def start(config: Any) -> Accelerator:
    """Check the settings, seed every random generator, and return the engine. `Run` is what first writes a file."""
    train = config.train
    if train.schedule not in ("constant", "cosine"):
        raise InputError(f"train.schedule={train.schedule} is unknown; use constant or cosine")
    train.precision = {"False": "no"}.get(train.precision, train.precision)  # YAML reads a bare no as false
    if train.precision not in ("no", "bf16", "fp16"):
        raise InputError(f"train.precision={train.precision} is unknown; use no, bf16 or fp16")
    for name in ("steps", "batch_size", "log_every", "validate_every", "validation_windows", "save_every", "keep"):
        if getattr(train, name) < 1:
            raise InputError(f"train.{name}={getattr(train, name)} must be 1 or more")
    for name in ("learning_rate", "weight_decay", "warmup", "clip_gradients"):
        if getattr(train, name) < 0:
            raise InputError(f"train.{name}={getattr(train, name)} must not be negative")
    if not 0 <= train.ema < 1:
        raise InputError(f"train.ema={train.ema} must be 0 or more and less than 1")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise InputError(f"train.betas={train.betas} must be two numbers, 0 or more and less than 1")
    if config.data.workers < 0:
        raise InputError(f"data.workers={config.data.workers} must not be negative")
    output = Path(config.output)
    check_output_folder(output)
    if not train.resume and holds_a_run(output):
        raise InputError(f"{output} already holds a run; set train.resume=true to go on or choose another output")
    accelerator = Accelerator(
        # One of several processes on CPUs: left to itself, accelerate would run each as if it were alone.
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),
        mixed_precision=train.precision,
        log_with="tensorboard",
        project_dir=output,
        step_scheduler_with_optimizer=False,  # schedules count steps of the run, not samples of a process
    )
    if train.precision == "fp16" and accelerator.device.type != "cuda":
        raise InputError("train.precision=fp16 needs a CUDA device; use no, or bf16")
    if train.compile:
        check_compiler(accelerator.device)
        if synchronises(accelerator, train):
            accelerator.print("not compiled: batch norm over several GPUs cannot be, only with train.freeze_batch_norm")
    if accelerator.num_processes == 1 and "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ:
        # Without a GPU, `accelerate launch --num_processes 2` says nothing and starts one.
        print("accelerate has started one process; several without a GPU: --config_file configs/accelerate_cpu.yaml")
    if train.batch_size % accelerator.num_processes:
        raise InputError(
            f"train.batch_size={train.batch_size} cannot be shared by {accelerator.num_processes} processes; "
            f"make it a multiple"
        )
    set_seed(train.seed, device_specific=accelerator.num_processes > 1)
    torch.backends.cudnn.benchmark = True
    return accelerator


def check_compiler(device: torch.device) -> None:
    """InputError where torch.compile lacks what it builds code for `device` with."""
    if device.type == "cuda":
        named = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    else:
        named = [os.environ.get("CXX", "g++")]
    commands = [shlex.split(name)[0] for name in named if name.strip()]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not any(map(shutil.which, commands)) or not headers.is_file():
        raise InputError(
            f"train.compile=true needs a compiler ({' or '.join(named)}) and Python's headers ({headers}); "
            f"install them (Debian: apt-get install g++ python3-dev) or set train.compile=false"
        )


def check_judged(judge: DiscriminatorConfig, frames: int) -> None:
    """InputError where a discriminator judges windows of another length than `frames`."""
    if judge.together not in (0, frames):
        raise InputError(
            f"the discriminator judges windows of {judge.together} frames, these have {frames}; "
            f"set discriminator.together={frames}, or 0 for single frames alone"
        )


def check_batch(frames: int, accelerator: Accelerator) -> None:
    """InputError where a process would get one frame of the `frames` of a step: batch norm needs two or more."""
    if frames // accelerator.num_processes < 2:
        raise InputError(
            f"a step has {frames} frames for {accelerator.num_processes} processes, batch norm needs two or more for "
            f"each; raise train.batch_size"
        )


class StepSampler(Sampler):
    """Batches of (index, seed) for the steps from `first` on, the share of one of several processes.

    The samples are drawn in epochs without replacement; the order of an epoch comes from (seed, epoch) and a sample's
    own seed from (seed, position), so step s sees the same samples however the run got there.
    """

    def __init__(self, length: int, config: TrainConfig, first: int = 0, process: int = 0, processes: int = 1):
        self.length, self.config, self.first = length, config, first
        self.process, self.share = process, config.batch_size // processes

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(self.first, self.config.steps):
            batch = []
            for position in range(step * self.config.batch_size, (step + 1) * self.config.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.length, generator=generator).tolist()
                batch.append((order[position % self.length], self.config.seed * 1_000_000_007 + position))
            yield batch[self.process * self.share : (self.process + 1) * self.share]


def training_windows(data: DataConfig, shape: dict, **options) -> tuple[ClipDataset, ClipDataset]:
    """The windows to train on and those to validate on, both of `shape`; `options` are the former's alone."""
    shape = shape | {"holdout": data.holdout}
    options |= {"augment": data.augment, "decoded": data.decoded}
    options |= {"max_offset": data.max_offset, "correct_offsets": data.correct_offsets}
    return ClipDataset(data.train, **options, **shape), ClipDataset(data.val, held_out=data.holdout > 0, **shape)


def training_batches(dataset: Dataset, config: Any, accelerator: Accelerator, first: int) -> Iterator[dict]:
    """Yield this process's batches of the steps from `first` on, on its device."""
    sampler = StepSampler(
        len(dataset), config.train, first, accelerator.process_index, accelerator.num_processes
    )  # fmt: skip
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=False,
    )
    for batch in loader:
        yield move(batch, accelerator.device)


def move(batch: dict, device: torch.device) -> dict:
    """Move the tensors of a batch; what is not a tensor (clip ids) stays."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def validation_batch(dataset: Dataset, count: int) -> dict:
    """A fixed batch of `count` samples spread evenly over a validation set: the same people and frames every time."""
    positions = [round((i + 0.5) * len(dataset) / count - 0.5) for i in range(count)]
    return next(iter(DataLoader(dataset, batch_sampler=[[(position, position) for position in positions]])))


def parts(batch: dict, size: int) -> Iterator[dict]:
    """Split a batch into batches of at most `size` samples: a validation takes no more memory than a training step."""
    for i in range(0, len(batch["clip"]), size):
        yield {name: value[i : i + size] for name, value in batch.items()}


def synchronises(accelerator: Accelerator, train: TrainConfig) -> bool:
    """Whether batch norms span processes: on CUDA (SyncBatchNorm has no CPU form), unless they are frozen."""
    return accelerator.num_processes > 1 and accelerator.device.type == "cuda" and not train.freeze_batch_norm


def synchronised(network: nn.Module, accelerator: Accelerator, train: TrainConfig) -> nn.Module:
    """`network` with batch norm over the batches of all processes, where `synchronises`."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if synchronises(accelerator, train) else network


def optimizer(parameters: Any, train: TrainConfig, betas: Sequence[float] | None = None) -> torch.optim.Optimizer:
    """Adam with the run's settings (AdamW's decoupled decay, which at 0 is Adam)."""
    return torch.optim.AdamW(
        parameters, lr=train.learning_rate, betas=tuple(betas or train.betas), weight_decay=train.weight_decay
    )


def scheduler(optimizer: torch.optim.Optimizer, train: TrainConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then constant or half a cosine to zero at `train.steps`."""

    def factor(step: int) -> float:
        if step < train.warmup:
            return (step + 1) / (train.warmup + 1)
        if train.schedule == "constant":
            return 1.0
        progress = (step - train.warmup) / max(1, train.steps - train.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """`AveragedModel`'s exponential moving average; whole numbers (indices, counts) are copied as they are."""
    average = get_ema_multi_avg_fn(decay)

    def update(averages: list[Tensor], current: list[Tensor], count: Any) -> None:  # tensors of one type
        if averages[0].is_floating_point():
            average(averages, current, count)
        else:
            for old, new in zip(averages, current, strict=True):
                old.copy_(new)

    return update


def compiled(network: nn.Module, train: TrainConfig) -> Callable:
    """What the training step calls: `network`, with `train.compile` through torch.compile.

    Validation calls the network itself, so that its other shapes and its eval mode compile nothing anew. A network with
    SyncBatchNorm is not compiled: that ends the graph, and nothing would be gained.
    """
    if not train.compile or any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        return network
    return torch.compile(network, dynamic=False)


def train_mode(network: nn.Module, train: TrainConfig) -> None:
    """Switch to training; with `train.freeze_batch_norm`, batch norm keeps using its running statistics."""
    network.train()
    if train.freeze_batch_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def backward(
    accelerator: Accelerator, loss: Tensor, network: nn.Module, train: TrainConfig, terms: dict, batch: dict, step: int
) -> Tensor:
    """Check that every loss term is finite, backpropagate, clip, and return the gradient's norm.

    A NaN or Inf, also one in the gradient, ends the run before the weights change, with an `InputError` that names the
    step, the term and the clips of the batch; the states saved before stay. So does a loss without a term.
    """
    if not terms:
        raise InputError("no loss term has a weight, and nothing would be learned; set one of losses.*")
    _check_finite({**terms, "total": loss}, "loss term", batch, step)
    accelerator.backward(loss)
    limit = train.clip_gradients if train.clip_gradients > 0 else math.inf
    norm = accelerator.clip_grad_norm_(network.parameters(), limit)
    if train.precision != "fp16":
        _check_finite({"norm": norm}, "gradient's", batch, step)
    elif accelerator.scaler.get_scale() < 1:  # it skips such a step and lowers its scale, of all networks
        raise InputError(
            f"step {step}: gradients of float16 overflow at every scale; the last good state is kept, use "
            f"train.precision=bf16 or lower train.learning_rate"
        )
    return norm


def _check_finite(values: dict[str, Tensor], what: str, batch: dict, step: int) -> None:
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if bool(stacked.isfinite().all()):  # one wait for the device instead of one a term
        return
    name, value = next((name, value) for name, value in values.items() if not bool(value.isfinite()))
    raise InputError(
        f"step {step}: the {what} {name} is {float(value)} on the clips {', '.join(batch['clip'])}; "
        f"the last good state is kept, look at these clips or lower train.learning_rate"
    )


class Adversary:
    """The patch discriminator `network` beside a generator, with its own optimizer and step (LSGAN)."""

    def __init__(self, network: nn.Module, train: TrainConfig, accelerator: Accelerator):
        self.train, self.accelerator = train, accelerator
        self.optimizer = optimizer(network.parameters(), train, betas=(0.5, 0.999))
        self.network, self.optimizer, self.schedule = accelerator.prepare(
            network, self.optimizer, scheduler(self.optimizer, train)
        )

    def step(self, true: Tensor, generated: Tensor, batch: dict, step: int) -> dict[str, Tensor]:
        """Teach the discriminator to tell `true` from `generated`, each (B, T, 3, H, W); return what to log of it."""
        with self.accelerator.autocast():
            features = self.network(torch.cat([true, generated.detach()]))
            real, fake = ([[f.chunk(2)[i] for f in scale] for scale in features] for i in (0, 1))
            loss = discriminator_loss(real, fake)
        norm = backward(self.accelerator, loss, self.network, self.train, {"discriminator": loss}, batch, step)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return {
            "train/discriminator": loss,
            "train/discriminator_gradient_norm": norm,
            "train/discriminator_learning_rate": self.schedule.get_last_lr()[0],
        }


class Run:
    """The files of one training run: states to resume from, checkpoints to use, the best so far, TensorBoard's curves.

    Made when the data and the networks are there, so that what is wrong with them leaves no folder behind.

    Args:
        networks: the prepared networks by their checkpoint names ("heatmap_predictor", ...).
        sections: what `config.yaml` says of each network, by the same names, and anything else worth keeping.
        averaged: the networks that have an exponential moving average (`train.ema`), whose weights are the ones saved.
    """

    def __init__(
        self,
        config: Any,
        accelerator: Accelerator,
        networks: dict[str, nn.Module],
        sections: dict,
        averaged: Sequence[str],
    ):
        self.train, self.output = config.train, output_folder(config.output)
        self.accelerator, self.sections = accelerator, sections
        # What a killed run logged after its last state is logged again: `purge_step` hides the first time.
        done = max((step for step, _ in _states(self.output)), default=0)
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
        self.networks = {name: accelerator.unwrap_model(network) for name, network in networks.items()}
        self.step, self.best = 0, None
        self._trained = nn.ModuleDict({name: self.networks[name] for name in averaged})
        self.ema = None
        if self.train.ema > 0:
            self.ema = AveragedModel(self._trained, multi_avg_fn=moving_average(self.train.ema), use_buffers=True)
        self._log_time, self._log_step, self._waited = time.perf_counter(), 0, 0.0

        # States hold the bare networks, so that a run can go on with another number of processes.
        def bare(models: list[nn.Module]) -> list[nn.Module]:
            return [accelerator.unwrap_model(model) for model in models]

        def saving(models: list[nn.Module], weights: list[dict], folder: str) -> None:
            weights[:] = [model.state_dict() for model in bare(models)]

        def loading(models: list[nn.Module], folder: str) -> None:
            models[:] = bare(models)

        accelerator.register_save_state_pre_hook(saving)
        accelerator.register_load_state_pre_hook(loading)

    def resume(self) -> int:
        """Load the newest state and return the number of steps it has done; 0 where there is none."""
        if self.accelerator.is_main_process:
            _clean(self.output)
        states = list(_states(self.output))
        newest = torch.tensor([states[-1][0] if states else 0], device=self.accelerator.device)
        found = self.accelerator.gather(newest).tolist()
        if len(set(found)) > 1:
            raise InputError(
                f"{self.output} holds states up to step {min(found)} for one process and to {max(found)} for another; "
                f"make it a folder that all machines share"
            )
        if states:
            self.step, folder = states[-1]
            try:
                # On several GPUs, Adam's counts would otherwise lie there and be waited for at every step.
                self.accelerator.load_state(str(folder), map_location="cpu")
                if self.ema is not None:
                    self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
                self.best = OmegaConf.load(folder / "run.yaml").best
            except _DEVICE_ERRORS:
                raise
            except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
                raise InputError(
                    f"{folder} is not a state of this config's networks ({str(error).splitlines()[0]}); "
                    f"go on with the config it was made with, or choose another output"
                ) from error
            self.accelerator.print(f"resuming at step {self.step} from {folder}")
            if self.accelerator.is_main_process:  # a kill between the state and the weights has left older ones there
                with writing(self.output):
                    self._save_weights(self.output)
        self._log_step = self.step
        return self.step

    def progress(self, batches: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        """Yield (step, batch) behind a progress bar; `step` counts from 1 and is the number done after this one.

        Each step starts from its own seed, so what came before it (validations, a restart) changes none of its numbers.
        """
        main, process = self.accelerator.is_main_process, self.accelerator.process_index
        with tqdm(total=self.train.steps, initial=self.step, unit="step", disable=not main) as self.bar:
            asked = time.perf_counter()
            for batch in batches:
                self._waited += time.perf_counter() - asked
                torch.manual_seed(((self.train.seed * 1_000_003 + self.step) * 65_536 + process) % 2**63)
                yield self.step + 1, batch
                self.step += 1
                if self.ema is not None:
                    self.ema.update_parameters(self._trained)
                self.bar.update()
                if self.step % self.train.save_every == 0 or self.step == self.train.steps:
                    self.save()
                asked = time.perf_counter()

    def log(self, step: int, values: dict[str, Tensor | float]) -> None:
        """Every `train.log_every` steps, write scalars (means over the processes) and show the first in the bar.

        The samples a second and the share of time spent waiting for data since the last call join them.
        """
        if step % self.train.log_every and step != 1:
            return
        scalars = [torch.as_tensor(value).detach().float().to(self.accelerator.device) for value in values.values()]
        means = self.accelerator.reduce(torch.stack(scalars), reduction="mean").tolist()
        values = dict(zip(values, means, strict=True))
        now = time.perf_counter()
        if step > self._log_step:
            seconds = now - self._log_time
            values["train/samples_per_second"] = (step - self._log_step) * self.train.batch_size / seconds
            values["train/waiting_for_data"] = self._waited / seconds
        self._log_time, self._log_step, self._waited = now, step, 0.0
        self.accelerator.log(values, step=step)
        name, value = next(iter(values.items()))
        self.bar.set_postfix({name.split("/")[-1]: f"{value:.4f}"})

    def due(self, step: int) -> bool:
        """Whether step `step` ends with a validation."""
        return step % self.train.validate_every == 0 or step == self.train.steps

    def evaluated(self, name: str) -> nn.Module:
        """The network to validate, in eval mode: the moving average where there is one."""
        return self._best_of(name).eval()

    def _best_of(self, name: str) -> nn.Module:
        averaged = self.ema is not None and name in self.ema.module
        return self.ema.module[name] if averaged else self.networks[name]

    def validated(self, step: int, values: dict[str, float], score: float, pictures: dict[str, Tensor]) -> None:
        """Log validation scalars and picture grids ((3, H, W) in [0, 1]); keep the weights if `score` is the best.

        A larger score is better.
        """
        self.accelerator.log(values, step=step)
        best = math.isfinite(score) and (self.best is None or score > self.best)
        self.best = score if best else self.best
        if self.accelerator.is_main_process:
            writer = self.accelerator.get_tracker("tensorboard").writer
            for name, picture in pictures.items():
                writer.add_image(name, picture.clamp(0, 1), step)
            if best:
                with writing(self.output / "best"):
                    self._save_weights(self.output / "best")
        self._log_time, self._log_step, self._waited = time.perf_counter(), step, 0.0

    def save(self) -> None:
        """Write the state under a temporary name, rename it, drop the oldest, and write the newest weights."""
        folder = self.output / "state" / f"step-{self.step:08d}"
        temporary = folder.with_name(f"{folder.name}.partial")
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with writing(folder, temporary):
            self.accelerator.save_state(str(temporary))
            if main:
                if self.ema is not None:
                    state = {name: value.contiguous() for name, value in self.ema.state_dict().items()}
                    save_file(state, temporary / "ema.safetensors")
                OmegaConf.save({"step": self.step, "best": self.best}, temporary / "run.yaml")
            self.accelerator.wait_for_everyone()
            if main:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
                for _, old in list(_states(self.output))[: -self.train.keep]:
                    shutil.rmtree(old)
                self._save_weights(self.output)

    def _save_weights(self, folder: Path) -> None:
        save_checkpoint(folder, {name: self._best_of(name) for name in self.networks}, self.sections)

    def finish(self, summary: str) -> None:
        """Close the trackers and print the one-line summary."""
        self.accelerator.end_training()
        self.accelerator.print(f"{summary}; weights in {self.output}")


@contextlib.contextmanager
def writing(folder: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn what the libraries raise on a full disk into an InputError, and free the place taken so far."""
    try:
        yield
    except _DEVICE_ERRORS:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch's is a RuntimeError
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"{folder} cannot be written ({str(error).splitlines()[0]}); the last good state is kept, "
            f"free some space and start again"
        ) from error


def _clean(output: Path) -> None:
    """Remove what a killed run left half written."""
    for leftover in output.glob("state/*.partial"):
        shutil.rmtree(leftover)
    for folder in (output, output / "best", output / "pretraining"):
        for leftover in folder.glob(".*.partial.*"):
            leftover.unlink()


def holds_a_run(output: str | Path) -> bool:
    """Whether a run in the folder `output` has got as far as its first state, from which it goes on."""
    return any(_states(Path(output)))


def _states(output: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the complete states of a run, oldest first."""
    for folder in sorted((output / "state").glob("step-*")):
        match = re.fullmatch(r"step-(\d{8})", folder.name)
        if match:
            yield int(match[1]), folder
