"""Lessons: they pretrain parts of a network, or fit them in closed form, before the run.

Four minutes of clips show few people. Two lessons therefore pretrain on generated examples: an audio encoder on the
visemes of synthetic speech, and a `PointReader` on drawn heatmaps. Two lessons fit linear maps to all clips: from the
head's turn and from the sound to the keypoints' motion. A pretraining saves its state in the run's
`output/pretraining/`. Its batches depend on the seed and the step only, so a killed lesson resumes and ends with the
same weights.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from scipy.ndimage import uniform_filter1d
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from data_prep.windows import ClipDataset, mirrored_landmarks
from extensions.drawn_faces import DrawnFaces
from extensions.landmark_maps import ANCHORS, apply_affine, mouth_motion, pose_beside
from extensions.landmark_predictor import LandmarkPredictor
from extensions.point_reader import PointReader
from extensions.speech_windows import VISEMES, SpeechWindows
from media.audio import FEATURES
from media.errors import InputError, first_line
from media.files import replacing
from media.heatmap import KEYPOINTS
from media.timeline import FPS
from training.run import DAMAGED, writing

TURNS = 2  # main directions of an upper face's shape, with which `learn_turning` describes the head's turn
NOISE = 1e-4  # noise of a landmark's mean over a second, in units of the crop
REFERENCE_DRAWS = 4  # random draws of references for each clip
_SAVE_EVERY = 200  # steps


@dataclass
class VisemeTraining:
    """Pretraining of an audio encoder on the visemes of synthetic speech."""

    data: str = ""  # file of extensions.synthetic_speech; empty: no pretraining, the weights are random
    steps: int = 2500  # number of steps
    batch_size: int = 256  # windows of sound a step
    learning_rate: float = 2.0e-3  # peak of the learning rate's cycle


@dataclass
class SpeechTraining(VisemeTraining):
    """Pretraining of a landmark predictor's speech branch, which is then frozen."""

    ridge: float = 3000.0  # ridge of the linear map from the encoder's embeddings to the mouth's motion
    gain: float = 1.0  # factor of that map's motion, whose least-squares fit is smaller than the true motion


@dataclass
class ReadingTraining:
    """Pretraining of a `PointReader` on drawn faces."""

    steps: int = 0  # steps for the first reading, and again for its corrections; 0: random weights
    batch_size: int = 32  # drawn faces a step
    learning_rate: float = 2.0e-3  # peak of the learning rate's cycle
    warp: float = 0.12  # largest rotation, stretch and shift of the faces, as a share of the crop
    bend: float = 0.01  # size of the local displacements of a face's parts, as a share of the crop


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


def learn_reading(
    reader: PointReader, dataset: ClipDataset, config: ReadingTraining, seed: int, output: str | Path
) -> None:
    """Train a `PointReader` on `DrawnFaces` made from the clips' landmarks, then freeze it.

    The clips' own windows repeat the same faces. The first reading is trained before its corrections, because
    corrections cannot be learned on random readings.

    Args:
        output: the run's folder.

    Raises:
        InputError: a setting is out of range, or the state of a killed lesson cannot be used.
    """
    points = np.concatenate(list(dataset.landmarks()))
    faces = DrawnFaces(points, config.warp, config.bend, dataset.crop.guidance, seed)
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
    """Mean distance, in units of the crop, between points read off heatmaps and the true points (M, 131, 2).

    Args:
        read: maps heatmaps (2 M, 1, H, W) to one or several readings (2 M, 131, 2), over which the mean is taken.
        whole, upper: heatmaps (M, 1, H, W) of whole faces and of upper faces. For the latter, only the upper face's
            points count.
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


@torch.no_grad()
def learn_turning(predictor: LandmarkPredictor, dataset: ClipDataset, seed: int) -> None:
    """Fit the linear map from the head's turn to the keypoints' motion, on all clips with random references.

    Linear regression on the two main directions in which an upper face's shape varies: a head turns sideways and up.
    Further directions contain the source's mouth opening, which a dubbed mouth must not follow. Motion faster than a
    second is removed, because it is no turn of the head.
    """
    random = np.random.default_rng(seed)
    shape = slow_shape = slow_both = torch.zeros((), dtype=torch.float64)
    count = 0
    for seen in dataset.landmarks():
        for draw in range(REFERENCE_DRAWS):
            points = torch.from_numpy(seen if draw % 2 else mirrored_landmarks(seen))[None]
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
    # The ridge suppresses directions that are only noise of the landmarks, as for a head that never turns.
    gram = gram + count * len(ANCHORS) * NOISE**2 * torch.eye(TURNS, dtype=torch.float64)
    weight = directions @ torch.linalg.solve(gram, directions.T @ slow_both)
    predictor.turning.linear.weight.copy_(weight.T)


@torch.no_grad()
def learn_motion(predictor: LandmarkPredictor, dataset: ClipDataset, speech: SpeechTraining) -> float:
    """Fit the speech branch's linear map from embeddings of the sound to the keypoints' pose-normalised motion.

    Ridge regression over all frames of the clips. Speech determines neither changes slower than a second (the head's
    turn, a smile) nor how far a person opens the mouth. Slow changes are removed, and each clip's motion is scaled to
    the clips' mean amplitude.

    Returns:
        The share of that motion that the map explains.
    """
    branch = predictor.speech
    embedded, motions, sizes = [], [], []
    for audio, points in dataset.sounds():
        device = branch.linear.weight.device
        embeddings = torch.cat([branch.embed(part.to(device)) for part in torch.from_numpy(audio).split(1024)])
        embedded.append(branch.in_context(embeddings[None])[0].double().cpu())
        whole = mouth_motion(torch.from_numpy(points)).flatten(1).double().numpy()
        motion = torch.from_numpy(whole - uniform_filter1d(whole, FPS, axis=0))
        sizes.append(motion.square().mean().sqrt())
        motions.append(motion / (sizes[-1] + 1e-6))
    features, moved, size = torch.cat(embedded), torch.cat(motions), torch.stack(sizes).mean()
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-6
    normal = (features - mean) / scale
    gram = normal.T @ normal + speech.ridge * torch.eye(normal.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, normal.T @ moved)
    explained = 1 - float((moved - normal @ weight).square().sum() / moved.square().sum())
    weight = speech.gain * size * weight / scale[:, None]
    branch.linear.weight.copy_(weight.T)
    branch.linear.bias.copy_(-mean @ weight)
    return explained


def learn_speech(
    predictor: LandmarkPredictor, dataset: ClipDataset, config: SpeechTraining, seed: int, output: str | Path
) -> float:
    """Pretrain the speech branch: the visemes, if `config.data` names a file, then the map of `learn_motion`.

    Returns:
        As `learn_motion`.

    Raises:
        InputError: as `learn_visemes`; also if the predictor's sound features are not log-mel.
    """
    if config.data:
        if predictor.config.audio != "mel":
            raise InputError(f"speech.data is log-mel, the network takes {predictor.config.audio}; leave it empty")
        learn_visemes(predictor.speech.encoder, predictor.speech.embed, config, seed, output)
    return learn_motion(predictor, dataset, config)


def learn_all(
    predictor: LandmarkPredictor,
    dataset: ClipDataset,
    reading: ReadingTraining,
    speech: SpeechTraining,
    seed: int,
    output: str | Path,
) -> float:
    """All lessons of a fresh landmark predictor, in order.

    Args:
        seed, output: the run's.

    Returns:
        The share of the mouth's motion in the clips that the speech explains.

    Raises:
        InputError: a setting is out of range, or a file cannot be used.
    """
    if reading.steps > 0:
        learn_reading(predictor.reader, dataset, reading, seed, output)
    learn_turning(predictor, dataset, seed)
    return learn_speech(predictor, dataset, speech, seed, output)
