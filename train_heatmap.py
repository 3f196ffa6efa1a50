"""Train the guidance prediction: the sound and the upper face's heatmaps to the whole face's (paper III-A).

    python train_heatmap.py --config configs/demo_heatmap.yaml data.train=CLIPS data.val=OTHER_CLIPS output=runs/heatmap

The loss is L_semantic + L_temporal (eq. 3, 4). Validation: the same on other people; the distance of the heatmaps (the
first term of eq. 3); and LipLMD, the mean distance of the keypoint head's 40 lip points in units of the face box. The
weights of the best score are kept in `best`; `train.best_by` chooses it, and empty means LipLMD. That says nothing of
heatmaps which a decoder makes: choose `heatmap` for these.
"""

import sys
from dataclasses import dataclass, field

from training.settings import answer_help

answer_help(__name__, __file__)

import numpy as np
import torch
from omegaconf import MISSING
from scipy.ndimage import uniform_filter1d
from torch import Tensor
from torchvision.utils import make_grid

from data_prep.windows import ClipDataset, mirrored_points
from extensions.landmark_maps import ANCHORS, apply_affine, mouth_motion, pose_beside
from extensions.lessons import ReadingTraining, VisemeTraining, learn_reading, learn_visemes
from losses.heatmap import HeatmapLosses, freeze_unread, heatmap_scores, heatmap_terms
from media.errors import InputError, command
from media.heatmap import KEYPOINTS
from media.timeline import FPS
from models.checkpoint import build_network, load_network
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from training.best import best_score
from training.config import DataConfig, TrainConfig, check_batch, parse_config, start
from training.data import mean_of_parts, move, parts, training_batches, training_windows, validation_batch
from training.learner import Learner, compiled, synchronised, train_mode
from training.run import Run, holds_a_run

INPUTS = ("audio", "pose_heatmaps", "reference_heatmaps", "points", "reference_points")
SCORES = ("liplmd", "heatmap")  # of train.best_by
TURNS = 2  # directions in which a head turns
NOISE = 1e-4  # of a landmark's mean over a second, in units of the crop
REFERENCE_DRAWS = 4  # of random references for each clip, to learn from


@dataclass
class SpeechTraining(VisemeTraining):
    """How a drawn network's speech branch learns, alone and before the rest, which then leaves it as it is."""

    ridge: float = 3000.0  # of the linear map from what it hears to the mouth's motion
    gain: float = 1.0  # on that motion: the most likely motion is smaller than the true one


@dataclass
class HeatmapTraining:
    """Everything a config file of this script may set."""

    data: DataConfig = field(default_factory=DataConfig)
    model: HeatmapPredictorConfig = field(default_factory=HeatmapPredictorConfig)
    losses: HeatmapLosses = field(default_factory=HeatmapLosses)
    train: TrainConfig = field(default_factory=TrainConfig)
    warp: float = 0.0  # augmentation: turn, stretch and shift the heatmaps by up to this share of the crop
    reading: ReadingTraining = field(default_factory=ReadingTraining)
    # This and `reading`: of networks that draw, and fresh ones; what a run starts from has learned them.
    speech: SpeechTraining = field(default_factory=SpeechTraining)
    start_from: str = ""  # checkpoint folder whose predictor, and its form, the run begins with; empty: fresh weights
    output: str = MISSING  # the run's folder


@torch.no_grad()
def learn_turning(predictor: HeatmapPredictor, dataset: ClipDataset, seed: int) -> None:
    """Fit how a turned head moves a drawn network's keypoints, on the clips with random references each.

    Linear regression on the two directions in which the shape of an upper face varies most: the head turns to the side
    and up. The directions after them tell how far the source's own mouth is open, and a dubbed one must not follow
    that; nor is what moves in less than a second taken for a turning head.
    """
    random = np.random.default_rng(seed)
    shape, slow_shape, slow_both, count = 0, 0, 0, 0
    for seen in dataset.points():
        for draw in range(REFERENCE_DRAWS):
            points = torch.from_numpy(seen if draw % 2 else mirrored_points(seen))[None]
            chosen = points[:, random.integers(0, points.shape[1], predictor.config.references)]
            pose = pose_beside(points[:, :, ANCHORS], chosen[:, :, ANCHORS], chosen[:, :, KEYPOINTS])
            motion = apply_affine(points[:, :, KEYPOINTS], pose.home) - pose.still
            turned, moved = (x[0].flatten(1).double() for x in (pose.turned, motion))
            shape = shape + turned.T @ turned
            turned, moved = (torch.from_numpy(uniform_filter1d(x, FPS, axis=0)) for x in (turned, moved))
            slow_shape, slow_both = slow_shape + turned.T @ turned, slow_both + turned.T @ moved
            count += len(turned)
    directions = torch.linalg.eigh(shape).eigenvectors[:, -TURNS:]
    gram = directions.T @ slow_shape @ directions
    # Of heads that never turn nothing is learned: their directions are the landmarks' noise.
    gram = gram + count * len(ANCHORS) * NOISE**2 * torch.eye(TURNS, dtype=torch.float64)
    weight = directions @ torch.linalg.solve(gram, directions.T @ slow_both)
    predictor.turning.linear.weight.copy_(weight.T)


@torch.no_grad()
def learn_motion(predictor: HeatmapPredictor, dataset: ClipDataset, speech: SpeechTraining) -> float:
    """Fit the speech branch's linear map: how the keypoints move, where the head does not, by what is heard.

    Ridge regression over all frames of the clips. Speech says nothing of what changes slower than in a second (how the
    head is turned, a smile), nor of how far a person opens the mouth: the first is taken off, and each clip's motion
    brought to the same size, that of the clips' mean. Returns the share of that motion that it explains.
    """
    branch, heard, moved, sizes = predictor.speech, [], [], []
    for audio, points in dataset.sounds():
        device = branch.linear.weight.device
        embeddings = torch.cat([branch.embed(part.to(device)) for part in torch.from_numpy(audio).split(1024)])
        heard.append(branch.in_context(embeddings[None])[0].double().cpu())
        motion = mouth_motion(torch.from_numpy(points)).flatten(1).double().numpy()
        motion = torch.from_numpy(motion - uniform_filter1d(motion, FPS, axis=0))
        sizes.append(motion.square().mean().sqrt())
        moved.append(motion / (sizes[-1] + 1e-6))
    heard, moved, size = torch.cat(heard), torch.cat(moved), torch.stack(sizes).mean()
    mean, scale = heard.mean(dim=0), heard.std(dim=0) + 1e-6
    normal = (heard - mean) / scale
    gram = normal.T @ normal + speech.ridge * torch.eye(normal.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, normal.T @ moved)
    explained = 1 - float((moved - normal @ weight).square().sum() / moved.square().sum())
    weight = speech.gain * size * weight / scale[:, None]
    branch.linear.weight.copy_(weight.T)
    branch.linear.bias.copy_(-mean @ weight)
    return explained


def learn_speech(predictor: HeatmapPredictor, dataset: ClipDataset, config: HeatmapTraining) -> float:
    """Train the speech branch of a drawn network from beginning to end; as `learn_motion`."""
    if config.speech.data:
        if predictor.config.audio != "mel":
            raise InputError(f"speech.data is log-mel, the network hears {predictor.config.audio}; leave it empty")
        encoder, embed = predictor.speech.encoder, predictor.speech.embed
        learn_visemes(encoder, embed, config.speech, config.train.seed, config.output)
    return learn_motion(predictor, dataset, config.speech)


@torch.no_grad()
def validate(
    predictor: HeatmapPredictor, batch: dict, weights: HeatmapLosses, device: torch.device
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars and a picture grid on the fixed validation windows; of `batch`, on the CPU, 16 at a time on `device`."""
    scores, shown = [], []
    for part in parts(batch, 16):
        part = move(part, device)
        heatmaps, landmarks = predictor(*(part[name] for name in INPUTS))
        scores.append((len(heatmaps), heatmap_scores(heatmaps, landmarks, part, weights)))
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


@command
def main() -> None:
    config = parse_config(HeatmapTraining, __doc__)
    measure = best_score(config.train.best_by, SCORES)
    accelerator = start(config)

    if config.start_from:
        predictor = load_network(config.start_from, "heatmap_predictor")
        config.model = predictor.config
    else:
        predictor = build_network("heatmap_predictor", config.model)
    check_batch(min(config.model.frames, config.model.references), config.train, accelerator)
    drawn = predictor.speech is not None
    if not drawn and (config.speech.data or config.reading.steps > 0):
        raise InputError(
            "speech.data and reading.steps are for a network that draws; set model.heatmaps=drawn, or neither"
        )
    shape = {"audio": config.model.audio, "window": config.model.frames, "references": config.model.references}
    dataset, others = training_windows(config.data, shape, warp=config.warp)
    if accelerator.is_main_process:
        windows = validation_batch(others, config.train.validation_windows)

    if drawn and not config.start_from and not holds_a_run(config.output):
        predictor.to(accelerator.device)
        if config.reading.steps > 0:
            learn_reading(predictor.reader, dataset, config.reading, config.train.seed, config.output)
        learn_turning(predictor, dataset, config.train.seed)
        explained = learn_speech(predictor, dataset, config)
        accelerator.print(f"speech explains {100 * explained:.1f} % of the mouth's motion in the training clips")
    freeze_unread(predictor, config.losses)
    shared = {"": predictor.shared_parameters()}
    learner = Learner(synchronised(predictor, accelerator, config.train), config.train, accelerator, shared=shared)
    sections = {"heatmap_predictor": predictor.config, "training": config}
    networks = {"heatmap_predictor": learner.network}
    run = Run(config, accelerator, networks, sections, averaged=["heatmap_predictor"], measure=measure)
    first = run.resume()

    predict = compiled(learner.network, config.train)

    def compute(part: dict) -> tuple[dict[str, Tensor], None]:
        with accelerator.autocast():
            heatmaps, landmarks = predict(*(part[name] for name in INPUTS), draw=config.losses.heatmap > 0)
        return heatmap_terms(heatmaps, landmarks, part, config.losses), None

    for step, batch in run.progress(training_batches(dataset, config, accelerator, first)):
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
