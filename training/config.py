"""The training settings that all scripts share; reading and checking a config; starting accelerate."""

import importlib
import os
import shlex
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from losses.face import FaceLosses
from media.errors import InputError, Parser, first_line
from media.files import check_output_folder, existing_file
from models.checkpoint import NETWORKS, check_known, network_config
from models.discriminator import DiscriminatorConfig
from models.first_form import from_first_form, is_earlier, with_crop
from training.first_form import drop_idle_sections, losses_of_first_form, with_keypoints
from training.run import holds_a_run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WAIT = timedelta(hours=2)  # longest wait between processes: the others wait while the main process validates


@dataclass
class DataConfig:
    """The clip files and how they are read."""

    train: str = MISSING  # folder of clip files
    val: str = MISSING  # folder of clip files of people who are not in `train`; with a holdout, may be the same folder
    holdout: float = 0.0  # share at each clip's end that is held out: training skips it, validation uses nothing else
    workers: int = 2  # loader processes for each training process; 0 reads in the training process itself
    augment: bool = False  # flips and colour jitter, the same for a window and its references
    decoded: str | None = None  # folder for decoded copies of the crops: 48 kB each at 128x128, read ten times as fast
    max_offset: int | None = None  # clips of `train` with a larger offset (data_prep.offsets, frames) are left out
    correct_offsets: bool = False  # shift the sound of each clip of `train` by its offset
    smallest_face: int = 0  # px of the source; clips of `train` whose faces are narrower (median) are left out


@dataclass
class TrainConfig:
    """The settings of a training loop."""

    steps: int = MISSING  # length of the whole run, resumed parts included
    batch_size: int = MISSING  # windows a step, over all processes together
    seed: int = 0  # seed of the initial weights, of the order of samples and of every random choice
    resume: bool = True  # continue from the newest state in `output`; false: refuse a folder that holds a run
    learning_rate: float = 1e-4  # Adam's learning rate, the schedule's highest
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # Adam's; the discriminator has 0.5 and 0.999
    weight_decay: float = 0.0  # decoupled (AdamW); 0 is plain Adam, usual in this field
    schedule: str = "constant"  # "constant", or "cosine", which reaches zero at the last step
    warmup: int = 0  # steps of linear warm-up
    clip_gradients: float = 0.0  # largest gradient norm; 0: no clipping
    ema: float = 0.0  # decay of the weights' exponential moving average, which is then saved in their place; 0: none
    precision: str = "no"  # "no", "bf16" or "fp16"; fp16 needs CUDA, bf16 CUDA or a CPU with AMX
    compile: bool = False  # compile the step with torch.compile; on several GPUs only with freeze_batch_norm
    freeze_batch_norm: bool = False  # batch norm keeps its running statistics and uses them in training
    # Gradient checkpointing: the backward pass computes the activations of STSA's modulated blocks again instead of
    # keeping them. 0.4 of the activations' memory; docs/speed.md has the time.
    gradient_checkpointing: bool = False
    # Largest number of windows that a process has in memory at once; 0: its whole share of a step. The gradients of a
    # step's parts are summed. Batch norm and contrastive losses take the windows of one part. Mutual information also
    # takes those of the step's earlier parts.
    micro_batch: int = 0
    # With micro_batch: batch norm takes the statistics of all windows of the step, at the price of one more forward
    # pass without gradients, whose activations of one layer at a time are those of the whole step.
    step_batch_norm: bool = False
    log_every: int = 10  # steps between two entries in TensorBoard
    # Steps between two measurements of each loss term's gradient norm on the layers that the terms share: a multiple of
    # log_every, or 0 for none. Such a step takes one more backward pass a term, and memory for one more gradient.
    gradient_norms_every: int = 0
    validate_every: int = 1000  # steps between two validations; a validation also follows the last step
    validation_windows: int = 16  # fixed windows, spread over the clips of `data.val`; train_sync.py takes all windows
    # The score that selects the weights in `best/`. train_heatmap.py: liplmd (of the keypoint head) or heatmap (eq. 3's
    # heatmap distance). train_face.py: psnr, lpips, fid or sync (-log cos by `sync_expert`). finetune_e2e.py: all of
    # these. train_sync.py: accuracy. Empty: the script's first score in this list; in finetune_e2e.py psnr.
    best_by: str = ""
    save_every: int = 1000  # steps between two states to resume from
    keep: int = 2  # number of newest states that are kept
    keep_every: int = 0  # steps between two checkpoint folders `output/step-NNNNNNNN`, which are kept; 0: none


class Extension:
    """Base class of the settings in extensions/settings.py."""


def extension(config: Any) -> Any:
    """`config` if it has settings of extensions/; None for the papers' training, which needs no extensions/."""
    return config if isinstance(config, Extension) else None


Config = TypeVar("Config", bound="DataclassInstance")


def parse_config(schema: type[Config] | dict[str, type[Config]], description: str) -> Config:
    """Read `--config FILE [key=value ...]` from the command line into the dataclass `schema`.

    A dict maps names of networks to schemas: the config's `network` selects one, by default the first. If the config
    has a key that the schema lacks, or a `model.form` of extensions/, the schema gains its settings of extensions/. A
    file may name another file under `base` (relative to itself), whose settings it overrides.

    Raises:
        InputError: a key is unknown, a value is missing or has the wrong type; the message names the key.
    """
    parser = Parser(description)
    parser.add_argument("--config", required=True, help="YAML file with the run's settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    arguments = parser.parse_args()
    return read_config(schema, arguments.config, arguments.overrides)


def read_config(
    schema: type[Config] | dict[str, type[Config]], path: str | Path, overrides: Sequence[str] = ()
) -> Config:
    """Read the file `path` and a list of `key=value` overrides; otherwise as `parse_config`."""
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
        settings = _in_todays_keys(schema, layers, path)
        schema = _extended(schema, settings, path)
        merged = OmegaConf.merge(OmegaConf.structured(schema), settings)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"config {path} does not set {', '.join(missing)}; add them or give {missing[0]}=VALUE")
        try:
            return cast(Config, OmegaConf.to_object(merged))
        except InputError as error:  # of a section `crop`
            raise InputError(f"config {path}: model.{error}") from error
    except OmegaConfBaseException as error:
        place = f" ({error.full_key})" if error.full_key else ""
        raise InputError(f"config {path}: {first_line(error)}{place}; correct the key or value") from error


def _in_todays_keys(schema: type, layers: list[Any], path: str | Path) -> Any:
    """Merge `layers`, with names of crops replaced by their fields and the keys of earlier versions by today's."""
    network = getattr(schema, "trained", "")
    for layer in layers:  # before they are merged: a single field overrides that of a crop that a base names
        if "model" in layer:
            layer.model = with_crop(network, layer.model, f"config {path}: model")
    face = any(field.name == "losses" and field.type is FaceLosses for field in fields(schema))
    layers = [with_keypoints(layer) for layer in layers]
    settings: Any = losses_of_first_form(layers) if face else OmegaConf.merge(*layers)
    model = settings.get("model")
    if is_earlier(network, model):
        settings.model = from_first_form(network, model, f"config {path}: model")
    drop_idle_sections(settings)
    return settings


def _extended(schema: type[Config], settings: Any, path: str | Path) -> type[Config]:
    """`schema`, or if `settings` need it, a dataclass that inherits from it and from a class of extensions/settings.py.

    The schema says in `extensions` which class: by the form of its network `trained`, or "" for any form.
    """
    classes: dict[str, str] = getattr(schema, "extensions", {})
    network = getattr(schema, "trained", "")
    form = _form(settings, network, path) if network else "paper"
    unknown = settings.keys() - {field.name for field in fields(schema)}
    further = classes.get(form) if form else None
    further = further or (classes.get("") if unknown else None)
    if further is None:
        return schema  # an unknown key will be an error
    try:  # imported here, so that the papers' networks train without extensions/
        module = importlib.import_module("extensions.settings")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "extensions":
            raise
        if form and form in classes:
            raise InputError(
                f"config {path}: model.form={form} needs the folder extensions/, which is absent; restore it or set "
                f"form: {next(iter(NETWORKS[network]))}"
            ) from error
        return schema  # whose error will name the unknown key
    return make_dataclass(schema.__name__, [], bases=(getattr(module, further), schema))


def _form(settings: Any, network: str, path: str | Path) -> str:
    """The form of the network that a run trains: that of the checkpoint `start_from`, else `model.form`."""
    start = OmegaConf.select(settings, "start_from")
    if start and Path(str(start)).is_dir():  # else loading it will say so
        return network_config(Path(str(start)) / "config.yaml", network).form
    form = str(OmegaConf.select(settings, "model.form", default=next(iter(NETWORKS[network]))))
    check_known(network, form, f"config {path}: model")
    return form


def _setting(override: str) -> Any:
    if override.endswith("="):
        override += '""'  # YAML would read null, for which key=null is written
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"the value in {override!r} is not YAML ({first_line(error)}); correct it") from error


def _layers(path: str | Path, depth: int = 0) -> list[Any]:
    """The settings of the YAML file `path`, preceded by those of its `base` files."""
    path = existing_file(path, "config")
    try:
        layer = OmegaConf.load(path)
    except Exception as error:  # the YAML library raises many types, with messages of many lines
        raise InputError(f"config {path} is not YAML ({first_line(error)}); mend that line") from error
    if not isinstance(layer, DictConfig):
        raise InputError(f"config {path} does not hold settings; write key: value lines")
    base = layer.pop("base", None)
    if base is None:
        return [layer]
    if depth == 8:
        raise InputError(f"config {path} is based on itself through {base}; take one of the base lines out")
    return [*_layers(path.parent / str(base), depth + 1), layer]


def start(config: Any) -> Accelerator:
    """Check the settings, seed every random generator and return the `Accelerator`. Writes no file."""
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
        # Several processes on CPUs: without `cpu=True`, accelerate would not connect them.
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
        # Without a GPU, `accelerate launch --num_processes 2` silently starts one process.
        print("accelerate has started one process; several without a GPU: --config_file configs/accelerate_cpu.yaml")
    if train.step_batch_norm and train.compile:
        raise InputError("train.step_batch_norm=true cannot be compiled; set train.compile=false")
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
    """Raise InputError if torch.compile lacks a compiler for `device`, or Python's headers."""
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
    """Raise InputError if the discriminator classifies windows of another length than `frames`."""
    if judge.together not in (0, frames):
        raise InputError(
            f"the discriminator judges windows of {judge.together} frames, these have {frames}; "
            f"set discriminator.together={frames}, or 0 for single frames alone"
        )


def windows_at_once(train: TrainConfig, accelerator: Accelerator) -> int:
    """Number of windows in one forward pass of a process."""
    share = train.batch_size // accelerator.num_processes
    return min(train.micro_batch or share, share)


def check_batch(frames: int, train: TrainConfig, accelerator: Accelerator) -> None:
    """Raise InputError if a forward pass has one frame only, for windows of `frames`: batch norm needs two."""
    windows = windows_at_once(train, accelerator)
    if windows * frames < 2:
        raise InputError(
            f"a process sees {windows * frames} frame at once, batch norm needs two or more; raise train.batch_size or "
            f"train.micro_batch"
        )


def check_pairs(weight: float, train: TrainConfig, accelerator: Accelerator) -> None:
    """Raise InputError if L_mi (eq. 7) has a weight, but a step or its first part has one window only."""
    if weight > 0 and windows_at_once(train, accelerator) * accelerator.num_processes < 2:
        raise InputError(
            "L_mi compares frames of different windows, and a step begins with one window; raise train.batch_size or "
            "train.micro_batch, or set losses.mutual_information=0"
        )


def synchronises(accelerator: Accelerator, train: TrainConfig) -> bool:
    """Whether batch norm spans the processes: on CUDA unless it is frozen; SyncBatchNorm has no CPU form."""
    return accelerator.num_processes > 1 and accelerator.device.type == "cuda" and not train.freeze_batch_norm
