"""Train the lip-sync expert of L_sync, which embeds five frames of a lower face and their sound.

    python train_sync.py --config configs/demo_sync.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/sync

- `loss: contrastive` is G4G's eq. 6-10 and 16 on the similarity matrix of a process's batch. Sounds of the same clip,
  shifted by a few frames, are further negatives.
- `loss: shifted` has only these shifted sounds as negatives.
- `loss: bce` is Wav2Lip's binary cross-entropy on true pairs and on pairs shifted within the clip. L_sync, which is
  -log cos, needs an expert of this loss: the other two losses do not determine the level of the cosines.

The expert is Wav2Lip's network on log-mel. On few people, `model.form: features` learns what Wav2Lip's does not
(extensions/README.md); it has loss terms of its own, in place of `loss`.

Validation on clips of people outside the training set: accuracy of the offset, found among -15 .. 15 frames, for
windows of five frames and for whole clips; mean -log cos of true and of shifted windows (losses/calibration.py). `best`
keeps the weights with the highest accuracy of windows within one frame.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.settings import answer_help

answer_help(__name__, __file__)

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_prep.clips import Clip, window_starts
from data_prep.index import open_clips
from data_prep.offsets import find_offset, similarity_curves
from data_prep.sync import SyncDataset
from losses.calibration import calibrated
from losses.sync import contrastive_loss, negative_log, shifted_loss, sync_classification_loss, sync_loss
from media.errors import InputError, command
from models.checkpoint import build_network
from models.chung_syncnet import SHIFTS
from models.sync_expert import FRAMES, SyncExpert, SyncExpertConfig, lower_faces
from training.best import best_score
from training.config import DataConfig, TrainConfig, check_batch, extension, parse_config, start
from training.data import training_batches
from training.learner import Learner, compiled, synchronised, train_mode
from training.run import Run


@dataclass
class SyncTraining:
    """The settings of this script."""

    trained: ClassVar[str] = "sync_expert"  # the network of `model`, by its name in checkpoints
    extensions: ClassVar[dict[str, str]] = {"features": "FeatureExpertExtension"}
    data: DataConfig = field(default_factory=DataConfig)
    model: SyncExpertConfig = field(default_factory=SyncExpertConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: str = "contrastive"  # "contrastive", "shifted", or "bce", which the expert of L_sync needs
    temperature: float = 0.07  # softmax temperature of contrastive and shifted
    negatives: int = 4  # number of shifted sounds of the same clip per window
    furthest: int = 15  # largest shift in frames; with bce, shifts stay within the clip
    output: str = MISSING  # the run's folder


@torch.no_grad()
def validate(expert: SyncExpert, clips: list[Clip]) -> dict[str, float]:
    """Shares of windows and of clips whose offset is found exactly, and within one frame: by chance, 1/31 and 3/31.

    Also the mean -log cos of windows with their own sound, and with that sound shifted by 2 to 15 frames.
    """
    curves = [similarity_curves(expert, clip) for clip in clips]
    curves = [curve for curve in curves if len(curve)]
    errors = np.concatenate([curve.argmax(axis=1) - SHIFTS for curve in curves])
    offsets = np.array([find_offset(curve)[0] for curve in curves])
    levels = negative_log(torch.from_numpy(np.concatenate(curves))).mean(dim=0)
    return {
        "val/window_exact": float((errors == 0).mean()),
        "val/window_within_1": float((abs(errors) <= 1).mean()),
        "val/clip_exact": float((offsets == 0).mean()),
        "val/clip_within_1": float((abs(offsets) <= 1).mean()),
        "val/sync_true": float(levels[SHIFTS]),
        "val/sync_shifted": float(torch.cat([levels[: SHIFTS - 1], levels[SHIFTS + 2 :]]).mean()),
    }


class SoundsAndFaces(nn.Module):
    """Applies Wav2Lip's expert to a batch of `SyncDataset`: each face with its own and with shifted sounds."""

    def __init__(self, expert: SyncExpert):
        super().__init__()
        self.expert = expert

    def forward(self, mel: Tensor, lower_faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embed sounds (B, 1 + N, 1, 80, 16) and faces (B, 15, 48, 96): (B, 1 + N, D) and (B, D)."""
        sounds, face = self.expert(mel.flatten(0, 1), lower_faces)
        return sounds.unflatten(0, mel.shape[:2]), face


def sync_terms(sounds: Tensor, face: Tensor, config: SyncTraining) -> dict[str, Tensor]:
    """The loss of faces (B, D) and of sounds (B, 1 + N, D), each face's own sound first, then shifted ones."""
    own, others = sounds[:, 0], sounds[:, 1:]
    if config.loss == "bce":
        shifted = sync_classification_loss(others, face[:, None], torch.zeros(others.shape[:2], device=face.device))
        return {"bce": (sync_loss(own, face) + shifted) / 2}  # the mean of Wav2Lip's random choice between both pairs
    if config.loss == "shifted":
        return {"shifted": shifted_loss(own, face, others, config.temperature)}
    return {"contrastive": contrastive_loss(own, face, config.temperature, others)}


def check(config: SyncTraining) -> None:
    """InputError where a setting of this script is out of range."""
    if config.loss not in ("contrastive", "shifted", "bce"):
        raise InputError(f"loss={config.loss} is unknown; use contrastive, shifted or bce")
    if config.temperature <= 0:
        raise InputError(f"temperature={config.temperature} must be positive")
    if config.data.holdout:
        raise InputError(f"data.holdout={config.data.holdout}: the expert is validated on whole clips; set it to 0")


def clips_of(config: SyncTraining) -> tuple[SyncDataset, list[Clip]]:
    """The training dataset and the clips for validation.

    Raises:
        InputError: clips cannot be used, or are too short.
    """
    data = config.data
    dataset = SyncDataset(
        data.train,
        config.negatives,
        config.furthest,
        data.augment,
        data.max_offset,
        data.correct_offsets,
        data.decoded,
        near=config.loss != "bce",
        crop=config.model.faces,
    )
    clips = open_clips(data.val, crop=config.model.faces)
    if not any(len(window_starts(clip, FRAMES)) for clip in clips):
        raise InputError(f"data folder {data.val}: no clip has five frames in a row; add longer clips")
    return dataset, clips


def prepared(
    further: Any, expert: Any, dataset: SyncDataset
) -> tuple[Dataset, nn.Module, Callable[[Callable, dict], dict[str, Tensor]]]:
    """The items of `form: features`, the network that trains, and its loss terms: of that network and a batch."""
    # Imported here: Wav2Lip's expert trains without extensions/.
    from extensions.feature_scale import fit_scale
    from extensions.sync_stretches import ExpertOnStretches, SyncStretches, stretch_terms

    fit_scale(expert, dataset)
    items = SyncStretches(dataset, expert, further.stretches.windows, further.data.augment)

    def terms_of(embed: Callable, part: dict) -> dict[str, Tensor]:
        compared = embed(part["mouths"], part["rows"], part["motion"])
        return stretch_terms(compared, part["motion"], further.temperature, further.stretches)

    return items, ExpertOnStretches(expert, further.furthest), terms_of


def verdict(scores: dict[str, float], loss: str) -> str:
    """A line on whether the expert of these validation scores is calibrated for L_sync."""
    true, shifted = scores["val/sync_true"], scores["val/sync_shifted"]
    if calibrated(true, shifted):
        found = "calibrated for L_sync"
    elif loss == "bce":
        found = "not yet calibrated for L_sync; train longer or on more people"
    else:
        found = "not calibrated for L_sync (loss=bce is for it); offsets and G4G's eq. 16 need no level"
    return f"-log cos of true windows {true:.2f}, of shifted ones {shifted:.2f}: {found}"


@command
def main() -> None:
    config = parse_config(SyncTraining, __doc__)
    measure = best_score(config.train.best_by, ["accuracy"])
    check(config)
    accelerator = start(config)
    check_batch(1, config.train, accelerator)

    dataset, clips = clips_of(config)
    expert = build_network("sync_expert", config.model)
    further = extension(config)
    if further is not None:
        items, network, terms_of = prepared(further, expert, dataset)
    else:
        items, network, terms_of = dataset, SoundsAndFaces(expert), None
    network = synchronised(network, accelerator, config.train)
    learner = Learner(network, config.train, accelerator)
    expert = accelerator.unwrap_model(learner.network).expert
    sections = {"sync_expert": config.model, "training": config}
    run = Run(config, accelerator, {"sync_expert": expert}, sections, averaged=["sync_expert"], measure=measure)
    first = run.resume()

    embed = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], None]:
        with accelerator.autocast():
            if terms_of is not None:
                return terms_of(embed, part), None
            sounds, face = embed(part["sync_audio"], lower_faces(part["frames"]))
            return sync_terms(sounds, face, config), None

    scores = {}
    for step, batch in run.progress(training_batches(items, config, accelerator, first)):
        train_mode(learner.network, config.train)
        values, _ = learner.step(batch, step, compute)
        run.average()
        run.log(step, values)
        if run.due(step):
            scores = validate(run.evaluated("sync_expert"), clips)
            run.validated(step, scores, {})

    if scores:
        accelerator.print(verdict(scores, config.loss if further is None else "bce"))
    run.finish(f"trained the sync expert for {run.step} steps")


if __name__ == "__main__":
    sys.exit(main())
