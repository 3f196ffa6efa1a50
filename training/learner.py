"""The training step: a network with its optimizer and schedule, made ready for the devices."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from losses.adversarial import discriminator_loss
from media.errors import InputError
from training.balance import gradient_norms
from training.config import TrainConfig, synchronises
from training.data import parts


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
    if train.gradient_norms_every > 0:  # more than one backward pass through a compiled graph
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
        shared: groups of parameters on which the terms' gradients are compared every `train.gradient_norms_every`
            steps, as `gradient_norms` takes them; None takes all.
        sums: terms by a name of their sum, whose gradient is measured beside theirs.
    """

    def __init__(
        self,
        network: nn.Module,
        train: TrainConfig,
        accelerator: Accelerator,
        betas: Sequence[float] | None = None,
        shared: Mapping[str, Sequence[nn.Parameter]] | None = None,
        sums: Mapping[str, Sequence[str]] | None = None,
    ):
        self.train, self.accelerator = train, accelerator
        self.shared, self.sums = shared or {"": list(network.parameters())}, sums or {}
        adam = optimizer(network.parameters(), train, betas)
        self.network, self.optimizer, self.schedule = accelerator.prepare(network, adam, scheduler(adam, train))

    def step(
        self, batch: dict, step: int, compute: Callable[[dict], tuple[dict[str, Tensor], Any]], partial: bool = False
    ) -> tuple[dict[str, Tensor | float], list[Any]]:
        """Change the network once, by the gradient of a batch's loss.

        A NaN or Inf in a loss term or in the gradient ends the run before the weights change, with an `InputError` that
        names the step, the term and the clips; the states saved before stay. So does a loss without a term.

        Args:
            batch: a process's share of the step, whose "clip" lists a clip id a window.
            step: the number of this step, for the message.
            compute: takes windows of the batch, all of them or at most `train.micro_batch` at a time, and gives their
                loss terms by name, and anything else, without a gradient.
            partial: the loss may leave parameters without a gradient, the same ones in every process. They stay as
                they are: neither Adam's moments nor the weight decay move them.

        Returns:
            What to log (the loss, its terms, the gradient's norm and the learning rate; where they are due, the norms
            of the terms' own gradients on the step's first part), and what else `compute` gave.
        """
        windows = len(batch["clip"])
        pieces = list(parts(batch, self.train.micro_batch or windows))
        values, others = {}, []
        for place, piece in enumerate(pieces):
            exchange = place + 1 == len(pieces) and not partial  # the processes' gradients, once a step
            with contextlib.nullcontext() if exchange else self.accelerator.no_sync(self.network):
                terms, other = compute(piece)
                if not terms:
                    raise InputError("no loss term has a weight, and nothing would be learned; set one of losses.*")
                loss, share = sum(terms.values()), len(piece["clip"]) / windows
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
        """`gradient_norms` of the terms and sums, at step 1 and every `train.gradient_norms_every` steps; else none."""
        every = self.train.gradient_norms_every
        if every == 0 or (step != 1 and step % every):
            return {}
        parts = {name: [terms[term] for term in summed if term in terms] for name, summed in self.sums.items()}
        terms = terms | {name: sum(summed) for name, summed in parts.items() if summed}
        scaler = self.accelerator.scaler
        return gradient_norms(terms, self.shared, scaler.get_scale() if scaler is not None else 1.0)

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
        train = dataclasses.replace(train, gradient_norms_every=0)  # it has one term
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
