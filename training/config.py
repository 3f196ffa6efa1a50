"""What a config may say, how it is read and checked, and the engine that it starts."""

import os
import shlex
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from media.errors import InputError, Parser, first_line
from media.files import check_output_folder, existing_file
from models.discriminator import DiscriminatorConfig
from models.first_form import FIRST_KEYS, from_first_form
from training.run import holds_a_run

WAIT = timedelta(hours=2)  # the most that processes wait for one: the main process validates alone


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

    steps: int = MISSING  # of the run, from its beginning
    batch_size: int = MISSING  # windows a step, over all processes together
    seed: int = 0  # of the weights, the order of samples and every random choice
    resume: bool = True  # continue from the newest state in `output`, by this config; false: refuse a folder with a run
    learning_rate: float = 1e-4  # of Adam, the highest of the schedule
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of Adam; the discriminator's are 0.5 and 0.999
    weight_decay: float = 0.0  # decoupled (AdamW); 0 is plain Adam, as in the paper's line of work
    schedule: str = "constant"  # or "cosine", down to zero at the last step
    warmup: int = 0  # steps of linear warm-up
    clip_gradients: float = 0.0  # largest gradient norm; 0 leaves them alone
    ema: float = 0.0  # decay of the exponential moving average whose weights are saved; 0 saves the trained ones
    precision: str = "no"  # "no", "bf16" or "fp16"; fp16 is for CUDA, bf16 also for CPUs that have AMX
    compile: bool = False  # the step through torch.compile; on several GPUs with freeze_batch_norm alone
    freeze_batch_norm: bool = False  # running statistics stay as they are, also in training
    # The most windows that a process has in memory at once; 0: its whole share of a step. The gradients of a step's
    # parts are summed. Batch norm and contrastive losses see the windows of one part, mutual information also those of
    # the parts before it.
    micro_batch: int = 0
    log_every: int = 10  # steps between two entries in TensorBoard
    # Steps between two measurements of each loss term's gradient norm on the layers that the terms share, a multiple of
    # log_every; 0: none. Such a step takes a backward pass more a term, and the memory of another gradient.
    gradient_norms_every: int = 0
    validate_every: int = 1000  # steps between two validations; the last step ends with one too
    validation_windows: int = 16  # fixed windows of `data.val`, spread over its clips; train_sync.py takes all
    # The score that selects the weights in `best/`. train_heatmap.py: liplmd (of the keypoint head) or heatmap (eq. 3's
    # heatmap distance); train_face.py: psnr, lpips, fid or sync (-log cos by `sync_expert`); finetune_e2e.py: all of
    # these; train_sync.py: accuracy. Empty: the first one named, of finetune_e2e.py psnr.
    best_by: str = ""
    save_every: int = 1000  # steps between two states to resume from
    keep: int = 2  # training states kept for resuming
    keep_every: int = 0  # steps between two checkpoint folders `output/step-NNNNNNNN` that stay; 0: none


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
        layers = _in_todays_keys(schema, layers, path)
        merged = OmegaConf.merge(OmegaConf.structured(schema), *layers)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"config {path} does not set {', '.join(missing)}; add them or give {missing[0]}=VALUE")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        place = f" ({error.full_key})" if error.full_key else ""
        raise InputError(f"config {path}: {first_line(error)}{place}; correct the key or value") from error


def _in_todays_keys(schema: type, layers: list[Any], path: str | Path) -> list[Any]:
    """`layers` with a `model` that sets a key from before `form` translated to the same network's of today."""
    kind = next((field.type for field in fields(schema) if field.name == "model"), None)
    settings = OmegaConf.merge(*layers)
    model = settings.get("model")
    if not OmegaConf.is_dict(model) or not FIRST_KEYS.get(kind, {}).keys() & model.keys():
        return layers
    settings.model = from_first_form(kind, model, f"config {path}: model")
    return [settings]


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
    optional = ("learning_rate", "weight_decay", "warmup", "clip_gradients", "micro_batch", "keep_every")
    for name in (*optional, "gradient_norms_every"):
        if getattr(train, name) < 0:
            raise InputError(f"train.{name}={getattr(train, name)} must not be negative")
    if train.gradient_norms_every % train.log_every:
        raise InputError(
            f"train.gradient_norms_every={train.gradient_norms_every} is no multiple of "
            f"train.log_every={train.log_every}, at whose steps it is logged; choose one"
        )
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
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
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


def check_pairs(weight: float, train: TrainConfig, accelerator: Accelerator) -> None:
    """InputError where L_mi has a weight and a step, or its first part, pairs frames of one window alone (eq. 7)."""
    if weight > 0 and windows_at_once(train, accelerator) * accelerator.num_processes < 2:
        raise InputError(
            "L_mi compares frames of different windows, and a step begins with one window; raise train.batch_size or "
            "train.micro_batch, or set losses.mutual_information=0"
        )


def synchronises(accelerator: Accelerator, train: TrainConfig) -> bool:
    """Whether batch norms span processes: on CUDA (SyncBatchNorm has no CPU form), unless they are frozen."""
    return accelerator.num_processes > 1 and accelerator.device.type == "cuda" and not train.freeze_batch_norm
