"""Train the face synthesis: from masked faces, true heatmaps, references and sound to faces.

    python train_face.py --config configs/demo_face.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/face
    python train_face.py --config configs/demo_g4g.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/g4g

A config's `network` selects the synthesizer: STSA's (paper III-B; the loss is eq. 10, losses/face.py), or G4G's, which
takes no heatmaps of the target (eq. 17, losses/g4g.py). An adversarial loss term adds a patch discriminator.

Validation scores face crops of people outside the training set. The hidden part is generated, the rest of the crop is
the true one.

- PSNR and SSIM.
- LipLMD of the lips that MediaPipe finds, if it is installed.
- LPIPS and FID, if their weights are present.
- With L_sync, -log cos of the generated and of the true windows (losses/calibration.py).

`best` keeps the weights with the best PSNR, or with the best score that `train.best_by` names.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
from losses.g4g import G4GLosses, G4GObjective, freeze_unread
from losses.sync import own_sound_nearest
from losses.warp import warp_score
from media.crop import check_same_crop
from media.errors import InputError, command
from metrics.crops import Validation
from models.checkpoint import build_network, expert_audio, load_network
from models.discriminator import DiscriminatorConfig
from models.face_synthesizer import Alignment, FaceSynthesizer, FaceSynthesizerConfig, mask_hidden
from models.g4g import G4GAlignment, G4GConfig, G4GSynthesizer
from models.guidance import inputs_of
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
    windows_at_once,
)
from training.data import mean_of_parts, move, parts, training_batches, training_windows, validation_batch
from training.learner import Adversary, Learner, compiled, recomputing, synchronised, train_mode
from training.run import Run
from training.validation import face_validation

SCORES = ("psnr", "lpips", "fid", "sync")  # of train.best_by


@dataclass
class SynthesizerTraining:
    """The settings that both networks share."""

    network: str = "face_synthesizer"  # the network to train: STSA's, or "g4g_synthesizer"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    frames: int = 5  # consecutive frames a window; a sync expert needs 5
    sync_expert: str = ""  # checkpoint folder of train_sync.py, for L_sync or eq. 16 of G4G
    start_from: str = ""  # checkpoint folder of the initial synthesizer, which also sets the form; empty: fresh weights
    output: str = MISSING  # the run's folder


@dataclass
class FaceTrainConfig(TrainConfig):
    """The settings of STSA's training loop."""

    # Number of first steps that train only the temporal path's flow and weights, by the warp loss alone (losses.warp),
    # as in IP-LAP. The discriminator and its learning rate schedule start after them. 0: none.
    warp_steps: int = 0


@dataclass
class FaceTraining(SynthesizerTraining):
    """The settings for STSA's network."""

    trained: ClassVar[str] = "face_synthesizer"  # the network of `model`, by its name in checkpoints
    extensions: ClassVar[dict[str, str]] = {
        "": "FaceExtension",
        "region": "RegionSynthesizerExtension",
    }
    train: FaceTrainConfig = field(default_factory=FaceTrainConfig)
    model: FaceSynthesizerConfig = field(default_factory=lambda: FaceSynthesizerConfig(mutual_information=None))
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: FaceLosses = field(default_factory=FaceLosses)


@dataclass
class G4GTraining(SynthesizerTraining):
    """The settings for G4G's network."""

    network: str = "g4g_synthesizer"  # the network to train: G4G's, or "face_synthesizer", STSA's
    model: G4GConfig = field(default_factory=G4GConfig)
    discriminator: DiscriminatorConfig = field(default_factory=lambda: DiscriminatorConfig(scales=1, together=5))
    losses: G4GLosses = field(default_factory=G4GLosses)
    # With `start_from`: train at the size of this config's `model.crop` instead of the checkpoint's, as in a curriculum
    # of sizes. Both crops have the same framing, margin and hidden rectangle.
    resize: bool = False
    negatives: int = 0  # number of unsynced sounds of the same clip per window, for the contrastive loss (eq. 16)
    furthest: int = 15  # largest shift of these sounds, in frames earlier or later


SCHEMAS: dict[str, type[FaceTraining | G4GTraining]] = {
    "face_synthesizer": FaceTraining,
    "g4g_synthesizer": G4GTraining,
}


def starting_point(config: FaceTraining | G4GTraining) -> FaceSynthesizer | G4GSynthesizer:
    """The synthesizer that a run starts with. `config.start_from` also sets its form.

    Raises:
        InputError: `model.mutual_information` contradicts the weight `losses.mutual_information`, which decides whether
            eq. 7's network exists; or `config.resize` has no checkpoint, or one of another framing.
    """
    if isinstance(config, FaceTraining):
        informed, said = config.losses.mutual_information > 0, config.model.mutual_information
        if said not in (None, informed):
            raise InputError(
                f"model.mutual_information={str(said).lower()} contradicts losses.mutual_information="
                f"{config.losses.mutual_information:g}, whose weight decides; leave the former out"
            )
    begun: Any = load_network(config.start_from, config.network) if config.start_from else None
    if isinstance(config, G4GTraining) and config.resize:
        resize(config, begun)
    if begun is not None:
        config.model = dataclasses.replace(begun.config)
    if isinstance(config, FaceTraining):  # eq. 7's network exists where it is trained
        config.model.mutual_information = informed
    synthesizer = build_network(config.network, config.model)
    if begun is not None:
        synthesizer.load_state_dict(begun.state_dict(), strict=False)  # one of them may lack eq. 7's network
    return synthesizer


def resize(config: G4GTraining, begun: G4GSynthesizer | None) -> None:
    """Give `begun`, the synthesizer of `config.start_from`, the size of `config.model.crop`: its weights fit any size.

    Raises:
        InputError: there is no such synthesizer, or the crops show or hide different parts of the face.
    """
    if begun is None:
        raise InputError("resize=true changes the size of a checkpoint's crop; give start_from=FOLDER, or leave it out")
    crop, holder = config.model.crop, f"checkpoint {config.start_from}"
    remedy = "only height, width and guidance can change (resize=true)"
    check_same_crop(crop, "this config's model", begun.config.crop, holder, remedy, ("framing", "margin", "hidden"))
    begun.config.crop = crop


def unsynced_sounds(batch: dict) -> dict[str, Tensor]:
    """The further input of G4G's network if the batch has unsynced sounds."""
    return {"unsynced": batch["audio_negatives"]} if "audio_negatives" in batch else {}


def moved_by_sound(synthesizer: FaceSynthesizer | G4GSynthesizer, batch: dict, faces: Tensor) -> float:
    """The change of the hidden part of `faces` (B, T, 3, H, W) if each window gets the sound of another one.

    The mean absolute difference. It is 0 for a network that ignores the sound, which PSNR would not show.
    """
    others = batch | {"audio": batch["audio"].roll(1, dims=0)}
    device = next(synthesizer.parameters()).device
    pieces = (move(part, device) for part in parts(others, 4))
    moved = torch.cat([synthesizer(*inputs_of(synthesizer, part)).to(faces.device) for part in pieces])
    return float((moved - faces)[..., *synthesizer.config.crop.hidden_pixels].abs().mean())


def check_contrast(config: G4GTraining, accelerator: Accelerator) -> None:
    """InputError where a process would have one window at once, and no other sound as a negative."""
    if config.losses.contrastive > 0 and not config.negatives and windows_at_once(config.train, accelerator) < 2:
        raise InputError(
            "a process sees one window at once and no unsynced sounds, the contrastive loss needs one of them; set "
            "negatives=4, raise train.batch_size or train.micro_batch, or set losses.contrastive=0"
        )


def own_sound_score(alignment: G4GAlignment) -> dict[str, float]:
    """Share of windows whose middle frame's visual feature is closer to its own sound than to all shifted sounds.

    Chance is 1 / (1 + negatives). Empty without shifted sounds.
    """
    if alignment.audio_embedding is None or alignment.visual_embedding is None or alignment.unsynced is None:
        return {}
    middle = alignment.audio_embedding.shape[1] // 2
    nearest = own_sound_nearest(
        alignment.audio_embedding[:, middle], alignment.visual_embedding[:, middle], alignment.unsynced
    )
    return {"val/own_sound_nearest": float(nearest.float().mean())}


def check_warp(config: FaceTraining) -> None:
    """InputError where `train.warp_steps` is out of range, or needs a warp loss that the run does not have."""
    steps = config.train.warp_steps
    if steps < 0:
        raise InputError(f"train.warp_steps={steps} must not be negative")
    if 0 < config.train.steps <= steps:
        raise InputError(
            f"train.warp_steps={steps} leaves none of the {config.train.steps} steps for the other losses; set fewer, "
            f"or train.warp_steps=0"
        )
    if steps > 0 and not config.model.temporal:
        raise InputError(f"train.warp_steps={steps} trains the flow of the temporal path, which is absent; set it to 0")
    if steps > 0 and config.losses.warp <= 0:
        raise InputError(f"train.warp_steps={steps} trains by the warp loss; give it a weight, as losses.warp=2.5")


@torch.no_grad()
def validate(
    synthesizer: FaceSynthesizer | G4GSynthesizer,
    batch: dict,
    validation: Validation,
    device: torch.device,
    further: Callable[[Alignment, dict], dict[str, float]] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores on the fixed validation windows, and a picture grid of the windows' first frames.

    `batch` is on the CPU; four windows at a time are moved to `device`. `further` computes more scores, for STSA's
    network only.
    """
    stsa, made, scores = isinstance(synthesizer, FaceSynthesizer), [], []
    crop = synthesizer.config.crop
    for part in parts(batch, 4):
        part = move(part, device)
        inputs = inputs_of(synthesizer, part)
        generated, alignment = synthesizer(*inputs, alignment=True, **unsynced_sounds(part))
        made.append(generated.cpu())
        found = warp_score(alignment, part, crop) if stsa else own_sound_score(alignment)
        if further is not None:
            found |= further(alignment, part)
        scores.append((len(generated), found))
    faces = torch.cat(made)
    values = validation(faces) | mean_of_parts(scores)
    if not stsa:
        values["val/moved_by_sound"] = moved_by_sound(synthesizer, batch, faces)
    shown = "heatmaps" if stsa else "reference_heatmaps"
    true, heatmaps = batch["frames"][:8, 0], F.interpolate(batch[shown][:8, 0], crop.shape).expand(-1, 3, -1, -1)
    columns = [batch["reference_images"][:8, 0], heatmaps, mask_hidden(true, crop), faces[:8, 0], true]
    grid = make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns))
    return values, {"val/reference, heatmap, masked, generated, true": grid}


def build_objective(
    config: FaceTraining | G4GTraining, synthesizer: FaceSynthesizer | G4GSynthesizer, accelerator: Accelerator
) -> FaceObjective | G4GObjective:
    """The loss terms of eq. 10 or of G4G's eq. 17, on the accelerator's device.

    Raises:
        InputError: a loss lacks its weights or a part of the network, or the batch is too small for it.
    """
    objective: FaceObjective | G4GObjective
    shared = config.frames, config.sync_expert, accelerator.print
    if isinstance(config, FaceTraining):
        assert isinstance(synthesizer, FaceSynthesizer)
        check_pairs(config.losses.mutual_information, config.train, accelerator)
        objective = FaceObjective(config.losses, config.model, *shared, synthesizer.mutual_information)
        check_warp(config)
    else:
        objective = G4GObjective(config.losses, config.model, *shared)
    if objective.adversarial:
        check_judged(config.discriminator, config.frames)
    return objective.to(accelerator.device)


def extra_terms(config: FaceTraining | G4GTraining) -> tuple[Callable | None, Callable | None]:
    """The loss terms and the validation scores of extensions/losses.py; None each where the config has none of them."""
    further = extension(config)
    if further is None:
        return None, None
    from extensions.losses import ExtraObjective, flow_score  # here, so that eq. 10 needs no extensions/

    assert isinstance(config, FaceTraining)  # G4GTraining has no extension
    return ExtraObjective(further.extra_losses, config.model), flow_score


def windows_of(config: FaceTraining | G4GTraining) -> tuple[ClipDataset, ClipDataset]:
    """The training and the validation dataset."""
    shape: dict[str, Any] = {"audio": config.model.audio, "window": config.frames}
    shape |= {"references": config.model.references, "crop": config.model.crop, "poses": False}
    shape |= {"sync_kind": expert_audio(config.sync_expert)}
    if isinstance(config, G4GTraining) and config.losses.contrastive > 0:
        shape |= {"negatives": config.negatives, "furthest": config.furthest}
    return training_windows(config.data, shape)


@command
def main() -> None:
    config = parse_config(SCHEMAS, __doc__)
    measure = best_score(config.train.best_by, SCORES, config.sync_expert)
    accelerator = start(config)
    check_batch(config.frames, config.train, accelerator)
    synthesizer = starting_point(config)
    if isinstance(config, G4GTraining):
        assert isinstance(synthesizer, G4GSynthesizer)
        check_contrast(config, accelerator)
        freeze_unread(synthesizer, config.losses)
    objective = build_objective(config, synthesizer, accelerator)
    information = objective.information if isinstance(objective, FaceObjective) else None
    extra, extra_scores = extra_terms(config)
    warp_steps = config.train.warp_steps if isinstance(config, FaceTraining) else 0

    dataset, others = windows_of(config)
    if accelerator.is_main_process:
        windows = validation_batch(others, config.train.validation_windows)
        true, crop = windows["frames"], config.model.crop
        validation = face_validation(config, objective, true, windows["sync_audio"], crop, measure, accelerator)

    synthesizer = recomputing(synthesizer, config.train)
    synthesizer = synchronised(synthesizer, accelerator, config.train).to(memory_format=torch.channels_last)
    shared = {"": synthesizer.shared_parameters()} if isinstance(synthesizer, FaceSynthesizer) else None
    learner = Learner(synthesizer, config.train, accelerator, shared=shared)
    networks: dict[str, nn.Module] = {config.network: learner.network}
    sections: dict[str, Any] = {config.network: synthesizer.config, "training": config}
    adversary = None
    if objective.adversarial:
        its_train = dataclasses.replace(config.train, steps=max(1, config.train.steps - warp_steps))
        adversary = Adversary(build_network("discriminator", config.discriminator), its_train, accelerator)
        networks["discriminator"], sections["discriminator"] = adversary.network, config.discriminator
    run = Run(config, accelerator, networks, sections, averaged=[config.network], measure=measure)
    first = run.resume()

    synthesize = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], Tensor]:
        with accelerator.autocast():
            inputs = inputs_of(synthesizer, part)
            faces, alignment = synthesize(*inputs, alignment=True, **unsynced_sounds(part))
            terms = {} if extra is None else extra(faces, part, alignment)
            terms |= objective(faces, part, run.networks.get("discriminator"), alignment)
            return terms, faces.detach()

    def compute_flow(part: dict) -> tuple[dict[str, Tensor], None]:
        with accelerator.autocast():
            assert isinstance(objective, FaceObjective)  # G4G's config has no warp_steps
            alignment = synthesize(*inputs_of(synthesizer, part), flow_only=True)
            return objective.of_flow(part, alignment), None

    for step, batch in run.progress(training_batches(dataset, config, accelerator, first)):
        train_mode(learner.network, config.train)
        if step <= warp_steps:
            values, _ = learner.step(batch, step, compute_flow, partial=True)
        else:
            if information is not None:
                information.begin()
            values, faces = learner.step(batch, step, compute)
            if information is not None:
                values |= information.values()
        run.average()
        if adversary is not None and step > warp_steps:
            values |= adversary.judge(batch["frames"], torch.cat(faces), batch, step)
        run.log(step, values)
        if run.due(step):
            synthesizer = run.evaluated(config.network)
            run.validated(step, *validate(synthesizer, windows, validation, accelerator.device, extra_scores))

    run.finish(f"trained the face synthesizer for {run.step} steps")


if __name__ == "__main__":
    sys.exit(main())
