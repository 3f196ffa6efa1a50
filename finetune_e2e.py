"""Fine-tune both networks end to end: the synthesis takes predicted heatmaps, and its gradients reach the predictor.

    python finetune_e2e.py --config configs/demo_e2e.yaml heatmap_predictor=RUN/best face_synthesizer=RUN/best

The loss is L_face + L_heatmap (eq. 10 and 4). L_face supervises both networks, L_heatmap the predictor.

Validation scores face crops of people outside the training set. Their heatmaps are predicted from the sound.

- PSNR and SSIM; LPIPS and FID, if their weights are present.
- With L_sync, -log cos of the generated and of the true windows (losses/calibration.py).
- The distance of the predicted heatmaps from the true ones (the first term of eq. 3).
- LipLMD of the predicted keypoints.

`best` keeps the weights with the best PSNR, or with the best score that `train.best_by` names.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from training.settings import answer_help

answer_help(__name__, __file__)

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from omegaconf import MISSING
from torch import Tensor, nn
from torchvision.utils import make_grid

from data_prep.windows import ClipDataset
from losses.face import FaceLosses, FaceObjective
from losses.heatmap import HeatmapLosses, freeze_unread, heatmap_scores, heatmap_terms
from media.errors import InputError, command
from metrics.crops import Validation
from models.checkpoint import build_network, check_crops, expert_audio, load_network
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.face_synthesizer import Alignment, FaceSynthesizer, mask_hidden
from models.guidance import guidance, inputs_of
from models.heatmap_predictor import WindowEncoder
from training.best import best_score
from training.config import (
    DataConfig,
    TrainConfig,
    check_batch,
    check_judged,
    check_pairs,
    extension,
    parse_config,
    start,
)
from training.data import mean_of_parts, move, parts, training_batches, training_windows, validation_batch
from training.learner import Adversary, Learner, compiled, recomputing, synchronised, train_mode
from training.run import Run
from training.validation import face_validation

SCORES = ("psnr", "lpips", "fid", "sync", "heatmap", "liplmd")  # of train.best_by


@dataclass
class Finetuning:
    """The settings of this script."""

    extensions: ClassVar[dict[str, str]] = {"": "FaceExtension"}
    heatmap_predictor: str = MISSING  # checkpoint folder to start from
    face_synthesizer: str = MISSING  # checkpoint folder to start from
    data: DataConfig = field(default_factory=DataConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)  # where face_synthesizer has none
    losses: FaceLosses = field(default_factory=FaceLosses)
    heatmap_losses: HeatmapLosses = field(default_factory=HeatmapLosses)
    train: TrainConfig = field(default_factory=TrainConfig)
    frames: int = 5  # frames of each window that are synthesized, around its centre; the sync loss needs 5
    true_heatmaps: float = 0.0  # share of the windows that are generated from their true heatmaps
    train_predictor: bool = True  # false: freeze the predictor and train the synthesizer on its heatmaps
    sync_expert: str = ""  # checkpoint folder of train_sync.py, for the sync loss
    output: str = MISSING  # the run's folder


def first_synthesized(predictor: WindowEncoder, frames: int) -> int:
    """The index, in the predictor's window, of the first of the `frames` around the centre."""
    return (predictor.config.frames - frames) // 2


class Dubbing(nn.Module):
    """Both networks as one: sound, pose and references to faces.

    Args:
        frames: number of a window's frames that are synthesized, around its centre.
        true_heatmaps: share of the training windows whose faces are generated from the true heatmaps.
    """

    def __init__(self, predictor: WindowEncoder, synthesizer: FaceSynthesizer, frames: int, true_heatmaps: float = 0.0):
        super().__init__()
        self.predictor, self.synthesizer, self.true_heatmaps = predictor, synthesizer, true_heatmaps
        first = first_synthesized(predictor, frames)
        self.synthesized = slice(first, first + frames)

    def forward(self, batch: dict) -> tuple[Tensor, Alignment, Tensor, Tensor, Tensor]:
        """A batch of `ClipDataset` windows of T frames, of which the t in the middle are synthesized.

        Returns:
            faces (B,t,3,H,W); their `Alignment`; the landmarks (B,t,131,2) on which the synthesizer was conditioned,
            without a gradient; the predicted heatmaps (B,T,1,H,W) and keypoints (B,T,57,2).
        """
        references = batch["reference_images"], batch["reference_heatmaps"]
        heatmaps, keypoints = self.predictor(*inputs_of(self.predictor, batch))
        guide, further = guidance(self.synthesizer, heatmaps, keypoints, batch["landmarks"])
        if self.training and self.true_heatmaps > 0:
            from_true = torch.rand(len(heatmaps), device=heatmaps.device) < self.true_heatmaps
            guide = torch.where(from_true[:, None, None, None, None], batch["heatmaps"], guide)
            further = [torch.where(from_true[:, None, None, None], batch["landmarks"], x) for x in further]
        inputs = (batch["frames"], guide, batch["audio"], *further)
        frames, guide, audio, *further = (x[:, self.synthesized] for x in inputs)
        reference_landmarks = [batch["reference_landmarks"]] if further else []
        inputs = (frames, guide, *references, audio, *further, *reference_landmarks)
        faces, alignment = self.synthesizer(*inputs, alignment=True)
        landmarks = further[0] if further else batch["landmarks"][:, self.synthesized]
        return faces, alignment, landmarks.detach(), heatmaps, keypoints

    def targets(self, batch: dict, landmarks: Tensor) -> dict:
        """The batch of the synthesized frames for `FaceObjective`; its `mel` is their sound.

        Frames and keypoints are the true ones. `landmarks` are those that `forward` returns.
        """
        true = {name: batch[name][:, self.synthesized] for name in ("frames", "keypoints")}
        return batch | true | {"landmarks": landmarks}


@torch.no_grad()
def validate(
    dubbing: Dubbing,
    batch: dict,
    weights: HeatmapLosses,
    validation: Validation,
    device: torch.device,
    further: Callable[[Alignment, dict], dict[str, float]] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars on the fixed validation windows, and a picture grid of the windows' first synthesized frames.

    `batch` is on the CPU; four windows at a time are moved to `device`. `further` computes more scores.
    """
    made, shown, scores = [], [], []
    for part in parts(batch, 4):
        part = move(part, device)
        generated, alignment, landmarks, heatmaps, keypoints = dubbing(part)
        values = heatmap_scores(heatmaps, keypoints, part, weights)
        if further is not None:
            values |= further(alignment, dubbing.targets(part, landmarks))
        scores.append((len(generated), values))
        made.append(generated.cpu())
        shown.append(heatmaps[:, dubbing.synthesized][:, 0].cpu())
    faces, true = torch.cat(made), batch["frames"][:, dubbing.synthesized]
    values = validation(faces) | mean_of_parts(scores)
    crop = dubbing.synthesizer.config.crop
    heatmap = F.interpolate(torch.cat(shown)[:8], crop.shape).expand(-1, 3, -1, -1)
    columns = [batch["reference_images"][:8, 0], heatmap, mask_hidden(true[:8, 0], crop), faces[:8, 0], true[:8, 0]]
    grid = make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns))
    return values, {"val/reference, heatmap, masked, generated, true": grid}


def check(config: Finetuning, predictor: WindowEncoder, synthesizer: FaceSynthesizer) -> None:
    """InputError where the two networks or the settings do not go together."""
    ours, theirs = predictor.config, synthesizer.config
    for name in ("audio", "references") if synthesizer.takes_sound else ("references",):
        if getattr(ours, name) != getattr(theirs, name):
            raise InputError(
                f"the predictor was trained with {name}={getattr(ours, name)}, the synthesizer with "
                f"{getattr(theirs, name)}; start from checkpoints that agree"
            )
    check_crops(predictor, synthesizer, config.heatmap_predictor, config.face_synthesizer)
    if not 0 <= config.true_heatmaps <= 1:
        raise InputError(f"true_heatmaps={config.true_heatmaps} is a share of the windows; use 0 to 1")
    if not 1 <= config.frames <= ours.frames:
        raise InputError(f"frames={config.frames} must be between 1 and the predictor's window, {ours.frames}")


def starting_point(config: Finetuning) -> tuple[WindowEncoder, FaceSynthesizer]:
    """Both networks of the checkpoints that a run starts from; InputError where they do not go together."""
    predictor = load_network(config.heatmap_predictor, "heatmap_predictor")
    synthesizer = load_network(config.face_synthesizer, "face_synthesizer")
    check(config, predictor, synthesizer)
    return predictor, synthesizer


def discriminator(config: Finetuning) -> PatchDiscriminator:
    """The discriminator of the synthesizer's checkpoint, or a fresh one if the checkpoint has none."""
    if (Path(config.face_synthesizer) / "discriminator.safetensors").is_file():
        return load_network(config.face_synthesizer, "discriminator")
    return build_network("discriminator", config.discriminator)


def build_objective(config: Finetuning, synthesizer: FaceSynthesizer, accelerator: Accelerator) -> FaceObjective:
    """The loss terms of eq. 10, on the accelerator's device; InputError where one lacks what it needs."""
    check_pairs(config.losses.mutual_information, config.train, accelerator)
    options = config.frames, config.sync_expert, accelerator.print, synthesizer.mutual_information
    return FaceObjective(config.losses, synthesizer.config, *options).to(accelerator.device)


def extra_terms(config: Finetuning, synthesizer: FaceSynthesizer) -> tuple[Callable | None, Callable | None, list[str]]:
    """The loss terms, validation scores and names of terms of extensions/losses.py, where the config has them."""
    settings = extension(config)
    if settings is None:
        return None, None, []
    from extensions.losses import ExtraLosses, ExtraObjective, flow_score  # here, so that eq. 10 needs no extensions/

    return ExtraObjective(settings.extra_losses, synthesizer.config), flow_score, field_names(ExtraLosses)


def field_names(kind: type) -> list[str]:
    """The names of a dataclass's fields."""
    return [each.name for each in dataclasses.fields(kind)]


def windows_of(config: Finetuning, predictor: WindowEncoder) -> tuple[ClipDataset, ClipDataset]:
    """The training and the validation dataset, of the predictor's windows."""
    model = predictor.config
    shape = {"audio": model.audio, "window": model.frames, "references": model.references, "crop": model.crop}
    shape |= {"sync_from": first_synthesized(predictor, config.frames), "sync_kind": expert_audio(config.sync_expert)}
    return training_windows(config.data, shape)


def freeze_untrained(
    config: Finetuning, predictor: WindowEncoder, synthesizer: FaceSynthesizer, objective: FaceObjective
) -> None:
    """Freeze the parts of both networks that this run does not train."""
    freeze_unread(predictor, config.heatmap_losses)
    if not config.train_predictor:
        predictor.requires_grad_(False)
    if synthesizer.mutual_information is not None and objective.information is None:
        synthesizer.mutual_information.requires_grad_(False)


@command
def main() -> None:
    config = parse_config(Finetuning, __doc__)
    measure = best_score(config.train.best_by, SCORES, config.sync_expert)
    predictor, synthesizer = starting_point(config)
    accelerator = start(config)
    references = predictor.config.references
    check_batch(min(config.frames, references) if config.train_predictor else config.frames, config.train, accelerator)
    objective = build_objective(config, synthesizer, accelerator)
    extra, extra_scores, extra_names = extra_terms(config, synthesizer)
    dataset, others = windows_of(config, predictor)
    if accelerator.is_main_process:
        windows = validation_batch(others, config.train.validation_windows)

    freeze_untrained(config, predictor, synthesizer, objective)
    sections = {"heatmap_predictor": predictor.config, "face_synthesizer": synthesizer.config, "training": config}
    dubbing = Dubbing(predictor, synthesizer, config.frames, config.true_heatmaps)
    dubbing = recomputing(dubbing, config.train)
    dubbing = synchronised(dubbing, accelerator, config.train).to(memory_format=torch.channels_last)
    shared = {"predictor": predictor.shared_parameters(), "synthesizer": synthesizer.shared_parameters()}
    sums = {"L_face": field_names(FaceLosses) + extra_names, "L_heatmap": field_names(HeatmapLosses)}
    learner = Learner(dubbing, config.train, accelerator, shared=shared, sums=sums)
    bare = accelerator.unwrap_model(learner.network)
    networks = {"heatmap_predictor": bare.predictor, "face_synthesizer": bare.synthesizer}
    adversary = None
    if objective.adversarial:
        judge = discriminator(config)
        check_judged(judge.config, config.frames)
        adversary = Adversary(judge, config.train, accelerator)
        networks["discriminator"], sections["discriminator"] = adversary.network, judge.config
    run = Run(config, accelerator, networks, sections, ["heatmap_predictor", "face_synthesizer"], measure)
    if accelerator.is_main_process:
        true, crop = windows["frames"][:, bare.synthesized], synthesizer.config.crop
        validation = face_validation(config, objective, true, windows["sync_audio"], crop, measure, accelerator)
    first = run.resume()

    def score(step: int) -> dict:
        evaluated = run.evaluated("heatmap_predictor"), run.evaluated("face_synthesizer")
        options = windows, config.heatmap_losses, validation, accelerator.device, extra_scores
        scores, pictures = validate(Dubbing(*evaluated, config.frames), *options)
        run.validated(step, scores, pictures)
        return scores

    if first == 0 and accelerator.is_main_process:  # the starting weights stay the best unless training improves them
        before = score(0)
        beginning = (f"{name} {before[f'val/{name}']:.4g}" for name in ("PSNR", "SSIM", "keypoint_LipLMD"))
        accelerator.print(f"before fine-tuning: {', '.join(beginning)}")

    dub = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        with accelerator.autocast():
            faces, alignment, landmarks, heatmaps, keypoints = dub(part)
            targets = bare.targets(part, landmarks)
            terms = {} if extra is None else extra(faces, targets, alignment)
            terms |= objective(faces, targets, run.networks.get("discriminator"), alignment)
            terms |= heatmap_terms(heatmaps, keypoints, part, config.heatmap_losses)
        return terms, (targets["frames"], faces.detach())

    for step, batch in run.progress(training_batches(dataset, config, accelerator, first)):
        train_mode(learner.network, config.train)
        if not config.train_predictor:
            bare.predictor.eval()
        if objective.information is not None:
            objective.information.begin()
        values, pictures = learner.step(batch, step, compute)
        if objective.information is not None:
            values |= objective.information.values()
        run.average()
        if adversary is not None:
            true_frames, generated = (torch.cat(part) for part in zip(*pictures, strict=True))
            values |= adversary.judge(true_frames, generated, batch, step)
        run.log(step, values)
        if run.due(step):
            score(step)

    tuned = "both networks" if config.train_predictor else "the synthesizer"
    run.finish(f"fine-tuned {tuned} for {run.step} steps")


if __name__ == "__main__":
    sys.exit(main())
