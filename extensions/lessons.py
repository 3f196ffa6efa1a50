"""Pretrains an audio encoder on the visemes of synthetic speech, before the run.

The state is saved in the run's `output/pretraining/`. The batches depend on the seed and the step only, so a killed
lesson resumes and ends with the same weights.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from extensions.speech_windows import VISEMES, SpeechWindows
from media.audio import FEATURES
from media.errors import InputError, first_line
from media.files import replacing
from training.run import DAMAGED, writing

_SAVE_EVERY = 200  # steps


@dataclass
class VisemeTraining:
    """Pretraining of an audio encoder on the visemes of synthetic speech."""

    data: str = ""  # file of extensions.synthetic_speech; empty: no pretraining, the weights are random
    steps: int = 2500  # number of steps
    batch_size: int = 256  # windows of sound a step
    learning_rate: float = 2.0e-3  # peak of the learning rate's cycle


def learn_visemes(
    encoder: nn.Module,
    embed: Callable[[Tensor], Tensor],
    config: VisemeTraining,
    seed: int,
    output: str | Path,
    places: Sequence[int] = (8,),
) -> None:
    """Train `encoder` to classify the visemes of synthetic speech, then freeze it.

    Trained on clips of few people, it would learn speaker identity. Synthetic speech has many voices.

    Args:
        embed: maps log-mel windows (B, 80, 16) to embeddings (B, D) through `encoder`.
        output: the run's folder.
        places: the mel frames of a window's 16 whose visemes are classified.

    Raises:
        InputError: a setting is out of range, the file of `config.data` or the state of a killed lesson cannot be used.
    """
    if config.batch_size < 2:
        raise InputError(f"speech.batch_size={config.batch_size} gives batch norm no statistics; use 2 or more")
    windows, device = SpeechWindows(config.data, seed, places), next(encoder.parameters()).device
    encoder.eval()
    with torch.no_grad():
        width = embed(torch.zeros(2, *FEATURES["mel"], device=device)).shape[1]
    encoder.requires_grad_(True).train()
    head = nn.Linear(width, len(VISEMES) * len(places)).to(device)

    def loss(step: int) -> Tensor:
        mel, visemes = (part.to(device) for part in windows.batch(config.batch_size, step))
        logits = head(embed(mel)).unflatten(1, (len(VISEMES), len(places)))
        return F.cross_entropy(logits, visemes, label_smoothing=0.05)

    learn("visemes", nn.ModuleList([encoder, head]), loss, config, seed, output)
    encoder.requires_grad_(False).eval()


def learn(
    what: str,
    network: nn.Module,
    loss: Callable[[int], Tensor],
    config: VisemeTraining,
    seed: int,
    output: str | Path,
) -> None:
    """Minimise `loss(step)` by AdamW with one cycle of the learning rate, and show a progress bar.

    The state is saved in `output/pretraining/{what}.pt`. A state with the same settings is resumed; a state with other
    settings is replaced.
    """
    if config.steps < 1 or config.batch_size < 1:
        raise InputError(f"{what}: {config.steps} steps of {config.batch_size} teach nothing; use 1 or more of both")
    if not config.learning_rate > 0:
        raise InputError(f"{what}: learning_rate={config.learning_rate} must be positive")
    parameters = list(network.parameters())
    adam = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=0.02)
    # Not 0.05: with 20 steps, the rise would have 0 steps, and the scheduler divides by that number.
    rise = 0.0501
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, config.learning_rate, total_steps=config.steps, pct_start=rise)
    path = Path(output) / "pretraining" / f"{what}.pt"
    settings = dataclasses.asdict(config) | {"seed": seed}
    done = _resume(path, settings, network, adam, schedule)
    main = PartialState().is_main_process  # other processes do the same steps; the run gives them its weights
    with tqdm(total=config.steps, initial=done, desc=what, unit="step", disable=not main) as bar:
        for step in range(done, config.steps):
            value = loss(step)
            adam.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            adam.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{float(value.detach()):.4f}")
            bar.update()
            if main and ((step + 1) % _SAVE_EVERY == 0 or step + 1 == config.steps):
                parts: dict[str, Any] = {"network": network, "adam": adam, "schedule": schedule}
                state = {name: part.state_dict() for name, part in parts.items()}
                with writing(path.parent), replacing(path) as temporary:
                    torch.save(state | {"settings": settings, "step": step + 1}, temporary)
    adam.zero_grad()  # else the run's own optimizer would apply the last gradient


def _resume(path: Path, settings: dict, network: nn.Module, adam: torch.optim.Optimizer, schedule: LRScheduler) -> int:
    """Load a lesson's state and return its number of steps; 0 if there is no state with these settings."""
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != settings:
            return 0
        network.load_state_dict(state["network"])
        adam.load_state_dict(state["adam"])
        schedule.load_state_dict(state["schedule"])
        return state["step"]
    except DAMAGED as error:
        raise InputError(f"{path} is not a state of this config's network ({first_line(error)}); delete it") from error
