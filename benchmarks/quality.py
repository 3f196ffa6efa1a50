"""How well a checkpoint rebuilds faces it has never seen, from clip files.

    python -m benchmarks.quality --checkpoint checkpoints/demo --clips CLIPS

Every face of every clip but the references themselves: the lower half generated, the upper half as given, five
references from the clip, chosen as dubbing chooses them; by STSA's networks once with the true heatmaps and once with
those predicted from the clip's own sound, by G4G's from that sound and from the same played backward. Printed a clip
and as the mean over clips: PSNR and SSIM of the 128x128 crops, and LipLMD of the predicted keypoints in units of the
face box, beside two yardsticks: the lower half of the reference of median lip opening copied into each frame, and a
mouth that keeps that reference's lips. Then whether the mouth follows what is said: how its opening correlates with the
true one, without what changes slower than in a second, for the clip's own sound and for that sound played backward,
where what is left comes from the pose. With --heatmaps-alone, networks that work with landmarks are given none and read
them off the heatmaps. With --expert, a lip-sync expert judges the faces themselves: how much more alike they are to the
clip's sound than to the same sound up to 15 frames earlier or later; the true faces, those dubbed with that sound, and
those dubbed with it played backward.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor
from tqdm import tqdm

from data_prep.clips import Clip, clip_id, clip_paths
from data_prep.offsets import similarity_curves
from media.audio import audio_windows
from media.errors import InputError, Parser, command
from media.face import CROP_SIZE, covering_references
from media.heatmap import FULL_FACE, KEYPOINTS, LIP_KEYPOINTS, POSE, draw_heatmaps
from media.video import FPS
from metrics.crops import crop_scores
from models import FaceSynthesizer, G4GSynthesizer, HeatmapPredictor, is_g4g, load_checkpoint, load_network
from models.checkpoint import load_any_sync_expert
from models.chung_syncnet import SHIFTS, ChungSyncNet
from models.fast import accelerate_inference
from models.sync_expert import SyncExpert

BATCH = 16
TRUE, PREDICTED, COPIED = "true heatmaps", "predicted heatmaps", "copied lower half"  # rows
HEARD, MISHEARD = "from the sound", "from the sound backward"  # G4G's
FOLLOWS, JUDGED = "mouth opening", "in sync"

# From positions (M,) in a clip and the true faces there (M, 3, 128, 128), faces in their place.
Form = Callable[[Tensor, Tensor], Tensor]


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
    lips = keypoints[:, LIP_KEYPOINTS]
    opening = np.linalg.svd(lips - lips.mean(axis=1, keepdims=True), compute_uv=False)[:, 1]
    return opening - uniform_filter1d(opening, FPS)


def in_sync(expert: SyncExpert | ChungSyncNet, clip: Clip, faces: np.ndarray | None = None) -> float:
    """How much nearer a clip's faces, or others (F, H, W, 3) uint8 in their place, are to their sound than to others.

    The mean similarity with the sound of the same time, less the median one over `SHIFTS` frames either way.
    """
    curves = similarity_curves(expert, clip, shown=None if faces is None else lambda positions: faces[positions])
    curve = curves.mean(axis=0)
    return float(curve[SHIFTS] - np.median(curve))


def picture_scores(clip: Clip, chosen: np.ndarray, forms: dict[str, Form], every: int) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of each of `forms`, means over every so manieth of the clip's faces but those `chosen`."""
    scores = {name: [] for name in forms}
    for positions in torch.from_numpy(np.setdiff1d(np.arange(len(clip)), chosen)[::every]).split(BATCH):
        true = pictures(clip, positions.numpy())
        for name, draw in forms.items():
            scores[name].append(crop_scores(draw(positions, true), true))
    return {
        name: {metric: float(torch.cat([part[metric] for part in parts]).mean()) for metric in ("PSNR", "SSIM")}
        for name, parts in scores.items()
    }


def judgement(expert: SyncExpert | ChungSyncNet, clip: Clip, own: Form, backward: Form) -> dict[str, float]:
    """`in_sync` of the true faces, and of all faces dubbed with the clip's sound and with that played backward."""
    result = {"true": in_sync(expert, clip)}
    for name, draw in (("own", own), ("backward", backward)):
        drawn = [draw(part, pictures(clip, part.numpy())) for part in torch.arange(len(clip)).split(BATCH)]
        faces = (torch.cat(drawn).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        result[name] = in_sync(expert, clip, faces)
    return result


def sounds(clip: Clip, kind: str) -> tuple[Tensor, Tensor]:
    """The windows of sound (F, C, W) of the clip's faces, and those of its sound played backward."""
    features = clip.audio(kind)
    own, backward = (audio_windows(heard, kind, clip.frames) for heard in (features, features[::-1]))
    return torch.from_numpy(own), torch.from_numpy(backward)


def copying(clip: Clip, chosen: np.ndarray) -> Form:
    """The yardstick: the reference of median lip opening in every face's place."""
    copied = pictures(clip, chosen[len(chosen) // 2 : len(chosen) // 2 + 1])
    return lambda positions, true: copied.expand_as(true)


def score_clip(
    clip: Clip,
    predictor: HeatmapPredictor,
    synthesizer: FaceSynthesizer,
    every: int = 1,
    expert: SyncExpert | ChungSyncNet | None = None,
    heatmaps_alone: bool = False,
) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and LipLMD of STSA's rows on one clip, means over its faces but the references; and `FOLLOWS`.

    Of the pictures, only every so manieth is drawn. `synthesizer` is one of `accelerate_inference`. With `expert`, also
    `JUDGED`, for which all are drawn. With `heatmaps_alone`, neither network is given points.
    """
    own, backward = sounds(clip, predictor.config.audio)
    full, pose = (torch.from_numpy(draw_heatmaps(clip.landmarks, edges)) for edges in (FULL_FACE, POSE))
    chosen = covering_references(clip.landmarks, synthesizer.config.references)
    reference_heatmaps = full[chosen]
    points = upper = whole = torch.from_numpy(clip.landmarks).float()
    reference_points = points[chosen]
    if heatmaps_alone:
        upper, whole = read_points(predictor, pose, points), read_points(synthesizer, full, points)
        reference_points = read_points(predictor, reference_heatmaps, reference_points)
    known = reference_heatmaps[None], reference_points[None]
    references = synthesizer.encode_references(pictures(clip, chosen)[None], known[0], whole[chosen][None])

    def drawing(heatmaps: Tensor, placed: Tensor, sound: Tensor) -> Form:
        def draw(positions: Tensor, frames: Tensor) -> Tensor:
            drawn, heard, at = (x[positions][None] for x in (heatmaps, sound, placed))
            return synthesizer.render(frames[None], drawn, references, heard, at)[0]

        return draw

    def guided(predicted: Tensor, keypoints: Tensor, sound: Tensor) -> Form:
        placed = predictor.whole_faces(upper, keypoints)
        return drawing(predicted, read_points(synthesizer, predicted, placed) if heatmaps_alone else placed, sound)

    heard, misheard = (predict(predictor, sound, pose, upper, known) for sound in (own, backward))
    dubbed, keypoints = guided(*heard, own), heard[1]
    forms = {TRUE: drawing(full, whole, own), PREDICTED: dubbed, COPIED: copying(clip, chosen)}
    result = picture_scores(clip, chosen, forms, every)

    scored = np.setdiff1d(np.arange(len(clip)), chosen)
    lips = torch.from_numpy(clip.landmarks[:, KEYPOINTS])[:, LIP_KEYPOINTS]
    still = lips[chosen[len(chosen) // 2]]
    result[PREDICTED]["LipLMD"] = float((keypoints[:, LIP_KEYPOINTS] - lips)[scored].norm(dim=-1).mean())
    result[COPIED]["LipLMD"] = float((still - lips)[scored].norm(dim=-1).mean())
    true = mouth_opening(clip.landmarks[:, KEYPOINTS])
    result[FOLLOWS] = {
        name: float(np.corrcoef(mouth_opening(mouths.numpy()), true)[0, 1])
        for name, mouths in (("own", keypoints), ("backward", misheard[1]))
    }
    if expert is not None:
        result[JUDGED] = judgement(expert, clip, dubbed, guided(*misheard, backward))
    return result


def score_g4g_clip(
    clip: Clip, synthesizer: G4GSynthesizer, every: int = 1, expert: SyncExpert | ChungSyncNet | None = None
) -> dict[str, dict[str, float]]:
    """As `score_clip`, of G4G: PSNR and SSIM of its rows, and `JUDGED`."""
    chosen = covering_references(clip.landmarks, synthesizer.config.references)
    shown = pictures(clip, chosen), torch.from_numpy(draw_heatmaps(clip.landmarks[chosen], FULL_FACE))
    references = synthesizer.encode_references(*(x[None] for x in shown))

    def drawing(sound: Tensor) -> Form:
        return lambda positions, frames: synthesizer.render(frames[None], None, references, sound[positions][None])[0]

    own, backward = map(drawing, sounds(clip, synthesizer.config.audio))
    forms = {HEARD: own, MISHEARD: backward, COPIED: copying(clip, chosen)}
    result = picture_scores(clip, chosen, forms, every)
    if expert is not None:
        result[JUDGED] = judgement(expert, clip, own, backward)
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
    expert = load_any_sync_expert(arguments.expert) if arguments.expert else None
    if is_g4g(arguments.checkpoint):
        if arguments.heatmaps_alone:
            raise InputError("--heatmaps-alone: G4G takes no landmarks; leave the option out")
        network = accelerate_inference(load_network(arguments.checkpoint, "g4g_synthesizer"))
        if network.config.size != CROP_SIZE:
            raise InputError(
                f"{arguments.checkpoint} makes faces of {network.config.size} pixels, clips hold {CROP_SIZE}"
            )
        score = partial(score_g4g_clip, synthesizer=network, every=arguments.every, expert=expert)
    else:
        predictor, synthesizer = load_checkpoint(arguments.checkpoint)
        score = partial(
            score_clip,
            predictor=predictor,
            synthesizer=accelerate_inference(synthesizer),
            every=arguments.every,
            expert=expert,
            heatmaps_alone=arguments.heatmaps_alone,
        )
    paths = clip_paths(arguments.clips)
    scores = {}
    for path in tqdm(paths, unit="clip"):
        clip = Clip(path, clip_id(path, arguments.clips))
        scores[clip.id] = score(clip)

    scores[f"mean of {len(scores)} clips"] = means = {
        row: {metric: float(np.mean([clip[row][metric] for clip in scores.values()])) for metric in values}
        for row, values in next(iter(scores.values())).items()
    }
    print("| clip | lower half | PSNR (dB) | SSIM | LipLMD |\n| --- | --- | --- | --- | --- |")
    for clip, rows in scores.items():
        for row, values in rows.items():
            if "PSNR" in values:
                distance = f"{values['LipLMD']:.4f}" if "LipLMD" in values else "-"
                print(f"| {clip} | {row} | {values['PSNR']:.2f} | {values['SSIM']:.4f} | {distance} |")
    if FOLLOWS in means:
        print("\n| clip | opening's correlation, own sound | played backward |\n| --- | --- | --- |")
        for clip, rows in scores.items():
            print(f"| {clip} | {rows[FOLLOWS]['own']:.2f} | {rows[FOLLOWS]['backward']:.2f} |")
    if expert is not None:
        print("\n| clip | in sync: true faces | dubbed | dubbed with the sound backward |\n| --- | --- | --- | --- |")
        for clip, rows in scores.items():
            values = " | ".join(f"{rows[JUDGED][name]:.4f}" for name in ("true", "own", "backward"))
            print(f"| {clip} | {values} |")
    row = HEARD if HEARD in means else PREDICTED
    print(f"{len(paths)} clips, {row}: PSNR {means[row]['PSNR']:.2f} dB, SSIM {means[row]['SSIM']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
