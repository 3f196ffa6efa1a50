"""The training step: a network with its optimizer and schedule, prepared by accelerate."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from losses.adversarial import discriminator_loss
from media.errors import InputError
from models.modulation import ModulatedBlock
from models.precision import total
from training.balance import gradient_norms
from training.config import TrainConfig, synchronises
from training.data import parts
from training.step_norm import StepNorm

Network = TypeVar("Network", bound=nn.Module)


def synchronised(network: Network, accelerator: Accelerator, train: TrainConfig) -> Network:
    """`network`; if `synchronises`, with batch norm over the batches of all processes."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if synchronises(accelerator, train) else network


def recomputing(network: Network, train: TrainConfig) -> Network:
    """`network`; with `train.gradient_checkpointing`, its modulated blocks recompute their activations.

    Raises:
        InputError: the network has no such block.
    """
    if train.gradient_checkpointing:
        blocks = [module for module in network.modules() if isinstance(module, ModulatedBlock)]
        if not blocks:
            raise InputError("train.gradient_checkpointing is for STSA's face synthesizer; leave it out here")
        for block in blocks:
            block.recompute = True
    return network


def optimizer(parameters: Any, train: TrainConfig, betas: Sequence[float] | None = None) -> torch.optim.Optimizer:
    """AdamW, which is Adam at weight decay 0. On resume, its settings come from the current config."""
    first, second = betas or train.betas
    adam = torch.optim.AdamW(parameters, lr=train.learning_rate, betas=(first, second), weight_decay=train.weight_decay)

    def with_own_settings(adam: torch.optim.Optimizer, state: dict) -> dict:
        own = [{name: value for name, value in group.items() if name != "params"} for group in adam.param_groups]
        return state | {"param_groups": [saved | ours for saved, ours in zip(state["param_groups"], own, strict=True)]}

    adam.register_load_state_dict_pre_hook(with_own_settings)
    return adam


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """On resume, restores the step count only; the learning rate comes from the current config."""

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
    """`network` for the training step; with `train.compile`, through torch.compile.

    Validation calls the network itself: its other shapes and its eval mode would each start a compilation. A network
    with SyncBatchNorm is not compiled: SyncBatchNorm breaks the graph, which leaves no gain.
    """
    if not train.compile or any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        return network
    if train.gradient_norms_every > 0:  # a compiled graph then has several backward passes
        from torch._functorch import config

        config.donated_buffer = False
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
    if bool(stacked.isfinite().all()):  # waits for the device once, instead of once a term
        return
    name, value = next((name, value) for name, value in values.items() if not bool(value.isfinite()))
    raise InputError(
        f"step {step}: the {what} {name} is {float(value)} on the clips {', '.join(batch['clip'])}; "
        f"the last good state is kept, look at these clips or lower train.learning_rate"
    )


class Learner:
    """A network with its optimizer and schedule, prepared by accelerate, and its training step.

    Args:
        betas: Adam's; None takes `train.betas`.
        shared: groups of parameters, as `gradient_norms` takes them. The terms' gradient norms on them are logged every
            `train.gradient_norms_every` steps. None takes all parameters.
        sums: maps names of sums to the names of their terms; the gradient norms of these sums are logged too.
        rates: pairs of parameters and the factor of their learning rate; the other parameters' is 1.
    """

    def __init__(
        self,
        network: nn.Module,
        train: TrainConfig,
        accelerator: Accelerator,
        betas: Sequence[float] | None = None,
        shared: Mapping[str, Sequence[nn.Parameter]] | None = None,
        sums: Mapping[str, Sequence[str]] | None = None,
        rates: Sequence[tuple[Sequence[nn.Parameter], float]] = (),
    ):
        self.train, self.accelerator = train, accelerator
        self.shared, self.sums = shared or {"": list(network.parameters())}, sums or {}
        apart = {id(parameter) for parameters, _ in rates for parameter in parameters}
        groups: list[dict] = [
            {"params": [parameter for parameter in network.parameters() if id(parameter) not in apart]}
        ]
        groups += [{"params": list(parameters), "lr": rate * train.learning_rate} for parameters, rate in rates]
        adam = optimizer(groups, train, betas)
        self.network, self.optimizer, self.schedule = accelerator.prepare(network, adam, scheduler(adam, train))

    def step(
        self, batch: dict, step: int, compute: Callable[[dict], tuple[dict[str, Tensor], Any]], partial: bool = False
    ) -> tuple[dict[str, Tensor | float], list[Any]]:
        """Update the network once, by the gradient of a batch's loss.

        Args:
            batch: a process's share of the step; its "clip" lists one clip id a window.
            step: the number of this step, for messages.
            compute: maps a part of the batch, at most `train.micro_batch` windows, to its loss terms by name and to any
                other result without a gradient.
            partial: the loss may leave parameters without a gradient, the same ones in every process. Neither Adam's
                moments nor the weight decay change these parameters.

        Returns:
            The values to log, and the other result of each part. The values are the loss, its terms, the gradient's
            norm and the learning rate; every `train.gradient_norms_every` steps also the norms of the terms' own
            gradients on the step's first part.

        Raises:
            InputError: a loss term or the gradient is NaN or Inf (the message names the step, the term and the clips),
                or the loss has no term. The weights and the saved states do not change.
        """
        windows = len(batch["clip"])
        pieces = list(parts(batch, self.train.micro_batch or windows))
        whole = None
        if self.train.step_batch_norm and len(pieces) > 1:
            whole = StepNorm(self.network, lambda: compute(batch))
        values: dict[str, Tensor | float] = {}
        others = []
        for place, piece in enumerate(pieces):
            exchange = place + 1 == len(pieces) and not partial  # processes exchange gradients once a step
            with contextlib.ExitStack() as stack:
                if not exchange:
                    stack.enter_context(self.accelerator.no_sync(self.network))
                if whole:
                    stack.enter_context(whole.applied())
                terms, other = compute(piece)
                if not terms:
                    raise InputError("no loss term has a weight, and nothing would be learned; set one of losses.*")
                loss, share = total(terms.values()), len(piece["clip"]) / windows
                _check_finite(terms | {"total": loss}, "loss term", piece, step)
                if place == 0:
                    norms = self._norms_of(terms, step)
                self.accelerator.backward(loss * share)
            for name, value in ({"loss": loss} | terms).items():
                values[name] = values.get(name, 0) + share * value.detach()
            others.append(other)
        if partial and self.accelerator.num_processes > 1:  # DDP would wait for the gradient of every parameter
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        values["gradient_norm"] = self._norm(batch, step)
        values["learning_rate"] = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return {f"train/{name}": value for name, value in (values | norms).items()}, others

    def _norms_of(self, terms: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`gradient_norms` of terms and sums at step 1 and every `train.gradient_norms_every` steps, otherwise {}."""
        every = self.train.gradient_norms_every
        if every == 0 or (step != 1 and step % every):
            return {}
        parts = {name: [terms[term] for term in summed if term in terms] for name, summed in self.sums.items()}
        terms = terms | {name: total(summed) for name, summed in parts.items() if summed}
        scaler = self.accelerator.scaler
        return gradient_norms(terms, self.shared, scaler.get_scale() if scaler is not None else 1.0)

    def _norm(self, batch: dict, step: int) -> Tensor:
        """Clip the gradient to `train.clip_gradients`; returns the norm before clipping."""
        limit = self.train.clip_gradients if self.train.clip_gradients > 0 else math.inf
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), limit)
        if self.train.precision != "fp16":
            _check_finite({"norm": norm}, "gradient's", batch, step)
        elif self.accelerator.scaler.get_scale() < 1:  # at an overflow it skips the step and lowers the shared scale
            raise InputError(
                f"step {step}: gradients of float16 overflow at every scale; the last good state is kept, use "
                f"train.precision=bf16 or lower train.learning_rate"
            )
        return norm


class Adversary(Learner):
    """The patch discriminator of a generator (LSGAN), and its training step."""

    def __init__(self, network: nn.Module, train: TrainConfig, accelerator: Accelerator):
        train = dataclasses.replace(train, gradient_norms_every=0)  # it has one term
        super().__init__(network, train, accelerator, betas=(0.5, 0.999))

    def judge(self, true: Tensor, generated: Tensor, batch: dict, step: int) -> dict[str, Tensor | float]:
        """Train the discriminator once on `true` and `generated`, each (B, T, 3, H, W); returns the values to log."""

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
