"""The files of a training run: states, from which it resumes exactly, checkpoints and TensorBoard events.

A run lives in the folder `output` of its config:

    output/config.yaml, NETWORK.safetensors   the newest weights, a checkpoint folder like any other
    output/best/                              the same for the best validation score so far (`train.best_by`)
    output/step-00050000/                     the same every `train.keep_every` steps; these are never deleted
    output/state/step-00001000/               everything a resumed run needs; the newest `train.keep` are kept
    output/tensorboard/                       curves and picture grids
"""

import contextlib
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from yaml import YAMLError

from media.errors import InputError, first_line, waited_in_vain
from media.files import output_folder
from models.checkpoint import check_form, save_checkpoint, speech_encoder
from training.best import Score

LONG = 600  # seconds of validation, from which on it is said that the other processes wait

Tensors = tuple[Tensor, ...] | list[Tensor]

# RuntimeErrors that are caused by the device, not by a file or a config.
_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistBackendError)
# Errors from reading a state's files if one is truncated, damaged or of other networks.
DAMAGED = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError),
    *(SafetensorError, pickle.UnpicklingError, YAMLError, OmegaConfBaseException),
)


class Run:
    """The files of one training run: states, the newest checkpoint, the best one, and TensorBoard events.

    Create it after the data and the networks, so that an error in these leaves no folder behind.

    Args:
        networks: the prepared networks by their checkpoint names ("heatmap_predictor", ...).
        sections: each network's section of `config.yaml`, by the same names; further entries are saved too.
        averaged: names of the networks that have an exponential moving average (`train.ema`). The average is saved in
            place of the trained weights.
        measure: the validation score that selects `best`.
    """

    def __init__(
        self,
        config: Any,
        accelerator: Accelerator,
        networks: dict[str, nn.Module],
        sections: dict,
        averaged: Sequence[str],
        measure: Score,
    ):
        self.measure = measure
        self.train, self.output = config.train, output_folder(config.output)
        self.accelerator, self.sections = accelerator, sections
        # The steps after the last state of a killed run are logged again: `purge_step` hides the earlier entries.
        done = max((step for step, _ in _states(self.output)), default=0)
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
        self.networks = {name: accelerator.unwrap_model(network) for name, network in networks.items()}
        speech_encoder(self.networks, (self.output,))  # a missing one stops the run before any work
        self.step = 0
        self.best: float | None = None
        self._trained = nn.ModuleDict({name: self.networks[name] for name in averaged})
        self.ema: AveragedModel | None = None
        if self.train.ema > 0:
            self.ema = AveragedModel(self._trained, multi_avg_fn=moving_average(self.train.ema), use_buffers=True)
        self._log_time, self._log_step, self._waited = time.perf_counter(), 0, 0.0
        self._validating_since = time.perf_counter()

        # States hold the unwrapped networks, so that a run can resume with another number of processes.
        def bare(models: list[nn.Module]) -> list[nn.Module]:
            return [accelerator.unwrap_model(model) for model in models]

        def saving(models: list[nn.Module], weights: list[dict], folder: str) -> None:
            weights[:] = [model.state_dict() for model in bare(models)]

        def loading(models: list[nn.Module], folder: str) -> None:
            models[:] = bare(models)

        accelerator.register_save_state_pre_hook(saving)
        accelerator.register_load_state_pre_hook(loading)

    def resume(self) -> int:
        """Load the newest state and return its step; 0 if there is none."""
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
            check_form(self.output, self.networks)
            self.step, folder = states[-1]
            try:
                # Without map_location, Adam's step counts would be on a GPU, and every step would wait to read them.
                self.accelerator.load_state(str(folder), map_location="cpu")
                if self.ema is not None:
                    self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
                self._resume_best(OmegaConf.load(folder / "run.yaml"))
            except _DEVICE_ERRORS:
                raise
            except DAMAGED as error:
                raise InputError(
                    f"{folder} is damaged or not a state of this config's networks ({first_line(error)}); delete it to "
                    f"go on from the one before, go on with the config it was made with, or choose another output"
                ) from error
            self.accelerator.print(f"resuming at step {self.step} from {folder}")
            if self.accelerator.is_main_process:  # a run killed between saving state and weights left older weights
                with writing(self.output):
                    self._save_weights(self.output)
        self._log_step = self.step
        return self.step

    def _resume_best(self, saved: Any) -> None:
        """Restore the best score so far, if the config still has its `best_by` and its number of windows."""
        before = saved.get("best_by", self.measure.default), saved.get("windows", self.train.validation_windows)
        if saved["best"] is None or before == (self.measure.name, self.train.validation_windows):
            self.best = saved["best"]
            return
        self.best = None
        self.accelerator.print(
            f"best was selected by {before[0]} on {before[1]} windows, from here on it is by {self.measure.name} on "
            f"{self.train.validation_windows}; the next validation replaces it"
        )

    def progress(self, batches: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        """Yield (step, batch) and show a progress bar; `step` counts from 1.

        Each step has its own seed, so that validations and restarts do not change its random numbers.
        """
        main, process = self.accelerator.is_main_process, self.accelerator.process_index
        with tqdm(total=self.train.steps, initial=self.step, unit="step", disable=not main) as self.bar:
            waiting_since = time.perf_counter()
            for batch in batches:
                self._waited += time.perf_counter() - waiting_since
                torch.manual_seed(((self.train.seed * 1_000_003 + self.step) * 65_536 + process) % 2**63)
                yield self.step + 1, batch
                self.step += 1
                self.bar.update()
                if self.train.keep_every and self.step % self.train.keep_every == 0:
                    self._keep()  # before the state: a run that is killed in between repeats this step
                if self.step % self.train.save_every == 0 or self.step == self.train.steps:
                    self.save()
                waiting_since = time.perf_counter()

    def average(self) -> None:
        """Update the moving average with the current weights; call it after each step."""
        if self.ema is not None:
            self.ema.update_parameters(self._trained)

    def log(self, step: int, values: dict[str, Tensor | float]) -> None:
        """Every `train.log_every` steps, write scalars (means over the processes) and show the first in the bar.

        Also writes the samples a second and the share of time spent waiting for data, since the last entry.
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
        """Whether this process validates after `step`; only the main process does, the others wait at the next step."""
        due = step % self.train.validate_every == 0 or step == self.train.steps
        self._validating_since = time.perf_counter()
        return due and self.accelerator.is_main_process

    def evaluated(self, name: str) -> Any:
        """The network to validate, in eval mode: its moving average if it has one. Its class is that of the name."""
        return self._best_of(name).eval()

    def _best_of(self, name: str) -> nn.Module:
        if self.ema is None or name not in self._trained:
            return self.networks[name]
        return cast(nn.ModuleDict, self.ema.module)[name]

    def validated(self, step: int, values: dict[str, float], pictures: dict[str, Tensor]) -> None:
        """Log validation scalars and picture grids ((3, H, W) in [0, 1]); save the weights if they are the best so far.

        Only the main process calls it.

        Raises:
            InputError: `values` lacks the scalar of `train.best_by`.
        """
        others, seconds = self.accelerator.num_processes - 1, time.perf_counter() - self._validating_since
        if others and seconds > LONG:
            self.accelerator.print(
                f"step {step}: {others} other processes waited {seconds / 60:.0f} min for process 0, which validated; "
                f"fewer train.validation_windows would take less"
            )
        self.accelerator.log(values, step=step)
        score = self.measure.of(values)
        writer = self.accelerator.get_tracker("tensorboard").writer
        for name, picture in pictures.items():
            writer.add_image(name, picture.clamp(0, 1), step)
        if self.measure.is_better(score, self.best):
            self.best = score
            with writing(self.output / "best"):
                self._save_weights(self.output / "best")
        self._log_time, self._log_step, self._waited = time.perf_counter(), step, 0.0

    def save(self) -> None:
        """Write the state under a temporary name and rename it; delete the oldest states; write the newest weights."""
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
                best = {"best": self.best, "best_by": self.measure.name, "windows": self.train.validation_windows}
                OmegaConf.save({"step": self.step} | best, temporary / "run.yaml")
            self.accelerator.wait_for_everyone()
            if main:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
                for _, old in list(_states(self.output))[: -self.train.keep]:
                    shutil.rmtree(old)
                self._save_weights(self.output)

    def _keep(self) -> None:
        """Write the weights into a checkpoint folder of their own, under a temporary name, and rename it."""
        if not self.accelerator.is_main_process:
            return
        folder = self.output / f"step-{self.step:08d}"
        temporary = folder.with_name(f"{folder.name}.partial")
        with writing(folder, temporary):
            self._save_weights(temporary)
            shutil.rmtree(folder, ignore_errors=True)  # exists if the run was killed after it and repeats the step
            temporary.rename(folder)

    def _save_weights(self, folder: Path) -> None:
        networks = {name: self._best_of(name) for name in self.networks}
        save_checkpoint(folder, networks, self.sections, ears=(self.output,))

    def finish(self, summary: str) -> None:
        """Close the trackers and print the one-line summary, with the best score."""
        self.accelerator.end_training()
        self.accelerator.print(f"{summary}, best {self.measure.shown(self.best)}; weights in {self.output}")


@contextlib.contextmanager
def writing(folder: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn the libraries' errors on a full disk into an InputError, and delete `temporary`."""
    try:
        yield
    except _DEVICE_ERRORS:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch raises RuntimeError
        if waited_in_vain(error):
            raise
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"{folder} cannot be written ({first_line(error)}); the last good state is kept, "
            f"free some space and start again"
        ) from error


def _clean(output: Path) -> None:
    """Delete the half-written files of a killed run."""
    for leftover in (*output.glob("state/*.partial"), *output.glob("step-*.partial")):
        shutil.rmtree(leftover)
    for folder in (output, output / "best", output / "pretraining"):
        for leftover in folder.glob(".*.partial.*"):
            leftover.unlink()


def holds_a_run(output: str | Path) -> bool:
    """Whether the folder `output` holds a state to resume from."""
    return any(_states(Path(output)))


def _states(output: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the complete states of a run, oldest first."""
    for folder in sorted((output / "state").glob("step-*")):
        match = re.fullmatch(r"step-(\d{8})", folder.name)
        if match:
            yield int(match[1]), folder


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """`AveragedModel`'s exponential moving average; integer tensors (indices, counts) are copied."""
    average = get_ema_multi_avg_fn(decay)

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:  # tensors of one type
        if averages[0].is_floating_point():
            average(averages, current, count)
        else:
            for old, new in zip(averages, current, strict=True):
                old.copy_(new)

    return update
