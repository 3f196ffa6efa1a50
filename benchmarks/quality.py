"""How well a checkpoint rebuilds faces it has never seen, from clip files.

    python -m benchmarks.quality --checkpoint checkpoints/demo --clips CLIPS

Every face of every clip but the references themselves: the lower half generated, the upper half as given, five
references from the clip, chosen as dubbing chooses them; once with the true heatmaps and once with those
predicted from the clip's own sound. Printed a clip and as the mean over clips: PSNR and SSIM of the 128x128 crops, and
LipLMD of the predicted keypoints in units of the face box, beside two yardsticks: the lower half of the reference of
median lip opening copied into each frame, and a mouth that keeps that reference's lips. Then whether the mouth follows
what is said: how its opening correlates with the true one, without what changes slower than in a second, for the clip's
own sound and for that sound played backward, where what is left comes from the pose. With --heatmaps-alone, networks
that work with landmarks are given none and read them off the heatmaps. With --expert, a lip-sync expert judges the
faces themselves: how much more alike they are to the clip's sound than to the same sound up to 15 frames earlier or
later; the true faces, those dubbed with that sound, and those dubbed with it played backward.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor
from tqdm import tqdm

from data_prep.clips import Clip, clip_id, clip_paths
from data_prep.offsets import SHIFTS, similarity_curves
from losses.reconstruction import LIPS
from media.audio import audio_windows
from media.errors import InputError, Parser, command
from media.face import covering_references
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmap
from media.video import FPS
from metrics.crops import crop_scores
from models import FaceSynthesizer, HeatmapPredictor, load_checkpoint
from models.checkpoint import load_any_sync_expert
from models.chung_syncnet import ChungSyncNet
from models.fast import accelerate_inference
from models.sync_expert import SyncExpert

BATCH = 16
ROWS = ("true heatmaps", "predicted heatmaps", "copied lower half")
FOLLOWS, JUDGED = "mouth opening", "in sync"


def heatmaps(landmarks: np.ndarray, edges: tuple) -> Tensor:
    """(F, 131, 2) -> (F, 1, 128, 128)."""
    return torch.from_numpy(np.stack([draw_heatmap(points, edges) for points in landmarks])[:, None])


def pictures(clip: Clip, positions: np.ndarray) -> Tensor:
    """Faces of a clip, (F, 3, 128, 128) RGB in [0, 1]."""
    return torch.from_numpy(clip.faces(positions)).permute(0, 3, 1, 2).float() / 255


def predict(
    predictor: HeatmapPredictor,
    audio: Tensor,
    pose: Tensor,
    points: Tensor,
    references: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Heatmaps (F, 1, 128, 128) and keypoints (F, 57, 2), each frame's as the centre of its window.

    Args:
        audio, pose, points: (F, C, W), (F, 1, 128, 128) and (F, 131, 2) of consecutive frames.
        references: their heatmaps (1, N, 1, 128, 128) and points (1, N, 131, 2).
    """
    frames = torch.cat(
        [predictor.encode_frames(*part) for part in zip(audio.split(BATCH), pose.split(BATCH), strict=True)]
    )
    encoded = predictor.encode_references(references[0])
    reach = predictor.config.frames // 2
    windows = (torch.arange(len(audio))[:, None] + torch.arange(-reach, reach + 1)).clamp(0, len(audio) - 1)
    heatmaps, keypoints = [], []
    for part in windows.split(BATCH):
        known = frames[part], encoded.expand(len(part), -1, -1)
        centre = part[:, reach]
        drawn, found = predictor.predict_centre(*known, pose[centre], points[centre], references[1], keypoints=True)
        heatmaps.append(drawn.clamp(max=1))
        keypoints.append(found)
    return torch.cat(heatmaps), torch.cat(keypoints)


def read_points(network: HeatmapPredictor | FaceSynthesizer, heatmaps: Tensor, known: Tensor) -> Tensor:
    """What the network reads off heatmaps (F, 1, 128, 128), (F, 131, 2); `known` where it does not work with points."""
    if network.reader is None:
        return known
    return torch.cat([network.reader(part) for part in heatmaps.split(BATCH)])


def mouth_opening(keypoints: np.ndarray) -> np.ndarray:
    """How far (F, 57, 2) keypoints' lips are open, however the head is tilted, less its mean over a second; (F,)."""
    lips = keypoints[:, LIPS]
    opening = np.linalg.svd(lips - lips.mean(axis=1, keepdims=True), compute_uv=False)[:, 1]
    return opening - uniform_filter1d(opening, FPS)


def in_sync(expert: SyncExpert | ChungSyncNet, clip: Clip, faces: np.ndarray | None = None) -> float:
    """How much nearer a clip's faces, or others (F, H, W, 3) uint8 in their place, are to their sound than to others.

    The mean similarity with the sound of the same time, less the median one over `SHIFTS` frames either way.
    """
    curves = similarity_curves(expert, clip, shown=None if faces is None else lambda positions: faces[positions])
    curve = curves.mean(axis=0)
    return float(curve[SHIFTS] - np.median(curve))


def score_clip(
    clip: Clip,
    predictor: HeatmapPredictor,
    synthesizer: FaceSynthesizer,
    every: int = 1,
    expert: SyncExpert | ChungSyncNet | None = None,
    heatmaps_alone: bool = False,
) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and LipLMD of each of `ROWS` on one clip, means over its faces but the references; and `FOLLOWS`.

    Of the pictures, only every so manieth is drawn. `synthesizer` is one of `accelerate_inference`. With `expert`, also
    `JUDGED`, for which all are drawn. With `heatmaps_alone`, neither network is given points.
    """
    kind = predictor.config.audio
    backward = torch.from_numpy(audio_windows(clip.audio(kind)[::-1], kind, clip.frames))
    audio = torch.from_numpy(audio_windows(clip.audio(kind), kind, clip.frames))
    full, pose = heatmaps(clip.landmarks, FULL_FACE), heatmaps(clip.landmarks, POSE)
    chosen = covering_references(clip.landmarks, synthesizer.config.references)
    reference_heatmaps = full[chosen][None]
    points = upper = whole = drawn_through = torch.from_numpy(clip.landmarks).float()
    if heatmaps_alone:
        upper, drawn_through = (read_points(predictor, heatmap, points) for heatmap in (pose, full))
        whole = read_points(synthesizer, full, points)
    known = reference_heatmaps, drawn_through[chosen][None]
    references = synthesizer.encode_references(pictures(clip, chosen)[None], reference_heatmaps, whole[chosen][None])

    def dubbed(sound: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The heatmaps and points that guide the synthesizer, and the keypoints, for sound (F, C, W)."""
        predicted, keypoints = predict(predictor, sound, pose, upper, known)
        placed = predictor.whole_faces(upper, keypoints)
        return (predicted, read_points(synthesizer, predicted, placed) if heatmaps_alone else placed), keypoints

    heard, keypoints = dubbed(audio)
    guided = (full, whole), heard
    copied = pictures(clip, chosen[len(chosen) // 2 : len(chosen) // 2 + 1])

    scores = {name: [] for name in ROWS}
    scored = np.setdiff1d(np.arange(len(clip)), chosen)
    for positions in torch.from_numpy(scored[::every]).split(BATCH):
        true = pictures(clip, positions.numpy())
        for name, guidance in zip(ROWS[:2], guided, strict=True):
            drawn, placed = (x[positions][None] for x in guidance)
            faces = synthesizer.render(true[None], drawn, references, audio[positions][None], placed)
            scores[name].append(crop_scores(faces[0], true))
        scores[ROWS[2]].append(crop_scores(copied.expand_as(true), true))
    result = {
        name: {metric: float(torch.cat([part[metric] for part in parts]).mean()) for metric in ("PSNR", "SSIM")}
        for name, parts in scores.items()
    }
    lips = torch.from_numpy(clip.landmarks[:, KEYPOINTS])[:, LIPS]
    still = lips[chosen[len(chosen) // 2]]
    result[ROWS[1]]["LipLMD"] = float((keypoints[:, LIPS] - lips)[scored].norm(dim=-1).mean())
    result[ROWS[2]]["LipLMD"] = float((still - lips)[scored].norm(dim=-1).mean())
    misguided, misheard = dubbed(backward)
    true = mouth_opening(clip.landmarks[:, KEYPOINTS])
    result[FOLLOWS] = {
        name: float(np.corrcoef(mouth_opening(mouths.numpy()), true)[0, 1])
        for name, mouths in (("own", keypoints), ("backward", misheard))
    }
    if expert is not None:
        result[JUDGED] = {"true": in_sync(expert, clip)}
        for name, (guidance, placed), sound in (("own", heard, audio), ("backward", misguided, backward)):
            drawn = [
                synthesizer.render(
                    pictures(clip, part.numpy())[None],
                    guidance[part][None],
                    references,
                    sound[part][None],
                    placed[part][None],
                )
                for part in torch.arange(len(clip)).split(BATCH)
            ]
            faces = (torch.cat(drawn, dim=1)[0].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            result[JUDGED][name] = in_sync(expert, clip, faces)
    return result


@command
@torch.inference_mode()
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/demo"))
    parser.add_argument("--clips", type=Path, required=True, help="folder of clip files (data_prep.preprocess)")
    parser.add_argument("--every", type=int, default=1, help="draw and score each so manieth face only (default: 1)")
    parser.add_argument("--heatmaps-alone", action="store_true", help="give the networks no landmarks")
    parser.add_argument("--expert", help="lip-sync expert: a checkpoint folder, lipsync_expert.pth or syncnet_v2.model")
    arguments = parser.parse_args()
    if arguments.every < 1:
        raise InputError(f"--every {arguments.every} must be 1 or more")
    predictor, synthesizer = load_checkpoint(arguments.checkpoint)
    synthesizer = accelerate_inference(synthesizer)
    expert = load_any_sync_expert(arguments.expert) if arguments.expert else None
    paths = clip_paths(arguments.clips)
    scores = {}
    for path in tqdm(paths, unit="clip"):
        clip = Clip(path, clip_id(path, arguments.clips))
        scores[clip.id] = score_clip(clip, predictor, synthesizer, arguments.every, expert, arguments.heatmaps_alone)

    scores[f"mean of {len(scores)} clips"] = means = {
        row: {metric: float(np.mean([clip[row][metric] for clip in scores.values()])) for metric in values}
        for row, values in next(iter(scores.values())).items()
    }
    print("| clip | lower half | PSNR (dB) | SSIM | LipLMD |\n| --- | --- | --- | --- | --- |")
    for clip, rows in scores.items():
        for row in ROWS:
            values = rows[row]
            distance = f"{values['LipLMD']:.4f}" if "LipLMD" in values else "-"
            print(f"| {clip} | {row} | {values['PSNR']:.2f} | {values['SSIM']:.4f} | {distance} |")
    print("\n| clip | opening's correlation, own sound | played backward |\n| --- | --- | --- |")
    for clip, rows in scores.items():
        print(f"| {clip} | {rows[FOLLOWS]['own']:.2f} | {rows[FOLLOWS]['backward']:.2f} |")
    if expert is not None:
        print("\n| clip | in sync: true faces | dubbed | dubbed with the sound backward |\n| --- | --- | --- | --- |")
        for clip, rows in scores.items():
            values = " | ".join(f"{rows[JUDGED][name]:.4f}" for name in ("true", "own", "backward"))
            print(f"| {clip} | {values} |")
    best = means[ROWS[1]]
    print(f"{len(paths)} clips, with predicted heatmaps: PSNR {best['PSNR']:.2f} dB, SSIM {best['SSIM']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
