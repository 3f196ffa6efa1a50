"""Train the guidance prediction: from sound and the upper face's heatmaps to the whole face's (paper III-A).

    python train_heatmap.py --config configs/demo_speech.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/heatmap

The loss is L_semantic + L_temporal (eq. 3, 4). `model.form: speech` has its own terms (extensions/speech_training.py).

Validation on people outside the training set: the loss; the distance of the heatmaps (the first term of eq. 3); and
LipLMD, the mean distance of the 40 predicted lip keypoints from the true ones, in units of the crop.

`best` keeps the weights with the best LipLMD, or with the best score that `train.best_by` names. LipLMD scores the
keypoint head, not the decoded heatmaps: with `model.form` paper or released, use `train.best_by=heatmap`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from training.settings import answer_help

answer_help(__name__, __file__)

import torch
from omegaconf import MISSING
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid

from data_prep.windows import ClipDataset
from losses.heatmap import HeatmapLosses, freeze_unread, heatmap_scores, heatmap_terms
from media.errors import command
from models.checkpoint import build_network, load_network
from models.guidance import inputs_of
from models.heatmap_predictor import HeatmapPredictorConfig, WindowEncoder
from training.best import best_score
from training.config import DataConfig, TrainConfig, check_batch, extension, parse_config, start
from training.data import mean_of_parts, move, parts, training_batches, training_windows, validation_batch
from training.learner import Learner, compiled, synchronised, train_mode
from training.run import Run, holds_a_run

SCORES = ("liplmd", "heatmap")  # of train.best_by


@dataclass
class HeatmapTraining:
    """The settings of this script."""

    trained: ClassVar[str] = "heatmap_predictor"  # the network of `model`, by its name in checkpoints
    extensions: ClassVar[dict[str, str]] = {"speech": "SpeechPredictorExtension"}
    data: DataConfig = field(default_factory=DataConfig)
    model: HeatmapPredictorConfig = field(default_factory=HeatmapPredictorConfig)
    losses: HeatmapLosses = field(default_factory=HeatmapLosses)
    train: TrainConfig = field(default_factory=TrainConfig)
    warp: float = 0.0  # augmentation: turn, stretch and shift the heatmaps by up to this share of the crop
    # Factor of the learning rate of eq. 1's layers. Below 1, the decoder learns the mean face before the transformer's
    # tokens have become the same for all inputs (docs/losses.md).
    encoder_rate: float = 1.0
    start_from: str = ""  # checkpoint folder of the initial predictor, which also sets the form; empty: fresh weights
    output: str = MISSING  # the run's folder


@torch.no_grad()
def validate(
    predictor: WindowEncoder, batch: dict, weights: HeatmapLosses, device: torch.device
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars and a picture grid on the fixed validation windows.

    `batch` is on the CPU; 16 windows at a time are moved to `device`.
    """
    scores, shown = [], []
    for part in parts(batch, 16):
        part = move(part, device)
        heatmaps, keypoints = predictor(*inputs_of(predictor, part))
        scores.append((len(heatmaps), heatmap_scores(heatmaps, keypoints, part, weights)))
        shown.append(heatmaps[:8].cpu())
    values, heatmaps = mean_of_parts(scores), torch.cat(shown)[:8]
    middle = heatmaps.shape[1] // 2
    rows = [
        torch.stack([reference[0], pose[middle], predicted[middle], true[middle]])
        for reference, pose, predicted, true in zip(
            batch["reference_heatmaps"][:8], batch["pose_heatmaps"][:8], heatmaps, batch["heatmaps"][:8], strict=True
        )
    ]
    grid = make_grid(torch.cat(rows), nrow=4)
    return values, {"val/reference, pose, predicted, true": grid}


def spoken(
    further: Any, predictor: WindowEncoder, dataset: ClipDataset, fresh: bool
) -> tuple[Dataset, Callable[[Callable, dict], dict[str, Tensor]]]:
    """The items of `form: speech`, and its loss terms of the network and a batch.

    Parts of `fresh` weights are fitted in closed form first.
    """
    # Imported here: the paper's networks train without extensions/.
    from extensions.speech_predictor import SpeechPredictor
    from extensions.speech_training import SpokenWindows, fit_shapes, spoken_terms

    assert isinstance(predictor, SpeechPredictor)
    if fresh:
        fit_shapes(predictor, dataset)

    def terms_of(predict: Callable, part: dict) -> dict[str, Tensor]:
        places = part["landmarks"], part["reference_landmarks"]
        _, keypoints = predict(part["audio"], None, None, *places)
        return spoken_terms(keypoints, predictor.shut_mouth(*places), part, further.spoken)

    return SpokenWindows(dataset, further.windows, further.output), terms_of


@command
def main() -> None:
    config = parse_config(HeatmapTraining, __doc__)
    measure = best_score(config.train.best_by, SCORES)
    accelerator = start(config)

    if config.start_from:
        predictor = load_network(config.start_from, "heatmap_predictor")
        config.model = cast(Any, predictor.config)  # its class depends on the form
    else:
        predictor = build_network("heatmap_predictor", config.model)
    check_batch(min(config.model.frames, config.model.references), config.train, accelerator)
    shape = {"audio": config.model.audio, "window": config.model.frames, "references": config.model.references}
    shape |= {"crop": config.model.crop, "pictures": False}
    dataset, others = training_windows(config.data, shape, warp=config.warp)
    if accelerator.is_main_process:
        windows = validation_batch(others, config.train.validation_windows)

    further = extension(config)
    items: Dataset = dataset
    terms_of: Callable[[Callable, dict], dict[str, Tensor]] | None = None
    if further is not None:
        fresh = not config.start_from and not holds_a_run(config.output)
        items, terms_of = spoken(further, predictor, dataset, fresh)
    freeze_unread(predictor, config.losses)
    shared = {"": predictor.shared_parameters()}
    rates = [] if config.encoder_rate == 1 else [(shared[""], config.encoder_rate)]
    network = synchronised(predictor, accelerator, config.train)
    learner = Learner(network, config.train, accelerator, shared=shared, rates=rates)
    sections = {"heatmap_predictor": predictor.config, "training": config}
    networks = {"heatmap_predictor": learner.network}
    run = Run(config, accelerator, networks, sections, averaged=["heatmap_predictor"], measure=measure)
    first = run.resume()

    predict = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], None]:
        with accelerator.autocast():
            if terms_of is not None:
                return terms_of(predict, part), None
            heatmaps, keypoints = predict(*inputs_of(predictor, part))
        return heatmap_terms(heatmaps, keypoints, part, config.losses), None

    for step, batch in run.progress(training_batches(items, config, accelerator, first)):
        train_mode(learner.network, config.train)
        values, _ = learner.step(batch, step, compute)
        run.average()
        run.log(step, values)
        if run.due(step):
            evaluated = run.evaluated("heatmap_predictor")
            run.validated(step, *validate(evaluated, windows, config.losses, accelerator.device))

    run.finish(f"trained the heatmap predictor for {run.step} steps")


if __name__ == "__main__":
    sys.exit(main())
