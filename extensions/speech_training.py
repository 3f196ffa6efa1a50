"""The training of a `SpeechPredictor`: what is fitted in closed form, its windows with changed sounds, its losses.

The encoder of the sound is frozen, so features of changed sounds are computed once a clip: two noises, and stretches of
silence, in which the mouth is supervised to be shut.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.clips import Clip, runs_of
from data_prep.windows import ClipDataset, mirrored_landmarks
from extensions.feature_scale import fit_scale
from extensions.landmark_maps import ANCHORS, apply_affine, fit_similarity
from extensions.speech_predictor import REACH, SpeechPredictor, face_height, opening
from media.audio import SAMPLE_RATE, audio_windows, sound_features
from media.files import replacing
from media.heatmap import KEYPOINTS, LIP_KEYPOINTS
from media.loudness import heard
from media.noise import pink_noise, voice_level
from media.references import covering_references
from media.timeline import FPS

SOUNDS = ("own", "own", "noise", "louder", "hiss", "cut", "cut")  # of which a window has one, drawn at random
_REFERENCES_OF = 40  # random frames, of which the references cover the landmarks as in dubbing
_QUIET = 0.16  # seconds of silence on either side of a frame, without which its mouth need not be shut
_CLOSED = 0.0105  # opening, share of the face's height, below which true lips count as shut
_SHARPNESS = 0.004  # of the closures' logits
_NOISE = 2e-4  # of the upper face's points, in units of the crop: the ridge of the head's turn


@dataclass
class SpokenLosses:
    """Weights of the loss terms of `form: speech`; distances are in percent of the crop."""

    keypoints: float = 1.0  # mean distance of the keypoints; those of the jaw count half
    velocity: float = 1.0  # the same of their motion between two frames
    opening: float = 0.5  # squared difference of the inner lips' opening
    correlation: float = 1.0  # 1 - the correlation of the opening over a window
    closures: float = 1.0  # binary cross-entropy of shut lips
    shut: float = 2.0  # further weight of frames whose true lips are shut


@dataclass
class SpokenWindowsConfig:
    """The windows of `form: speech`."""

    window: int = 25  # consecutive frames that the losses see
    seed: int = 0  # of the changed sounds


def fit_shapes(predictor: SpeechPredictor, dataset: ClipDataset) -> None:
    """Fit, on all clips, the features' scale, the head's turn, how a mouth closes, and the mouth's main motions."""
    faces = [torch.from_numpy(landmarks) for landmarks in dataset.landmarks()]
    with torch.no_grad():
        predictor.turning.linear.weight.copy_(_turning(faces).T)
        _fit_closing(predictor, faces)
        motions = []
        for landmarks in faces:
            chosen = torch.from_numpy(covering_references(landmarks.numpy()))
            references = landmarks[None, chosen]
            still, _ = predictor._person(references)
            motion = (predictor.frontal(landmarks[None], references) - still[:, None])[0]
            motions.append(motion.flatten(1) / face_height(references))
        together = torch.cat(motions)
        main = torch.linalg.eigh((together.T @ together).double()).eigenvectors.flip(1)[:, : len(predictor.motions)]
        main = main.float()
        predictor.motions.copy_((main * (together @ main).std(dim=0)).T)
    fit_scale(predictor, dataset)


def _turning(faces: list[Tensor]) -> Tensor:
    """The linear map (148, 114) from an upper face's shape to the keypoints' slow motion, by ridge regression.

    All lip points move up and down together: else the upper face, which the jaw moves a little, would open the mouth.
    """
    from scipy.ndimage import uniform_filter1d

    slow = both = np.zeros(())
    count = 0
    for landmarks in faces:
        anchors = landmarks[:, ANCHORS]
        mean = apply_affine(anchors, fit_similarity(anchors, anchors[:1])).mean(dim=0)
        home = fit_similarity(anchors, mean[None])
        turned = (apply_affine(anchors, home) - mean).flatten(1).double().numpy()
        moved = apply_affine(landmarks[:, KEYPOINTS], home).flatten(1).double().numpy()
        moved = moved - moved.mean(axis=0)
        turned, moved = (uniform_filter1d(x, FPS, axis=0) for x in (turned, moved))
        slow, both = slow + turned.T @ turned, both + turned.T @ moved
        count += len(turned)
    ridge = count * len(ANCHORS) * _NOISE**2 * np.eye(len(slow))
    weight = np.linalg.solve(slow + ridge, both).reshape(-1, len(KEYPOINTS), 2)
    weight[:, LIP_KEYPOINTS, 1] = weight[:, LIP_KEYPOINTS, 1].mean(axis=1, keepdims=True)
    return torch.from_numpy(weight.reshape(len(weight), -1)).float()


def _fit_closing(predictor: SpeechPredictor, faces: list[Tensor]) -> None:
    together, square = torch.zeros(len(KEYPOINTS), 2), torch.zeros(())
    for landmarks in faces:
        frontal = predictor.frontal(landmarks[None], landmarks[None, ::10])[0]
        openings = opening(frontal)
        openings = openings - openings.mean()
        together += (openings[:, None, None] * (frontal - frontal.mean(dim=0))).sum(dim=0)
        square += openings.square().sum()
    closing = together / square
    parted = opening(closing[None]).squeeze()  # by 1, but for the lips' sideways motion
    predictor.closing.copy_(closing / parted)


class SpokenWindows(Dataset):
    """Windows for a `SpeechPredictor`, of whole clips kept in memory with their features (200 kB a second).

    Item (index, seed) is a dict of audio (T, C, W), landmarks (T, 131, 2), reference_landmarks (N, 131, 2), keypoints
    (T, 57, 2), and silent and doubtful (T), 1 where the mouth must be shut and where the sound falls silent or begins;
    and clip, its id. T is the window and `REACH` further frames on either side.

    Args:
        dataset: the clips.
        config: the window.
        output: the run's folder; `output/sounds` keeps the features of the changed sounds.
    """

    def __init__(self, dataset: ClipDataset, config: SpokenWindowsConfig, output: str | Path):
        self.kind, self.references = dataset.kind, dataset.references
        self.length = config.window + 2 * REACH
        self._clips = []
        spans = []
        for clip, late, landmarks in zip(dataset.clips, dataset.late, dataset.landmarks(), strict=True):
            frames = clip.frames[: len(landmarks)]
            sounds = changed_sounds(clip, dataset.kind, config.seed, Path(output) / "sounds")
            self._clips.append((clip.id, landmarks, frames + late, sounds))
            first = 0
            for _, count in runs_of(frames):
                if count >= self.length:
                    spans.append((len(self._clips) - 1, first, count - self.length + 1))
                first += count
        self._spans = np.array(spans)
        self._ends = np.cumsum(self._spans[:, 2])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, seed = item
        random = np.random.default_rng([seed % 2**63, index])
        span = int(np.searchsorted(self._ends, index, side="right"))
        which, first, count = self._spans[span].tolist()
        start = first + index - (int(self._ends[span]) - count)
        id, landmarks, numbers, sounds = self._clips[which]
        part = slice(start, start + self.length)
        chosen = random.choice(len(landmarks), min(len(landmarks), _REFERENCES_OF), replace=False)
        candidates = landmarks[np.sort(chosen)]
        points = np.concatenate([landmarks[part], candidates[covering_references(candidates, self.references)]])
        if random.random() < 0.5:
            points = mirrored_landmarks(points)
        sound = SOUNDS[random.integers(len(SOUNDS))]
        silent, doubtful = _silence(sounds["silent"] if sound == "cut" else None, numbers[part])
        target = torch.from_numpy(points[: self.length])
        return {
            "audio": torch.from_numpy(audio_windows(sounds[sound].astype(np.float32), self.kind, numbers[part])),
            "landmarks": target,
            "keypoints": target[:, KEYPOINTS],
            "reference_landmarks": torch.from_numpy(points[self.length :]),
            "silent": silent,
            "doubtful": doubtful,
            "clip": id,
        }


def _silence(silent: np.ndarray | None, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Whether frames (T,) lie within silence, and whether near its ends; `silent` (samples / 160,) uint8."""
    if silent is None:
        return torch.zeros(len(numbers)), torch.zeros(len(numbers))
    rate = SAMPLE_RATE // 160
    middle = np.round((numbers + 0.5) / FPS * rate).astype(int)[:, None]
    reach = round(_QUIET * rate)
    near = silent[(middle + np.arange(-reach, reach + 1)).clip(0, len(silent) - 1)]
    share = torch.from_numpy(near.mean(axis=1)).float()
    return (share == 1).float(), ((share > 0) & (share < 1)).float()


def changed_sounds(clip: Clip, kind: str, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """Features (frames, C) float16 of a clip's own sound and of `SOUNDS`, and `silent` (samples / 160,) of "cut"."""
    state = clip.path.stat()
    path = folder / f"{clip.id.replace('/', '-')}.{kind}-{seed}-{state.st_size:x}-{state.st_mtime_ns:x}.safetensors"
    if path.is_file():
        return load_file(path)
    wav, random = clip.wav, np.random.default_rng([seed, zlib.crc32(clip.id.encode())])
    level = voice_level(wav)
    pink = pink_noise(len(wav), random)
    hiss = random.standard_normal(len(wav)).astype(np.float32)
    cut, silent = _with_silence(wav, random)
    if random.random() < 0.6:
        cut = cut + pink * _factor(-random.uniform(45, 75))
    sounds = {
        "noise": heard(wav + pink * level * _factor(-random.uniform(8, 16))),
        "louder": heard(wav + pink_noise(len(wav), random) * level * _factor(-random.uniform(5, 12))),
        "hiss": heard(wav + hiss * level * _factor(-random.uniform(14, 30))) * _factor(random.uniform(-6, 4)),
        "cut": heard(cut),
    }
    made = {name: sound_features(each.astype(np.float32), kind) for name, each in sounds.items()}
    made = {name: np.ascontiguousarray(each, np.float16) for name, each in (made | {"own": clip.audio(kind)}).items()}
    made["silent"] = np.ascontiguousarray(silent[::160], np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(made, temporary)
    return made


def _factor(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))


def _with_silence(wav: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`wav` with stretches of silence of 0.6 to 1.6 s, 0.8 to 2 s apart, and where these are (samples,) bool."""
    silent = np.zeros(len(wav), bool)
    at = random.uniform(0, 1)
    while at * SAMPLE_RATE < len(wav):
        length = random.uniform(0.6, 1.6)
        silent[round(at * SAMPLE_RATE) : round((at + length) * SAMPLE_RATE)] = True
        at += length + random.uniform(0.8, 2)
    fade = np.convolve(~silent, np.ones(160) / 160, "same").astype(np.float32)
    return wav * fade, silent


def spoken_terms(keypoints: Tensor, shut: Tensor, batch: dict, weights: SpokenLosses) -> dict[str, Tensor]:
    """The weighted loss terms of `form: speech`.

    Args:
        keypoints: (B, T, 57, 2) predicted, of items of `SpokenWindows`.
        shut: (B, T, 57, 2), the person's shut mouth in the frames' poses, the target in silence.
        batch: of those items. Frames in which the sound falls silent or begins do not count.
    """
    inner = slice(REACH, -REACH)
    keypoints, shut, true = (x[:, inner] for x in (keypoints, shut, batch["keypoints"]))
    silent, counts = batch["silent"][:, inner], 1 - batch["doubtful"][:, inner]
    true = torch.where(silent[..., None, None] > 0, shut, true)
    share = keypoints.new_full((keypoints.shape[2],), 0.5)
    share[LIP_KEYPOINTS] = 1.0
    share = share / share.sum()
    openings, expected = opening(keypoints), opening(true)
    height = face_height(batch["reference_landmarks"])[:, None]
    closed = (expected < _CLOSED * height).float()
    weight = counts * (1 + weights.shut * closed * (1 - silent)) / counts.sum()
    pairs = counts[:, 1:] * counts[:, :-1] / counts.sum()
    steps = (keypoints.diff(dim=1) - true.diff(dim=1)).norm(dim=-1) @ share
    logits = (_CLOSED * height - openings) / (_SHARPNESS * height)
    missed = F.binary_cross_entropy_with_logits(logits, closed, reduction="none")
    terms = {
        "keypoints": 100 * (((keypoints - true).norm(dim=-1) @ share) * weight).sum(),
        "velocity": 100 * (steps * pairs).sum(),
        "opening": ((100 * (openings - expected)).square() * weight).sum(),
        "correlation": (1 - _correlation(openings, expected, counts)).mean(),
        "closures": (missed * counts).sum() / counts.sum(),
    }
    return {name: getattr(weights, name) * value for name, value in terms.items()}


def _correlation(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation of the rows of two (B, T) tensors: (B,); near 0 where one hardly varies."""
    total = weight.sum(dim=1, keepdim=True).clamp_min(1)
    a, b = (weight * (x - (x * weight).sum(dim=1, keepdim=True) / total) for x in (first, second))
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1) + 1e-8).sqrt()
