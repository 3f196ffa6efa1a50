"""Score a checkpoint by reconstructing the faces of clip files, ideally of held-out speakers.

    python -m metrics.quality --checkpoint checkpoints/demo --clips CLIPS --json scores.json
    python -m metrics.quality --compare runs/*/scores.json

In each face except the references, the crop's hidden part is generated; the rest is the true face's. Five references
are chosen from the clip as in dubbing. Printed for each clip, and as the mean over clips:

- PSNR and SSIM of the crops. LipLMD, in units of the face box, of the lips that MediaPipe finds in the faces
  and of the predicted keypoints. STSA's networks are scored with the true heatmaps and with heatmaps predicted from the
  clip's sound; G4G's with that sound and with the sound played backward. Two baselines take the reference of median lip
  opening: its hidden part is copied into each frame, and its lips are kept in each frame's pose.
- The correlation of the mouth's opening with the true one, for the clip's sound and for the sound played backward.
  Changes slower than a second are removed. The correlation that is left with the backward sound comes from the pose.
  STSA's mouth is that of the predicted keypoints, G4G's the one that MediaPipe finds in the generated faces (with
  --every 1).
- With --expert, how much more similar faces are to a sound than to the same sound shifted by up to 15 frames. The true
  faces, and faces dubbed with the clip's sound forward and backward, are compared with the clip's sound. Faces dubbed
  with the next clip's sound are compared with the next clip's sound.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from media.errors import InputError, Parser, command, first_line, positive, quick_help
from media.files import check_output_folder, replacing
from media.timeline import FPS


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints/demo"),
        metavar="DIR",
        help="folder of a checkpoint with STSA's networks or G4G's (default: checkpoints/demo)",
    )
    parser.add_argument("--clips", type=Path, help="folder of clip files (data_prep.preprocess)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all scores as JSON")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="FILE", help="only print the means of such files")
    parser.add_argument("--every", type=positive, default=1, help="draw and score every N-th face only (default: 1)")
    parser.add_argument("--expert", help="lip-sync expert: a checkpoint folder, lipsync_expert.pth or syncnet_v2.model")
    arguments = parser.parse_args()
    if arguments.clips is None and not arguments.compare:
        parser.error("the following arguments are required: --clips")
    return arguments


import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from scipy.ndimage import uniform_filter1d
from torch import Tensor
from tqdm import tqdm

from data_prep.clips import Clip
from data_prep.index import open_clips
from data_prep.offsets import similarity_curves
from media.audio import audio_windows
from media.crop import CropForm
from media.face import FaceTracker
from media.heatmap import FULL_FACE, KEYPOINTS, LIP_KEYPOINTS, POSE, draw_heatmaps
from media.pictures import to_pictures, to_tensor
from media.references import covering_references
from metrics.crops import LipDistance, crop_scores, find_lips, with_visible_part
from models import FaceSynthesizer, G4GSynthesizer, is_g4g, load_checkpoint, load_network
from models.checkpoint import load_any_sync_expert
from models.chung_syncnet import SHIFTS, ChungSyncNet
from models.fast import accelerate_inference
from models.guidance import guidance, inputs_of
from models.heatmap_predictor import WindowEncoder
from models.sync_expert import SyncExpert, check_framing

BATCH = 16
TRUE, PREDICTED, COPIED = "true heatmaps", "predicted heatmaps", "copied hidden part"  # rows
OWN_SOUND, BACKWARD_SOUND = "from the sound", "from the sound backward"  # rows of G4G
FOLLOWS, JUDGED = "mouth opening", "in sync"


# Takes positions (M,) in a clip and the true faces there (M, 3, H, W), and returns generated faces.
Renderer = Callable[[Tensor, Tensor], Tensor]


def pictures(clip: Clip, positions: np.ndarray) -> Tensor:
    """Faces of a clip, (F, 3, H, W) RGB in [0, 1]."""
    return to_tensor(clip.faces(positions))


def predict(
    predictor: WindowEncoder,
    audio: Tensor,
    pose: Tensor,
    points: Tensor,
    references: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Predict heatmaps (F, 1, G, G) and keypoints (F, 57, 2), each frame as the centre of its window.

    Args:
        audio, pose, points: sound windows (F, C, W), pose heatmaps (F, 1, G, G) and landmarks (F, 131, 2), all of
            consecutive frames.
        references: heatmaps (1, N, 1, G, G) and landmarks (1, N, 131, 2) of the references.
    """
    frames = torch.cat(
        [predictor.encode_frames(*part) for part in zip(audio.split(BATCH), pose.split(BATCH), strict=True)]
    )
    encoded = predictor.encode_references(references[0])
    reach = predictor.config.frames // 2
    windows = (torch.arange(len(audio))[:, None] + torch.arange(-reach, reach + 1)).clamp(0, len(audio) - 1)
    heatmaps, keypoints = [], []
    for part in windows.split(BATCH):
        tokens = frames[part], encoded.expand(len(part), -1, -1)
        centre = part[:, reach]
        further = inputs_of(predictor, {"landmarks": points[centre], "reference_landmarks": references[1]})
        drawn, found = predictor.predict_centre(*tokens, pose[centre], *further, keypoints=True)
        assert found is not None  # with keypoints=True
        heatmaps.append(drawn)
        keypoints.append(found)
    return torch.cat(heatmaps), torch.cat(keypoints)


def mouth_opening(keypoints: np.ndarray) -> np.ndarray:
    """`lip_opening` of keypoints (F, 57, 2)."""
    return lip_opening(keypoints[:, LIP_KEYPOINTS])


def lip_opening(lips: np.ndarray) -> np.ndarray:
    """Opening (F,) of lips (F, 40, 2), independent of head tilt, minus its mean over a second."""
    opening = np.linalg.svd(lips - lips.mean(axis=1, keepdims=True), compute_uv=False)[:, 1]
    return opening - uniform_filter1d(opening, FPS)


def in_sync(
    expert: SyncExpert | ChungSyncNet, clip: Clip, faces: np.ndarray | None = None, voice: Clip | None = None
) -> float:
    """Mean similarity of faces with their sound, minus the median similarity over shifts of up to `SHIFTS` frames.

    The faces are the clip's, or `faces` (F, H, W, 3) uint8 in their place. The sound is the clip's, or that of `voice`.
    """
    shown = None if faces is None else lambda positions: faces[positions]
    curve = similarity_curves(expert, clip, shown=shown, voice=voice).mean(axis=0)
    return float(curve[SHIFTS] - np.median(curve))


def picture_scores(
    clip: Clip, chosen: np.ndarray, forms: dict[str, Renderer], every: int, crop: CropForm
) -> dict[str, dict[str, float]]:
    """Mean PSNR, SSIM and LipLMD of each of `forms` over every `every`-th face of the clip that is not `chosen`."""
    positions = torch.from_numpy(np.setdiff1d(np.arange(len(clip)), chosen)[::every])
    true = pictures(clip, positions.numpy())
    distance, scores = LipDistance(true, crop, tqdm.write), {}
    for name, draw in forms.items():
        faces = torch.cat([draw(*part) for part in zip(positions.split(BATCH), true.split(BATCH), strict=True)])
        scores[name] = {metric: float(values.mean()) for metric, values in crop_scores(faces, true, crop).items()}
        lips = distance(faces)
        scores[name]["LipLMD"] = math.nan if lips is None else lips
    return scores


def drawn_all(clip: Clip, draw: Renderer) -> tuple[Tensor, Tensor]:
    """All faces of a clip, (F, 3, H, W) each: generated by `draw`, and true."""
    true = pictures(clip, np.arange(len(clip)))
    positions = torch.arange(len(clip)).split(BATCH)
    return torch.cat([draw(*part) for part in zip(positions, true.split(BATCH), strict=True)]), true


def remembering(draw: Renderer) -> Renderer:
    """`draw` with a cache: each position is drawn once, for the scores and for the expert."""
    drawn: dict[int, Tensor] = {}

    def remembered(positions: Tensor, true: Tensor) -> Tensor:
        new = torch.tensor([int(position) not in drawn for position in positions])
        if new.any():
            drawn.update(zip(positions[new].tolist(), draw(positions[new], true[new]), strict=True))
        return torch.stack([drawn[position] for position in positions.tolist()])

    return remembered


def judgement(
    expert: SyncExpert | ChungSyncNet, clip: Clip, voice: Clip, own: Renderer, backward: Renderer, foreign: Renderer
) -> dict[str, float]:
    """`in_sync` of the true faces, and of all faces dubbed with three sounds.

    Faces dubbed with the clip's sound (`own`) and with that sound played backward are compared with the clip's sound.
    Faces dubbed with the sound of `voice` (`foreign`) are compared with that sound.
    """
    result = {"true": in_sync(expert, clip)}
    for name, draw, source in (("own", own, clip), ("backward", backward, clip), ("foreign", foreign, voice)):
        result[name] = in_sync(expert, clip, to_pictures(drawn_all(clip, draw)[0]), source)
    return result


def sounds(clip: Clip, voice: Clip, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sound windows (F, C, W) for the clip's faces: of its own sound, the same played backward, and that of `voice`."""
    features = clip.audio(kind)
    own, backward, foreign = (
        torch.from_numpy(audio_windows(sound, kind, clip.frames))
        for sound in (features, features[::-1], voice.audio(kind))
    )
    return own, backward, foreign


def found_opening(faces: Tensor) -> np.ndarray:
    """`lip_opening` of consecutive crops (F, 3, H, W) in [0, 1], in units of the crop, by MediaPipe's lips.

    Lips are interpolated in crops that show no face. NaN (F,) if more than half show none.
    """
    with FaceTracker() as tracker:
        found = {index: lips for index, face in enumerate(faces) if (lips := find_lips(tracker, face)) is not None}
    if 2 * len(found) < len(faces):
        return np.full(len(faces), np.nan)
    lips = make_interp_spline(list(found), np.stack(list(found.values())), k=1)
    return lip_opening(lips(np.arange(len(faces)).clip(min(found), max(found))))


def copying(clip: Clip, chosen: np.ndarray) -> Renderer:
    """The baseline: the reference of median lip opening in place of every face."""
    copied = pictures(clip, chosen[len(chosen) // 2 : len(chosen) // 2 + 1])
    return lambda positions, true: copied.expand_as(true)


def score_clip(
    clip: Clip,
    voice: Clip,
    predictor: WindowEncoder,
    synthesizer: FaceSynthesizer,
    every: int = 1,
    expert: SyncExpert | ChungSyncNet | None = None,
) -> dict[str, dict[str, float]]:
    """Mean PSNR, SSIM and LipLMD of STSA's rows over one clip's faces without the references; and `FOLLOWS`.

    Only every `every`-th frame is rendered. `synthesizer` comes from `accelerate_inference`. With `expert`, also
    `JUDGED`, for which all frames are rendered, also with the sound of `voice`.
    """
    own, backward, foreign = sounds(clip, voice, predictor.config.audio)
    crop = synthesizer.config.crop
    full, pose = (torch.from_numpy(draw_heatmaps(clip.landmarks, edges, crop.guidance)) for edges in (FULL_FACE, POSE))
    chosen = covering_references(clip.landmarks, synthesizer.config.references)
    points = torch.from_numpy(clip.landmarks).float()
    reference_inputs = full[chosen][None], points[chosen][None]
    further = inputs_of(synthesizer, {"reference_landmarks": reference_inputs[1]})
    references = synthesizer.encode_references(pictures(clip, chosen)[None], reference_inputs[0], *further)

    def drawing(heatmaps: Tensor, sound: Tensor, *further: Tensor) -> Renderer:
        def draw(positions: Tensor, frames: Tensor) -> Tensor:
            drawn, windows, *placed = (x[positions][None] for x in (heatmaps, sound, *further))
            return synthesizer.render(frames[None], drawn, references, windows, *placed)[0]

        return draw

    def guided(heatmaps: Tensor, keypoints: Tensor, sound: Tensor) -> Renderer:
        heatmaps, further = guidance(synthesizer, heatmaps, keypoints, points)
        return drawing(heatmaps, sound, *further)

    def predicted(sound: Tensor) -> tuple[Tensor, Tensor]:
        return predict(predictor, sound, pose, points, reference_inputs)

    from_own, from_backward = predicted(own), predicted(backward)
    dubbed, keypoints = guided(*from_own, own), from_own[1]
    if expert is not None:
        dubbed = remembering(dubbed)
    forms = {
        TRUE: drawing(full, own, *inputs_of(synthesizer, {"landmarks": points})),
        PREDICTED: dubbed,
        COPIED: copying(clip, chosen),
    }
    result = picture_scores(clip, chosen, forms, every, crop)

    scored = np.setdiff1d(np.arange(len(clip)), chosen)
    lips = torch.from_numpy(clip.landmarks[:, KEYPOINTS])[:, LIP_KEYPOINTS]
    still = lips[chosen[len(chosen) // 2]]
    result[PREDICTED]["keypoints"] = float((keypoints[:, LIP_KEYPOINTS] - lips)[scored].norm(dim=-1).mean())
    result[COPIED]["keypoints"] = float((still - lips)[scored].norm(dim=-1).mean())
    true = mouth_opening(clip.landmarks[:, KEYPOINTS])
    result[FOLLOWS] = {
        name: float(np.corrcoef(mouth_opening(mouths.numpy()), true)[0, 1])
        for name, mouths in (("own", keypoints), ("backward", from_backward[1]))
    }
    if expert is not None:
        dubbed_backward, dubbed_foreign = guided(*from_backward, backward), guided(*predicted(foreign), foreign)
        result[JUDGED] = judgement(expert, clip, voice, dubbed, dubbed_backward, dubbed_foreign)
    return result


def score_g4g_clip(
    clip: Clip,
    voice: Clip,
    synthesizer: G4GSynthesizer,
    every: int = 1,
    expert: SyncExpert | ChungSyncNet | None = None,
) -> dict[str, dict[str, float]]:
    """`score_clip` for G4G: PSNR, SSIM and LipLMD of its rows, and `JUDGED` with `expert`.

    `FOLLOWS` compares the lips that MediaPipe finds; it needs every frame, and is left out if `every` is not 1.
    """
    chosen = covering_references(clip.landmarks, synthesizer.config.references)
    crop = synthesizer.config.crop
    shown = pictures(clip, chosen), torch.from_numpy(draw_heatmaps(clip.landmarks[chosen], FULL_FACE, crop.guidance))
    references = synthesizer.encode_references(*(x[None] for x in shown))

    def drawing(sound: Tensor) -> Renderer:
        return lambda positions, frames: synthesizer.render(frames[None], references, sound[positions][None])[0]

    own, backward, foreign = map(drawing, sounds(clip, voice, synthesizer.config.audio))
    if every == 1 or expert is not None:
        own, backward = remembering(own), remembering(backward)
    forms = {OWN_SOUND: own, BACKWARD_SOUND: backward, COPIED: copying(clip, chosen)}
    result = picture_scores(clip, chosen, forms, every, crop)
    if every == 1:
        true = mouth_opening(clip.landmarks[:, KEYPOINTS])
        result[FOLLOWS] = {
            name: float(np.corrcoef(found_opening(with_visible_part(*drawn_all(clip, draw), crop)), true)[0, 1])
            for name, draw in (("own", own), ("backward", backward))
        }
    if expert is not None:
        result[JUDGED] = judgement(expert, clip, voice, own, backward, foreign)
    return result


def means_of(scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over the clips of each row's values."""
    return {
        row: {name: float(np.mean([clip[row][name] for clip in scores.values()])) for name in values}
        for row, values in next(iter(scores.values())).items()
    }


def write_json(path: Path, checkpoint: Path, scores: dict, means: dict) -> None:
    """Write all scores; values that are not finite (no lips found) become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(each) for name, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    content = {"checkpoint": str(checkpoint), "mean": means, "clips": scores}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=2) + "\n", encoding="utf-8")


def compare(paths: list[Path]) -> None:
    """Print the means of several files of --json, a row a file."""
    print("| scores | hidden part | PSNR (dB) | SSIM | LipLMD | LipLMD of the keypoints |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in paths:
        try:
            means = json.loads(path.read_text(encoding="utf-8"))["mean"]
            row = OWN_SOUND if OWN_SOUND in means else PREDICTED
            line = picture_line(path.parent.name, row, means[row])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"--compare {path} is no file of --json ({first_line(error)}); write it again") from error
        print(line)


def picture_line(clip: str, row: str, values: Mapping[str, float | None]) -> str:
    """A row of the table of image scores."""
    distances = (values.get(name) for name in ("LipLMD", "keypoints"))
    lips = " | ".join("-" if value is None or math.isnan(value) else f"{value:.4f}" for value in distances)
    return f"| {clip} | {row} | {values['PSNR']:.2f} | {values['SSIM']:.4f} | {lips} |"


def print_tables(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the tables of image scores, mouth openings and the expert's scores, as far as they were computed."""
    print("| clip | hidden part | PSNR (dB) | SSIM | LipLMD | LipLMD of the keypoints |")
    print("| --- | --- | --- | --- | --- | --- |")
    for clip, rows in scores.items():
        for row, values in rows.items():
            if "PSNR" in values:
                print(picture_line(clip, row, values))
    found = next(iter(scores.values()))
    if FOLLOWS in found:
        print("\n| clip | opening's correlation, own sound | played backward |\n| --- | --- | --- |")
        for clip, rows in scores.items():
            print(f"| {clip} | {rows[FOLLOWS]['own']:.2f} | {rows[FOLLOWS]['backward']:.2f} |")
    if JUDGED in found:
        columns = {"true": "in sync: true faces", "own": "dubbed", "backward": "dubbed with the sound backward"}
        if len(scores) > 2:  # the clips and their mean
            columns["foreign"] = "dubbed with the next clip's sound"
        print(f"\n| clip | {' | '.join(columns.values())} |\n|{' --- |' * (1 + len(columns))}")
        for clip, rows in scores.items():
            print(f"| {clip} | {' | '.join(f'{rows[JUDGED][name]:.4f}' for name in columns)} |")


@command
@torch.inference_mode()
def main() -> None:
    arguments = parse()
    if arguments.compare:
        return compare(arguments.compare)
    if arguments.json is not None:
        check_output_folder(arguments.json.parent)
    expert = load_any_sync_expert(arguments.expert) if arguments.expert else None
    if is_g4g(arguments.checkpoint):
        network = accelerate_inference(load_network(arguments.checkpoint, "g4g_synthesizer"))
        crop = network.config.crop
        score = partial(score_g4g_clip, synthesizer=network, every=arguments.every, expert=expert)
    else:
        predictor, synthesizer = load_checkpoint(arguments.checkpoint)
        crop = synthesizer.config.crop
        score = partial(
            score_clip,
            predictor=predictor,
            synthesizer=accelerate_inference(synthesizer),
            every=arguments.every,
            expert=expert,
        )
    holder = f"checkpoint {arguments.checkpoint}"
    if isinstance(expert, SyncExpert):
        remedy = "give an expert that was trained on the same framing"
        check_framing(expert.config, f"the expert {arguments.expert}", crop, holder, remedy)
    clips = open_clips(arguments.clips, crop=crop)
    scores = {}
    for clip, voice in tqdm(list(zip(clips, clips[1:] + clips[:1], strict=True)), unit="clip"):
        scores[clip.id] = score(clip, voice)
    means = means_of(scores)
    print_tables(scores | {f"mean of {len(scores)} clips": means})
    if arguments.json is not None:
        write_json(arguments.json, arguments.checkpoint, scores, means)
    row = OWN_SOUND if OWN_SOUND in means else PREDICTED
    print(f"{len(clips)} clips, {row}: PSNR {means[row]['PSNR']:.2f} dB, SSIM {means[row]['SSIM']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
