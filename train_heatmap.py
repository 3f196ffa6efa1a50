"""Train the guidance prediction: the sound and the upper face's heatmaps to the whole face's (paper III-A).

    python train_heatmap.py --config configs/demo_heatmap.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/heatmap

The loss is L_semantic + L_temporal (eq. 3, 4). Validation: the same on other people, and LipLMD, the mean distance of
the 40 lip points in units of the face box; the weights of the smallest LipLMD are kept in `best`.
"""

import sys
from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from torchvision.utils import make_grid
from tqdm import tqdm

from data_prep.clips import ClipDataset
from losses.heatmap import HeatmapLosses, heatmap_terms
from losses.reconstruction import LIPS
from losses.semantic import frame_distance
from media.errors import InputError, command
from models.checkpoint import build_network, load_network
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from training import (
    DataConfig,
    Run,
    TrainConfig,
    backward,
    holds_a_run,
    move,
    optimizer,
    parse_config,
    scheduler,
    start,
    synchronised,
    train_mode,
    training_batches,
    validation_batch,
)


@dataclass
class HeatmapTraining:
    """Everything a config file of this script may set."""

    data: DataConfig = field(default_factory=DataConfig)
    model: HeatmapPredictorConfig = field(default_factory=HeatmapPredictorConfig)
    losses: HeatmapLosses = field(default_factory=HeatmapLosses)
    train: TrainConfig = field(default_factory=TrainConfig)
    speech_steps: int = 0  # steps of 64 frames in which a drawn network's speech branch learns alone, before the rest
    speech_gain: float = 1.0  # shrinks what the branch has learned alone, against overfitting to few voices
    start_from: str = ""  # checkpoint folder whose predictor the run begins with; empty: fresh weights
    output: str = MISSING


def learn_speech(predictor: HeatmapPredictor, dataset: ClipDataset, config: HeatmapTraining) -> None:
    """Let the speech branch learn, from the sound alone, how keypoints differ from their median in the clip."""
    audio, keypoints = dataset.sounds()
    adam = torch.optim.AdamW(predictor.speech.parameters(), config.train.learning_rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(config.train.seed)
    predictor.train()
    for _ in tqdm(range(config.speech_steps), desc="speech branch", unit="step"):
        chosen = torch.randint(len(audio), (64,), generator=generator)
        loss = frame_distance(predictor.learn_speech(audio[chosen])[None], keypoints[chosen][None])
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        for parameter in predictor.speech.linear.parameters():
            parameter.mul_(config.speech_gain)


@torch.no_grad()
def validate(predictor: HeatmapPredictor, batch: dict, weights: HeatmapLosses) -> tuple[dict, dict]:
    """Scalars and a picture grid on the fixed validation windows."""
    heatmaps, landmarks = predictor(batch["audio"], batch["pose_heatmaps"], batch["reference_heatmaps"])
    terms = heatmap_terms(heatmaps, landmarks, batch, weights)
    values = {f"val/{name}": float(value) for name, value in terms.items()}
    lips = (landmarks - batch["landmarks"])[..., LIPS, :]
    values["val/LipLMD"] = float(lips.norm(dim=-1).mean())
    middle = heatmaps.shape[1] // 2
    rows = [
        torch.stack([reference[0], pose[middle], predicted[middle], true[middle]])
        for reference, pose, predicted, true in zip(
            batch["reference_heatmaps"], batch["pose_heatmaps"], heatmaps, batch["heatmaps"], strict=True
        )
    ]
    grid = make_grid(torch.cat(rows[:8]), nrow=4)
    return values, {"val/reference, pose, predicted, true": grid}


@command
def main() -> None:
    config = parse_config(HeatmapTraining, __doc__)
    accelerator = start(config)

    shape = {"audio": config.model.audio, "window": config.model.frames, "references": config.model.references}
    dataset = ClipDataset(config.data.train, augment=config.data.augment, max_offset=config.data.max_offset, **shape)
    validation = validation_batch(ClipDataset(config.data.val, **shape), config.train.validation_windows)
    validation = move(validation, accelerator.device)

    if config.start_from:
        predictor = load_network(config.start_from, "heatmap_predictor")
        config.model = predictor.config
    else:
        predictor = build_network("heatmap_predictor", config.model)
    if config.speech_steps > 0 and not holds_a_run(config.output):
        if predictor.speech is None:
            raise InputError("speech_steps needs a drawn network; set model.heatmaps=drawn or speech_steps=0")
        learn_speech(predictor, dataset, config)
    predictor = synchronised(predictor, accelerator)
    adam = optimizer(predictor.parameters(), config.train)
    predictor, adam, schedule = accelerator.prepare(predictor, adam, scheduler(adam, config.train))
    sections = {"heatmap_predictor": config.model, "training": config}
    run = Run(config, accelerator, {"heatmap_predictor": predictor}, sections, averaged=["heatmap_predictor"])
    first = run.resume()

    for step, batch in run.progress(training_batches(dataset, config, accelerator, first)):
        train_mode(predictor, config.train)
        with accelerator.autocast():
            heatmaps, landmarks = predictor(
                batch["audio"], batch["pose_heatmaps"], batch["reference_heatmaps"], draw=config.losses.heatmap > 0
            )
        terms = heatmap_terms(heatmaps, landmarks, batch, config.losses)
        loss = sum(terms.values())
        norm = backward(accelerator, loss, predictor, config.train, terms, batch, step)
        adam.step()
        schedule.step()
        adam.zero_grad()

        run.log(
            step,
            {"train/loss": loss}
            | {f"train/{name}": value for name, value in terms.items()}
            | {"train/gradient_norm": norm, "train/learning_rate": schedule.get_last_lr()[0]},
        )
        if run.due(step):
            values, pictures = validate(run.evaluated("heatmap_predictor"), validation, config.losses)
            run.validated(step, values, -values["val/LipLMD"], pictures)

    run.finish(f"trained the heatmap predictor for {run.step} steps, best LipLMD {-(run.best or 0):.4f}")


if __name__ == "__main__":
    sys.exit(main())
