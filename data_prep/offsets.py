"""Find how far each clip's sound is from its picture, and write it into the manifest.

    python -m data_prep.offsets CLIPS --expert runs/sync/best

CLIPS is a folder of clip files; --expert is a checkpoint folder of train_sync.py, Wav2Lip's `lipsync_expert.pth`, or
Chung's `syncnet_v2.model`.
The offset is the number of frames by which the sound has to be moved later to fit (negative: it comes too late), as
LSE-D and LSE-C count it; null where a clip has no five frames in a row. `data.max_offset=1` then leaves out of a
training what is off by more than a frame, `data.correct_offsets=true` moves it into step. An expert that has not
learned finds offsets too: with --proven-on, a folder of clips in step that it was not trained on, nothing is written
unless it finds most of them within a frame.
"""

import argparse
import sys
from collections.abc import Callable
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
    parser.add_argument("--proven-on", type=Path, metavar="CLIPS", help="clips in step, which it must find so")
    add_device(parser)
    return parser.parse_args()


import cv2
import numpy as np
import torch
from tqdm import tqdm

from data_prep.clips import Clip, clip_id, clip_paths
from data_prep.manifest import Manifest
from data_prep.unsynced import sync_mel
from data_prep.windows import window_starts
from media.audio import mfcc
from models.checkpoint import digest, load_any_sync_expert
from models.chung_syncnet import GREY, MARGIN, SHIFTS, SIZE, ChungSyncNet, mfcc_windows
from models.sync_expert import FRAMES, SyncExpert, lower_faces


@torch.no_grad()
def similarity_curves(
    expert: SyncExpert | ChungSyncNet,
    clip: Clip,
    shifts: int = SHIFTS,
    batch: int = 64,
    shown: Callable[[range], np.ndarray] | None = None,
    voice: Clip | None = None,
) -> np.ndarray:
    """How near each window of five faces is to its sound moved by -shifts .. shifts frames.

    Args:
        expert: in eval mode; the work is done on its device.
        shown: gives other faces (n, H, W, 3) uint8 in the place of some of the clip's, such as dubbed ones.
        voice: another clip, whose sound is heard in the place of the clip's own.

    Returns:
        (windows, 2 shifts + 1) float32, cosine similarity, of Chung's network the negative Euclidean distance: column
        k is the sound that comes k - shifts frames after the faces. Windows whose shifted sounds do not all lie within
        the sound are left out, unless that leaves none: silence then stands for what is missing.
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
    heard = np.arange(low, int(numbers[-1]) + shifts + 1)
    chung = isinstance(expert, ChungSyncNet)
    if chung:
        batch = min(batch, 8)  # its faces are seven times as large
        sound = mfcc(voice.wav)
    else:
        sound = voice.audio("mel")
    sounds = []
    for i in range(0, len(heard), batch):
        part = heard[i : i + batch]
        windows = torch.from_numpy(mfcc_windows(sound, part) if chung else sync_mel(sound, part)).to(device)
        sounds.append(expert.audio(windows) if chung else expert.embed_audio(windows))
    sounds = torch.cat(sounds)
    curves = []
    for i in range(0, len(starts), batch):
        part = starts[i : i + batch]
        positions = range(part[0], part[-1] + FRAMES)
        faces = (shown or clip.faces)(positions)
        if chung:
            faces = np.stack([framed(face, clip.boxes[k]) for face, k in zip(faces, positions, strict=True)])
        windows = torch.from_numpy(part - part[0])[:, None] + torch.arange(FRAMES)
        frames = torch.from_numpy(faces).to(device)[windows.to(device)]  # (B, 5, H, W, 3)
        shifted = torch.from_numpy(numbers[i : i + batch] - shifts - low)[:, None] + torch.arange(2 * shifts + 1)
        shifted = sounds[shifted.to(device)]
        if chung:
            lips = expert.video(frames.flip(-1).permute(0, 4, 1, 2, 3).float())
            near = -(shifted - lips[:, None]).norm(dim=-1)
        else:
            lips = expert.embed_faces(lower_faces(frames.permute(0, 1, 4, 2, 3).float() / 255))
            near = (shifted @ lips[..., None])[..., 0]
        curves.append(near.float().cpu())
    return torch.cat(curves).numpy()


def framed(face: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A clip's face (H, W, 3) uint8, cut at `box` from its source, where Chung's SyncNet expects it: (224, 224, 3).

    A clip file holds nothing of the source around the face; the margin is filled as where the source ends.
    """
    width, height = (float(side) for side in box[2:] - box[:2])
    scale = SIZE / (max(width, height) * (1 + MARGIN))  # of the source
    x, y = scale * width / face.shape[1], scale * height / face.shape[0]
    left, top = (SIZE - scale * width) / 2, scale * (max(width, height) - height) / 2
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
    """`find_offset` of a clip; None where it has no five frames in a row."""
    curves = similarity_curves(expert, clip)
    return find_offset(curves) if len(curves) else (None, 0.0)


def check_expert(expert: SyncExpert | ChungSyncNet, folder: Path) -> None:
    """InputError unless the expert finds more than half of the clips of `folder`, which are in step, within a frame."""
    paths = clip_paths(folder)
    offsets = [clip_offset(expert, Clip(path))[0] for path in tqdm(paths, unit="clip", desc="proof")]
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
    paths = clip_paths(options.clips)
    manifest = Manifest(options.clips)
    known = manifest.read()

    judge = digest(options.expert)

    off = unknown = 0
    for path in tqdm(paths, unit="clip", desc="offsets"):
        name = clip_id(path, options.clips)
        line = known.get(name, {"id": name, "outcome": "ok"})
        if line.get("offset_expert") != judge:  # where an earlier run was interrupted, others are done
            offset, confidence = clip_offset(expert, Clip(path, name))
            line |= {"offset": offset, "offset_confidence": round(confidence, 4), "offset_expert": judge}
            manifest.add([line])
        unknown += line["offset"] is None
        off += abs(line["offset"] or 0) > 1
    manifest.sort()
    summary = f"{len(paths)} clips, {off} of them off by more than a frame, {unknown} too short to tell"
    print(f"{summary}; {manifest.path} has the offsets")


if __name__ == "__main__":
    sys.exit(main())
