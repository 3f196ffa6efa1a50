"""Train the face synthesis: masked faces, true heatmaps, references and sound to faces (paper III-B).

    python train_face.py --config configs/demo_face.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/face

The loss is eq. 10 (losses/face.py) with a two-scale patch discriminator beside it where it has an adversarial term.
Validation: PSNR and SSIM of whole face crops of other people, lower half generated, upper half as given; the weights
of the highest PSNR are kept in `best`.
"""

import sys
from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from torchvision.utils import make_grid

from data_prep.clips import ClipDataset
from losses.face import FaceLosses, FaceObjective
from media.errors import command
from metrics.crops import crop_scores
from models.checkpoint import build_network
from models.discriminator import DiscriminatorConfig
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig, mask_lower_half
from training import (
    Adversary,
    DataConfig,
    Run,
    TrainConfig,
    backward,
    check_batch,
    move,
    optimizer,
    parse_config,
    parts,
    scheduler,
    start,
    synchronised,
    train_mode,
    training_batches,
    validation_batch,
)

INPUTS = ("frames", "heatmaps", "reference_images", "reference_heatmaps", "audio")


@dataclass
class FaceTraining:
    """Everything a config file of this script may set."""

    data: DataConfig = field(default_factory=DataConfig)
    model: FaceSynthesizerConfig = field(default_factory=FaceSynthesizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: FaceLosses = field(default_factory=FaceLosses)
    train: TrainConfig = field(default_factory=TrainConfig)
    frames: int = 5  # consecutive frames a window; the sync loss needs 5
    sync_expert: str = ""  # checkpoint folder of train_sync.py, for the sync loss
    output: str = MISSING


@torch.no_grad()
def validate(synthesizer: FaceSynthesizer, batch: dict) -> tuple[dict, dict]:
    """PSNR and SSIM on the fixed validation windows, and a picture grid of the windows' first frames."""
    faces = torch.cat([synthesizer(*(part[name] for name in INPUTS)) for part in parts(batch, 4)])
    scores = crop_scores(faces.flatten(0, 1), batch["frames"].flatten(0, 1))
    values = {f"val/{name}": float(score.mean()) for name, score in scores.items()}
    true, heatmaps = batch["frames"][:8, 0], batch["heatmaps"][:8, 0].expand(-1, 3, -1, -1)
    columns = [batch["reference_images"][:8, 0], heatmaps, mask_lower_half(true), faces[:8, 0], true]
    grid = make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=len(columns))
    return values, {"val/reference, heatmap, masked, generated, true": grid}


@command
def main() -> None:
    config = parse_config(FaceTraining, __doc__)
    accelerator = start(config)
    check_batch(config.train.batch_size * config.frames, accelerator)
    weights = config.losses
    config.model.mutual_information = weights.mutual_information > 0  # eq. 7's network exists where it is trained

    shape = {"audio": config.model.audio, "window": config.frames}
    shape |= {"references": config.model.references, "size": config.model.size}
    dataset = ClipDataset(config.data.train, augment=config.data.augment, max_offset=config.data.max_offset, **shape)
    validation = validation_batch(ClipDataset(config.data.val, **shape), config.train.validation_windows)
    validation = move(validation, accelerator.device)
    objective = FaceObjective(weights, config.frames, config.sync_expert).to(accelerator.device)

    synthesizer = synchronised(build_network("face_synthesizer", config.model), accelerator)
    synthesizer = synthesizer.to(memory_format=torch.channels_last)
    adam = optimizer(synthesizer.parameters(), config.train)
    synthesizer, adam, schedule = accelerator.prepare(synthesizer, adam, scheduler(adam, config.train))
    networks, sections = {"face_synthesizer": synthesizer}, {"face_synthesizer": config.model, "training": config}
    adversary = None
    if weights.gan > 0 or weights.feature > 0:
        adversary = Adversary(build_network("discriminator", config.discriminator), config.train, accelerator)
        networks["discriminator"], sections["discriminator"] = adversary.network, config.discriminator
    run = Run(config, accelerator, networks, sections, averaged=["face_synthesizer"])
    first = run.resume()

    for step, batch in run.progress(training_batches(dataset, config, accelerator, first)):
        train_mode(synthesizer, config.train)
        with accelerator.autocast():
            result = synthesizer(*(batch[name] for name in INPUTS), scores=config.model.mutual_information)
            faces, information = result if config.model.mutual_information else (result, None)
            terms = objective(faces, batch, run.networks.get("discriminator"), information)
        loss = sum(terms.values())
        norm = backward(accelerator, loss, synthesizer, config.train, terms, batch, step)
        adam.step()
        schedule.step()
        adam.zero_grad()
        values = {"train/loss": loss} | {f"train/{name}": value for name, value in terms.items()}
        values |= {"train/gradient_norm": norm, "train/learning_rate": schedule.get_last_lr()[0]}

        if adversary is not None:
            values |= adversary.step(batch["frames"], faces, batch, step)
        run.log(step, values)
        if run.due(step):
            scores, pictures = validate(run.evaluated("face_synthesizer"), validation)
            run.validated(step, scores, scores["val/PSNR"], pictures)

    run.finish(f"trained the face synthesizer for {run.step} steps, best PSNR {run.best or 0:.2f} dB")


if __name__ == "__main__":
    sys.exit(main())
