"""Measure each clip's audio-video offset and write it into the manifest.

    python -m data_prep.offsets CLIPS --expert runs/sync/best

CLIPS is a folder of clip files. --expert is a checkpoint folder of train_sync.py, Wav2Lip's `lipsync_expert.pth`, or
Chung's `syncnet_v2.model`.
The offset is the number of frames by which the sound must be delayed to match the picture (negative: it comes too
late), as in LSE-D and LSE-C. It is null for a clip without five consecutive frames. In training, `data.max_offset=1`
leaves out clips with a larger offset than one frame, and `data.correct_offsets=true` corrects offsets. An untrained
expert finds offsets too. --proven-on checks it: a folder of synchronised clips held out from the expert's training.
Nothing is written unless the expert finds offsets of at most one frame for more than half of these clips.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from media.errors import InputError, Parser, command, quick_help
from media.timeline import FPS
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("clips", type=Path, help="folder of clip files")
    parser.add_argument(
        "--expert", required=True, help="checkpoint folder with sync_expert, lipsync_expert.pth or syncnet_v2.model"
    )
    parser.add_argument(
        "--proven-on",
        type=Path,
        metavar="CLIPS",
        help="synchronised clips, for which the expert must find small offsets",
    )
    add_device(parser)
    return parser.parse_args()


import cv2
import numpy as np
import torch
from tqdm import tqdm

from data_prep.clips import Clip, window_starts
from data_prep.index import open_clips
from data_prep.manifest import Manifest
from data_prep.unsynced import sync_sounds
from media.audio import mfcc
from media.crop import STSA
from media.place import Place
from models.checkpoint import digest, load_any_sync_expert
from models.chung_syncnet import GREY, MARGIN, SHIFTS, SIZE, ChungSyncNet, mfcc_windows, sync_crop
from models.sync_expert import FRAMES, SyncExpert


@torch.no_grad()
def similarity_curves(
    expert: SyncExpert | ChungSyncNet,
    clip: Clip,
    shifts: int = SHIFTS,
    batch: int = 64,
    shown: Callable[[range], np.ndarray] | None = None,
    voice: Clip | None = None,
) -> np.ndarray:
    """Similarity of each window of five faces to its sound, shifted by -shifts .. shifts frames.

    Args:
        expert: in eval mode; computes on its device.
        shown: returns faces (n, H, W, 3) uint8 for positions, to replace the clip's own, for example dubbed ones.
        voice: another clip, whose sound replaces the clip's own.

    Returns:
        (windows, 2 shifts + 1) float32: cosine similarity, or for Chung's network the negative Euclidean distance.
        Column k is the sound k - shifts frames after the faces. Windows whose shifted sounds reach beyond the recording
        are left out; if none would remain, the recording is padded with silence instead.
    """
    device = next(expert.parameters()).device
    voice = voice or clip
    starts = window_starts(clip, FRAMES)
    if not len(starts):
        return np.zeros((0, 2 * shifts + 1), np.float32)
    numbers = clip.frames[starts].astype(np.int64)
    last = int(voice.seconds * FPS) - FRAMES
    whole = (numbers >= shifts) & (numbers + shifts <= last)
    if whole.any():
        starts, numbers = starts[whole], numbers[whole]

    low = int(numbers[0]) - shifts
    sound_frames = np.arange(low, int(numbers[-1]) + shifts + 1)
    if isinstance(expert, ChungSyncNet):
        batch = min(batch, 8)  # its faces are seven times as large
        sound = mfcc(voice.wav)
    else:
        sound = voice.audio(expert.config.audio)
    parts = []
    for i in range(0, len(sound_frames), batch):
        part = sound_frames[i : i + batch]
        if isinstance(expert, ChungSyncNet):
            parts.append(expert.audio(torch.from_numpy(mfcc_windows(sound, part)).to(device)))
        else:
            sounding = sync_sounds(sound, expert.config.audio, part)
            parts.append(expert.embed_audio(torch.from_numpy(sounding).to(device)))
    sounds = torch.cat(parts)
    curves = []
    for i in range(0, len(starts), batch):
        part = starts[i : i + batch]
        positions = range(part[0], part[-1] + FRAMES)
        if shown is None and isinstance(expert, ChungSyncNet):
            faces = sync_crops(clip, positions)
        else:
            faces = (shown or clip.faces)(positions)
            if isinstance(expert, ChungSyncNet):
                faces = np.stack(
                    [framed(face, clip.crop.place(clip.points[k])) for face, k in zip(faces, positions, strict=True)]
                )
        windows = torch.from_numpy(part - part[0])[:, None] + torch.arange(FRAMES)
        frames = torch.from_numpy(faces).to(device)[windows.to(device)]  # (B, 5, H, W, 3)
        places = torch.from_numpy(numbers[i : i + batch] - shifts - low)[:, None] + torch.arange(2 * shifts + 1)
        shifted = sounds[places.to(device)]
        if isinstance(expert, ChungSyncNet):
            lips = expert.video(frames.flip(-1).permute(0, 4, 1, 2, 3).float())
            near = -(shifted - lips[:, None]).norm(dim=-1)
        else:
            lips = expert.embed_faces(expert.lower_faces(frames.permute(0, 1, 4, 2, 3).float() / 255))
            near = (shifted @ lips[..., None])[..., 0]
        curves.append(near.float().cpu())
    return torch.cat(curves).numpy()


def sync_crops(clip: Clip, positions: Sequence[int]) -> np.ndarray:
    """The clip's faces as inputs of Chung's SyncNet, (n, 224, 224, 3) uint8 RGB."""
    crops = []
    for position, picture in zip(positions, clip.pictures(positions), strict=True):
        box = clip.boxes[position]
        scale = picture.shape[1] / (box[2] - box[0]), picture.shape[0] / (box[3] - box[1])
        face = STSA.place(clip.points[position]).within(box, scale)
        crops.append(sync_crop(picture, np.array([face.left, face.top, face.right, face.bottom])))
    return np.stack(crops)


def framed(face: np.ndarray, place: Place) -> np.ndarray:
    """Place a crop (H, W, 3), cut at `place` from its source, in an input of Chung's SyncNet: (224, 224, 3).

    A dubbed crop has no pixels around it, so the margin is grey, as it is beyond the border of a source frame.
    """
    scale = SIZE / (max(place.size) * (1 + MARGIN))  # of the source
    x, y = scale * place.width / face.shape[1], scale * place.height / face.shape[0]
    left, top = (SIZE - scale * place.width) / 2, scale * (max(place.size) - place.height) / 2
    matrix = np.array([[x, 0, left + 0.5 * x - 0.5], [0, y, top + 0.5 * y - 0.5]])
    return cv2.warpAffine(
        face, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )


def find_offset(curves: np.ndarray) -> tuple[int, float]:
    """(windows, 2 shifts + 1) similarities -> offset in frames, and the mean curve's maximum minus its median."""
    curve = curves.mean(axis=0)
    best = int(curve.argmax())
    return curves.shape[1] // 2 - best, float(curve[best] - np.median(curve))


def clip_offset(expert: SyncExpert | ChungSyncNet, clip: Clip) -> tuple[int | None, float]:
    """`find_offset` for a clip; offset None if the clip has no five consecutive frames."""
    curves = similarity_curves(expert, clip)
    return find_offset(curves) if len(curves) else (None, 0.0)


def _clips(folder: Path, expert: SyncExpert | ChungSyncNet) -> list[Clip]:
    return open_clips(folder, crop=expert.config.faces if isinstance(expert, SyncExpert) else STSA)


def check_expert(expert: SyncExpert | ChungSyncNet, folder: Path) -> None:
    """InputError unless the expert's offset is at most one frame for more than half of the synchronised clips."""
    offsets = [clip_offset(expert, clip)[0] for clip in tqdm(_clips(folder, expert), unit="clip", desc="proof")]
    found = sum(offset is not None and abs(offset) <= 1 for offset in offsets)
    if 2 * found <= len(offsets):
        raise InputError(
            f"the expert finds {found} of the {len(offsets)} clips of {folder} within a frame: no offset of it can be "
            f"trusted; train it longer, with speech.data, or on more people"
        )


@command
def main() -> None:
    options = parse()
    expert = load_any_sync_expert(options.expert).to(options.device)
    if options.proven_on is not None:
        check_expert(expert, options.proven_on)
    clips = _clips(options.clips, expert)
    manifest = Manifest(options.clips)
    known = manifest.read()

    judge = digest(options.expert)

    off = unknown = 0
    for clip in tqdm(clips, unit="clip", desc="offsets"):
        line = known.get(clip.id, {"id": clip.id, "outcome": "ok"})
        if line.get("offset_expert") != judge:  # an interrupted run has measured the others
            offset, confidence = clip_offset(expert, clip)
            line |= {"offset": offset, "offset_confidence": round(confidence, 4), "offset_expert": judge}
            manifest.add([line])
        unknown += line["offset"] is None
        off += abs(line["offset"] or 0) > 1
    manifest.sort()
    summary = f"{len(clips)} clips, {off} of them off by more than a frame, {unknown} too short to tell"
    print(f"{summary}; {manifest.path} has the offsets")


if __name__ == "__main__":
    sys.exit(main())
