"""What the training scripts share: configs, the order of samples, and the step that changes a network.

Which samples a step sees (`StepSampler`) and the random numbers it draws (`Run.progress`) are functions of the seed and
the step alone, so a resumed run needs no loader state, and every number of processes or workers sees the same global
batches.
"""

import contextlib
import math
import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from yaml import YAMLError

from data_prep.clips import ClipDataset
from losses.adversarial import discriminator_loss
from media.errors import InputError, Parser, first_line
from media.files import check_output_folder, existing_file
from models.discriminator import DiscriminatorConfig
from training_run import holds_a_run


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
    resume: bool = True  # go on from the newest state in `output`, by this config; false: refuse a folder with a run
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
    # The most windows that a process has in memory at once; 0: its whole share of a step. The gradients of a step's
    # parts are summed; batch norm, contrastive losses and mutual information know the windows of a part alone.
    micro_batch: int = 0
    log_every: int = 10
    validate_every: int = 1000
    validation_windows: int = 16  # fixed windows of `data.val`, spread over its clips; train_sync.py takes all
    save_every: int = 1000
    keep: int = 2  # training states kept for resuming


Config = TypeVar("Config")


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
        raise InputError(f"config {path}: {first_line(error)}{place}; correct the key or value") from error


def _setting(override: str) -> Any:
    if override.endswith("="):
        override += '""'  # an empty text, where YAML reads none; that is key=null
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"the value in {override!r} is not YAML ({first_line(error)}); correct it") from error


def _layers(path: str | Path, depth: int = 0) -> list[Any]:
    """The YAML file `path` preceded by the files it is based on."""
    path = existing_file(path, "config")
    try:
        layer = OmegaConf.load(path)
    except Exception as error:  # the YAML library's own errors have many types and many lines
        raise InputError(f"config {path} is not YAML ({first_line(error)}); mend that line") from error
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
    for name in ("learning_rate", "weight_decay", "warmup", "clip_gradients", "micro_batch"):
        if getattr(train, name) < 0:
            raise InputError(f"train.{name}={getattr(train, name)} must not be negative")
    if not 0 <= train.ema < 1:
        raise InputError(f"train.ema={train.ema} must be 0 or more and less than 1")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise InputError(f"train.betas={train.betas} must be two numbers, 0 or more and less than 1")
    if not 0 <= train.seed < 2**31:
        raise InputError(f"train.seed={train.seed} must be 0 or more and less than 2147483648")
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
    share = train.batch_size // accelerator.num_processes
    if share % windows_at_once(train, accelerator):
        raise InputError(
            f"train.micro_batch={train.micro_batch} does not divide a process's {share} windows; use a divisor, or 0"
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


def windows_at_once(train: TrainConfig, accelerator: Accelerator) -> int:
    """How many windows a process computes together."""
    share = train.batch_size // accelerator.num_processes
    return min(train.micro_batch or share, share)


def check_batch(frames: int, train: TrainConfig, accelerator: Accelerator) -> None:
    """InputError where a process would see one frame at once, in windows of `frames`: batch norm needs two or more."""
    windows = windows_at_once(train, accelerator)
    if windows * frames < 2:
        raise InputError(
            f"a process sees {windows * frames} frame at once, batch norm needs two or more; raise train.batch_size or "
            f"train.micro_batch"
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
    try:
        for batch in loader:
            yield move(batch, accelerator.device)
    except InputError as error:  # of a loader's worker the last line, below its traceback, says what is wrong
        raise InputError(str(error).splitlines()[-1].rpartition("InputError: ")[2]) from error


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
    """Adam with the run's settings (AdamW's decoupled decay, which at 0 is Adam), also where a state had others."""
    adam = torch.optim.AdamW(
        parameters, lr=train.learning_rate, betas=tuple(betas or train.betas), weight_decay=train.weight_decay
    )

    def with_own_settings(adam: torch.optim.Optimizer, state: dict) -> dict:
        own = [{name: value for name, value in group.items() if name != "params"} for group in adam.param_groups]
        return state | {"param_groups": [saved | ours for saved, ours in zip(state["param_groups"], own, strict=True)]}

    adam.register_load_state_dict_pre_hook(with_own_settings)
    return adam


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """Of a state it takes how far the run is; the learning rate is the config's, which may have changed."""

    def load_state_dict(self, state_dict: dict) -> None:
        own = self.base_lrs
        super().load_state_dict(state_dict)
        self.base_lrs = own
        self._last_lr = [rate * factor(self.last_epoch) for rate, factor in zip(own, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def scheduler(optimizer: torch.optim.Optimizer, train: TrainConfig) -> Schedule:
    """Linear warm-up, then constant or half a cosine to zero at `train.steps`."""

    def factor(step: int) -> float:
        if step < train.warmup:
            return (step + 1) / (train.warmup + 1)
        if train.schedule == "constant":
            return 1.0
        progress = (step - train.warmup) / max(1, train.steps - train.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return Schedule(optimizer, factor)


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


def _check_finite(values: dict[str, Tensor], what: str, batch: dict, step: int) -> None:
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if bool(stacked.isfinite().all()):  # one wait for the device instead of one a term
        return
    name, value = next((name, value) for name, value in values.items() if not bool(value.isfinite()))
    raise InputError(
        f"step {step}: the {what} {name} is {float(value)} on the clips {', '.join(batch['clip'])}; "
        f"the last good state is kept, look at these clips or lower train.learning_rate"
    )


class Learner:
    """A network with its optimizer and schedule, made ready for the devices, and the step that changes it.

    Args:
        betas: of Adam, where they are not `train.betas`.
    """

    def __init__(
        self, network: nn.Module, train: TrainConfig, accelerator: Accelerator, betas: Sequence[float] | None = None
    ):
        self.train, self.accelerator = train, accelerator
        adam = optimizer(network.parameters(), train, betas)
        self.network, self.optimizer, self.schedule = accelerator.prepare(network, adam, scheduler(adam, train))

    def step(
        self, batch: dict, step: int, compute: Callable[[dict], tuple[dict[str, Tensor], Any]]
    ) -> tuple[dict[str, Tensor | float], list[Any]]:
        """Change the network once, by the gradient of a batch's loss.

        A NaN or Inf in a loss term or in the gradient ends the run before the weights change, with an `InputError` that
        names the step, the term and the clips; the states saved before stay. So does a loss without a term.

        Args:
            batch: a process's share of the step, whose "clip" lists a clip id a window.
            step: the number of this step, for the message.
            compute: takes windows of the batch, all of them or at most `train.micro_batch` at a time, and gives their
                loss terms by name, and anything else, without a gradient.

        Returns:
            What to log (the loss, its terms, the gradient's norm and the learning rate), and what else `compute` gave.
        """
        windows = len(batch["clip"])
        pieces = list(parts(batch, self.train.micro_batch or windows))
        values, others = {}, []
        for place, piece in enumerate(pieces):
            terms, other = compute(piece)
            if not terms:
                raise InputError("no loss term has a weight, and nothing would be learned; set one of losses.*")
            loss, share = sum(terms.values()), len(piece["clip"]) / windows
            _check_finite(terms | {"total": loss}, "loss term", piece, step)
            last = place + 1 == len(pieces)  # only then the processes have to exchange gradients
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                self.accelerator.backward(loss * share)
            for name, value in ({"loss": loss} | terms).items():
                values[name] = values.get(name, 0) + share * value.detach()
            others.append(other)
        values["gradient_norm"] = self._norm(batch, step)
        values["learning_rate"] = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return {f"train/{name}": value for name, value in values.items()}, others

    def _norm(self, batch: dict, step: int) -> Tensor:
        """Clip the gradient to `train.clip_gradients`; its norm before that."""
        limit = self.train.clip_gradients if self.train.clip_gradients > 0 else math.inf
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), limit)
        if self.train.precision != "fp16":
            _check_finite({"norm": norm}, "gradient's", batch, step)
        elif self.accelerator.scaler.get_scale() < 1:  # it skips such a step and lowers its scale, of all networks
            raise InputError(
                f"step {step}: gradients of float16 overflow at every scale; the last good state is kept, use "
                f"train.precision=bf16 or lower train.learning_rate"
            )
        return norm


class Adversary(Learner):
    """The patch discriminator beside a generator (LSGAN)."""

    def __init__(self, network: nn.Module, train: TrainConfig, accelerator: Accelerator):
        super().__init__(network, train, accelerator, betas=(0.5, 0.999))

    def judge(self, true: Tensor, generated: Tensor, batch: dict, step: int) -> dict[str, Tensor | float]:
        """Teach the discriminator to tell `true` from `generated`, each (B, T, 3, H, W); return what to log of it."""

        def compute(part: dict) -> tuple[dict[str, Tensor], None]:
            with self.accelerator.autocast():
                features = self.network(torch.cat([part["true"], part["generated"]]))
                real, fake = ([[f.chunk(2)[i] for f in scale] for scale in features] for i in (0, 1))
                return {"discriminator": discriminator_loss(real, fake)}, None

        judged = {"clip": batch["clip"], "true": true, "generated": generated.detach()}
        values, _ = self.step(judged, step, compute)
        return {
            "train/discriminator": values["train/discriminator"],
            "train/discriminator_gradient_norm": values["train/gradient_norm"],
            "train/discriminator_learning_rate": values["train/learning_rate"],
        }
