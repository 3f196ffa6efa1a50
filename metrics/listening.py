"""Measure how the predicted mouth follows the sound, by clip files of held-out speakers.

    python -m metrics.listening --checkpoint checkpoints/demo --clips CLIPS --json listening.json

The heatmap predictor of a checkpoint predicts each clip's keypoints from five references, as in dubbing, and from
changed sounds. The sound has the loudness at which networks hear it. Opening is the distance of the inner lips' middles
(MediaPipe ids 13 and 14); a mouth is shut where it is less than 1.2 % of the face's height. Printed for each clip, and
as the mean over the clips:

- own, backward: correlation of the mouth's opening, as `metrics.quality` measures it, with the true one, for the clip's
  sound and for that sound played backward.
- soft, noise: its correlation with that of the own sound, for the sound 24 dB softer and for the sound with pink noise
  12 dB below the voice.
- silence: share of shut frames without any sound; source: correlation of the opening with the source's then.
- closures: of the frames whose true lips are shut, the share in which the predicted lips are shut within two frames;
  shut and truly: shares of the frames with shut lips, predicted and true.
- LipLMD: mean distance of the 40 lip keypoints from the true ones, in units of the box of the 131 landmarks and its
  margin (STSA's crop), whatever the network's crop.
"""

import argparse
import json
import sys
from pathlib import Path

from media.errors import InputError, Parser, command, quick_help
from media.files import check_output_folder, replacing


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints/demo"),
        metavar="DIR",
        help="checkpoint folder with a heatmap predictor (default: checkpoints/demo)",
    )
    parser.add_argument("--clips", type=Path, required=True, help="folder of clip files (data_prep.preprocess)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values as JSON")
    return parser.parse_args()


import numpy as np
import torch
from scipy.ndimage import maximum_filter1d
from torch import Tensor
from tqdm import tqdm

from data_prep.clips import Clip
from data_prep.index import open_clips
from media import hama
from media.audio import audio_windows, sound_features
from media.crop import STSA, CropForm
from media.heatmap import FULL_FACE, KEYPOINTS, LIP_KEYPOINTS, ORDER, POSE, draw_heatmaps
from media.loudness import heard
from media.noise import pink_noise, voice_level
from media.references import covering_references
from metrics.quality import mouth_opening, predict
from models import is_g4g, load_network
from models.heatmap_predictor import WindowEncoder

SHUT = 0.012  # opening of a shut mouth, share of the face's height
WITHIN = 2  # frames
NOISE = -12.0  # dB, of the pink noise relative to the voice
SOFT = -24.0  # dB
_UPPER, _LOWER = (KEYPOINTS.tolist().index(ORDER.index(id)) for id in (13, 14))


def inner_opening(keypoints: np.ndarray) -> np.ndarray:
    """Distance of the inner lips' middles of keypoints (F, 57, 2): (F,)."""
    return np.linalg.norm(keypoints[:, _UPPER] - keypoints[:, _LOWER], axis=1)


def changed(wav: np.ndarray) -> dict[str, np.ndarray]:
    """The sounds of the measurement by name, each (samples,) float32 at the loudness at which networks hear it."""
    noise = pink_noise(len(wav), np.random.default_rng(0))
    sounds = {
        "own": wav,
        "backward": wav[::-1].copy(),
        "soft": wav * 10 ** (SOFT / 20),
        "noise": wav + noise * voice_level(wav) * 10 ** (NOISE / 20),
        "silence": np.zeros_like(wav),
    }
    return {name: heard(sound.astype(np.float32)) for name, sound in sounds.items()}


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, of two (F,); 0 where one does not vary."""
    if min(first.std(), second.std()) < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def stsa_units(clip: Clip, crop: CropForm) -> np.ndarray:
    """(F, 1, 2) factors of distances in units of `crop` that make them distances in units of STSA's crop."""
    sizes = [(crop.place(points).size, STSA.place(points).size) for points in clip.points]
    return np.array([np.asarray(own) / np.asarray(its) for own, its in sizes])[:, None]


@torch.inference_mode()
def listen(predictor: WindowEncoder, clip: Clip, weights: Path | None, references: int = 5) -> dict[str, float]:
    """The values of one clip, by the names of the module's docstring."""
    config, landmarks = predictor.config, clip.landmarks
    chosen = covering_references(landmarks, references)
    pose = torch.from_numpy(draw_heatmaps(landmarks, POSE, config.crop.guidance))
    shown = torch.from_numpy(draw_heatmaps(landmarks[chosen], FULL_FACE, config.crop.guidance))
    points = torch.from_numpy(landmarks).float()
    placed = shown[None], points[chosen][None]

    def spoken(sound: np.ndarray) -> np.ndarray:
        features = sound_features(sound, config.audio, weights=weights)
        windows: Tensor = torch.from_numpy(audio_windows(features, config.audio, clip.frames))
        return predict(predictor, windows, pose, points, placed)[1].numpy()

    mouths = {name: spoken(sound) for name, sound in changed(clip.wav).items()}
    true = landmarks[:, KEYPOINTS]
    height = float((landmarks[..., 1].max(axis=1) - landmarks[..., 1].min(axis=1)).mean())
    moving = {name: mouth_opening(mouth) for name, mouth in mouths.items()}
    shut = {name: inner_opening(mouth) < SHUT * height for name, mouth in (mouths | {"true": true}).items()}
    near = maximum_filter1d(shut["own"].astype(int), 2 * WITHIN + 1, mode="nearest") > 0
    others = np.setdiff1d(np.arange(len(true)), chosen)
    distances = np.linalg.norm((mouths["own"] - true) * stsa_units(clip, config.crop), axis=-1)
    return {
        "own": correlation(moving["own"], mouth_opening(true)),
        "backward": correlation(moving["backward"], mouth_opening(true)),
        "soft": correlation(moving["soft"], moving["own"]),
        "noise": correlation(moving["noise"], moving["own"]),
        "silence": float(shut["silence"].mean()),
        "source": correlation(moving["silence"], mouth_opening(true)),
        "closures": float(near[shut["true"]].mean()) if shut["true"].any() else float("nan"),
        "shut": float(shut["own"].mean()),
        "truly": float(shut["true"].mean()),
        "LipLMD": float(distances[others][:, LIP_KEYPOINTS].mean()),
    }


@command
def main() -> None:
    arguments = parse()
    if arguments.json is not None:
        check_output_folder(arguments.json.parent)
    if is_g4g(arguments.checkpoint):
        raise InputError(f"checkpoint {arguments.checkpoint} holds G4G's network, which predicts no mouth; give STSA's")
    predictor = load_network(arguments.checkpoint, "heatmap_predictor")
    weights = hama.encoder_file(arguments.checkpoint) if predictor.config.audio == "hama" else None
    clips = open_clips(arguments.clips, crop=predictor.config.crop)
    values = {clip.id: listen(predictor, clip, weights) for clip in tqdm(clips, unit="clip")}
    names = list(next(iter(values.values())))
    values[f"mean of {len(clips)} clips"] = {
        name: float(np.nanmean([each[name] for each in values.values()])) for name in names
    }
    print(f"| clip | {' | '.join(names)} |\n|{' --- |' * (1 + len(names))}")
    for clip, each in values.items():
        shown = [f"{each[name]:.4f}" if name == "LipLMD" else f"{each[name]:.2f}" for name in names]
        print(f"| {clip} | {' | '.join(shown)} |")
    if arguments.json is not None:
        finite = {clip: {k: v if np.isfinite(v) else None for k, v in each.items()} for clip, each in values.items()}
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
