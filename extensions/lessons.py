"""What parts of the networks learn before a run, from made examples without end: visemes in synthetic speech, points
in drawn heatmaps.

Four minutes of clips show few people. What a network can learn apart from them it learns here, and its parameters are
frozen afterwards. Each lesson saves where it is under the run's `output/pretraining/`, and its batches are functions of
the seed and the step alone: killed and started again, it ends with the same weights.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from scipy.ndimage import uniform_filter1d
from torch import Tensor, nn
from tqdm import tqdm

from data_prep.windows import ClipDataset, mirrored_points
from extensions.drawn_faces import DrawnFaces
from extensions.landmark_maps import ANCHORS, apply_affine, mouth_motion, pose_beside
from extensions.point_reader import PointReader
from extensions.speech_windows import VISEMES, SpeechWindows
from media.audio import FEATURES
from media.errors import InputError, first_line
from media.files import replacing
from media.heatmap import KEYPOINTS
from media.timeline import FPS
from models.heatmap_predictor import HeatmapPredictor
from training.run import DAMAGED, writing

TURNS = 2  # directions in which a head turns
NOISE = 1e-4  # of a landmark's mean over a second, in units of the crop
REFERENCE_DRAWS = 4  # of random references for each clip, to learn from
_SAVE_EVERY = 200


@dataclass
class VisemeTraining:
    """How an audio encoder first learns, on synthetic speech, which mouth shapes it hears."""

    data: str = ""  # file of extensions.synthetic_speech; empty: the encoder begins with random weights
    steps: int = 2500  # of the lesson
    batch_size: int = 256  # windows of sound a step
    learning_rate: float = 2.0e-3  # the highest of its cycle


@dataclass
class SpeechTraining(VisemeTraining):
    """How a drawn network's speech branch learns, alone and before the rest, which then leaves it as it is."""

    ridge: float = 3000.0  # of the linear map from what it hears to the mouth's motion
    gain: float = 1.0  # on that motion: the most likely motion is smaller than the true one


@dataclass
class ReadingTraining:
    """How a `PointReader` learns, on faces drawn for it; 0 steps leave it with random weights."""

    steps: int = 0  # to read, and as many to correct what is read
    batch_size: int = 32  # drawn faces a step
    learning_rate: float = 2.0e-3  # the highest of its cycle
    warp: float = 0.12  # turn, stretch and shift the faces by up to this share of the crop
    bend: float = 0.01  # and move parts of them beside others by about this share


def learn_visemes(
    encoder: nn.Module,
    embed: Callable[[Tensor], Tensor],
    config: VisemeTraining,
    seed: int,
    output: str | Path,
    places: Sequence[int] = (8,),
) -> None:
    """Teach `encoder`, whose parameters require no gradient afterwards, which visemes it hears in synthetic speech.

    Few people's clips teach a network their voices instead; speech can be synthesized by the hour.

    Args:
        embed: log-mel windows (B, 80, 16) to embeddings (B, D), by `encoder`.
        output: the run's folder, in which a lesson that was killed goes on.
        places: the mel frames of the 16 whose visemes it has to tell.
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


def learn_reading(
    reader: PointReader, dataset: ClipDataset, config: ReadingTraining, seed: int, output: str | Path
) -> None:
    """Teach a `PointReader`, whose parameters require no gradient afterwards, to read faces like those of the clips.

    It learns from `DrawnFaces`: in the windows of the clips a face comes again and again. First to read, then to
    correct what it reads: corrections of what is still read at random would learn to do nothing. `output` is the run's
    folder, in which a lesson that was killed goes on.
    """
    faces = DrawnFaces(np.concatenate(list(dataset.points())), config.warp, config.bend, seed)
    device = next(reader.parameters()).device
    lessons = (
        ("reading", reader.first, lambda heatmaps: [reader.first(heatmaps)]),
        ("corrections", reader.corrections, lambda heatmaps: reader.readings(heatmaps)[1:]),
    )
    for lesson, (what, part, read) in enumerate(lessons):
        part.requires_grad_(True).train()

        def loss(step: int, lesson: int = lesson, read: Callable = read) -> Tensor:
            drawn = faces.batch(config.batch_size, lesson * config.steps + step)
            return reading_loss(read, *(value.to(device) for value in drawn))

        learn(what, part, loss, config, seed, output)
        part.requires_grad_(False)
        reader.eval()


def reading_loss(read: Callable[[Tensor], list[Tensor]], points: Tensor, whole: Tensor, upper: Tensor) -> Tensor:
    """Mean distance, in units of the crop, of what is read off heatmaps (M, 1, H, W) from points (M, 131, 2).

    Off those of upper faces, their own points count. `read` gives one or several readings of (2 M, 1, H, W), their mean
    counts.
    """
    readings = torch.stack(read(torch.cat([whole, upper]))).unflatten(1, (2, -1))
    distance = (readings - points).norm(dim=-1)
    return torch.cat([distance[:, 0].flatten(), distance[:, 1][..., ANCHORS].flatten()]).mean()


def learn(
    what: str,
    network: nn.Module,
    loss: Callable[[int], Tensor],
    config: VisemeTraining | ReadingTraining,
    seed: int,
    output: str | Path,
) -> None:
    """Minimise `loss(step)` behind a progress bar; AdamW with one cycle of the learning rate.

    Goes on from, and keeps, `output/pretraining/{what}.pt`; begins anew where that is of other settings.
    """
    if config.steps < 1 or config.batch_size < 1:
        raise InputError(f"{what}: {config.steps} steps of {config.batch_size} teach nothing; use 1 or more of both")
    if not config.learning_rate > 0:
        raise InputError(f"{what}: learning_rate={config.learning_rate} must be positive")
    parameters = list(network.parameters())
    adam = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=0.02)
    # Not 0.05, of which 20 steps are one: its rise would take no step, and the scheduler divides by what it takes.
    rise = 0.0501
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, config.learning_rate, total_steps=config.steps, pct_start=rise)
    path = Path(output) / "pretraining" / f"{what}.pt"
    settings = dataclasses.asdict(config) | {"seed": seed}
    done = _resume(path, settings, network, adam, schedule)
    main = PartialState().is_main_process  # the others learn the same, and get its weights when the run begins
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
                parts = {"network": network, "adam": adam, "schedule": schedule}
                state = {name: part.state_dict() for name, part in parts.items()}
                with writing(path.parent), replacing(path) as temporary:
                    torch.save(state | {"settings": settings, "step": step + 1}, temporary)
    adam.zero_grad()  # of a gradient that stayed, the run's own optimizer would make a step


def _resume(path: Path, settings: dict, network: nn.Module, adam: torch.optim.Optimizer, schedule: object) -> int:
    """Load a lesson's state; the number of steps it has done, 0 where there is none of these settings."""
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


def learn_speech(
    predictor: HeatmapPredictor, dataset: ClipDataset, config: SpeechTraining, seed: int, output: str | Path
) -> float:
    """Train the speech branch of a drawn network from beginning to end; as `learn_motion`."""
    if config.data:
        if predictor.config.audio != "mel":
            raise InputError(f"speech.data is log-mel, the network hears {predictor.config.audio}; leave it empty")
        learn_visemes(predictor.speech.encoder, predictor.speech.embed, config, seed, output)
    return learn_motion(predictor, dataset, config)


def learn_all(
    predictor: HeatmapPredictor,
    dataset: ClipDataset,
    reading: ReadingTraining,
    speech: SpeechTraining,
    seed: int,
    output: str | Path,
) -> float:
    """All lessons of a fresh drawn predictor, in order; returns as `learn_motion`."""
    if reading.steps > 0:
        learn_reading(predictor.reader, dataset, reading, seed, output)
    learn_turning(predictor, dataset, seed)
    return learn_speech(predictor, dataset, speech, seed, output)
