"""Find how far each clip's sound is from its picture, and write it into the manifest.

    python -m data_prep.offsets CLIPS --expert runs/sync/best

CLIPS is a folder of clip files; --expert is a checkpoint folder of train_sync.py, or Wav2Lip's `lipsync_expert.pth`.
The offset is the number of frames by which the sound has to be moved later to fit (negative: it comes too late), as
LSE-D and LSE-C count it. `data.max_offset=1` then leaves out of a training what is off by more than a frame.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep.clips import SUFFIX, Clip, clip_paths
from data_prep.manifest import Manifest
from data_prep.sync import FRAMES, sync_mel, window_starts
from media.errors import InputError, command
from media.video import FPS
from models.checkpoint import load_network, load_state, read_foreign
from models.sync_expert import SyncExpert, SyncExpertConfig, lower_faces, released_state

SHIFTS = 15  # frames either way


@torch.no_grad()
def similarity_curves(expert: SyncExpert, clip: Clip, shifts: int = SHIFTS, batch: int = 64) -> np.ndarray:
    """Cosine similarity of each window of five faces to its sound moved by -shifts .. shifts frames.

    Args:
        expert: in eval mode; the work is done on its device.

    Returns:
        (windows, 2 shifts + 1) float32: column k is the sound that comes k - shifts frames after the faces. Windows
        whose shifted sounds do not all lie within the clip's sound are left out, unless that leaves none: silence then
        stands for what is missing.
    """
    device = next(expert.parameters()).device
    starts = window_starts(clip)
    if not len(starts):
        return np.zeros((0, 2 * shifts + 1), np.float32)
    numbers = clip.frames[starts].astype(np.int64)
    last = int(clip.seconds * FPS) - FRAMES
    whole = (numbers >= shifts) & (numbers + shifts <= last)
    if whole.any():
        starts, numbers = starts[whole], numbers[whole]

    low = int(numbers[0]) - shifts
    heard = np.arange(low, int(numbers[-1]) + shifts + 1)
    mel = clip.audio("mel")
    sounds = torch.cat(
        [
            expert.embed_audio(torch.from_numpy(sync_mel(mel, heard[i : i + batch])).to(device))
            for i in range(0, len(heard), batch)
        ]
    )
    curves = []
    for i in range(0, len(starts), batch):
        part = starts[i : i + batch]
        faces = torch.from_numpy(clip.faces(range(part[0], part[-1] + FRAMES))).to(device)
        windows = torch.from_numpy(part - part[0])[:, None] + torch.arange(FRAMES)
        frames = faces[windows.to(device)].permute(0, 1, 4, 2, 3).float() / 255
        lips = expert.embed_faces(lower_faces(frames))
        positions = torch.from_numpy(numbers[i : i + batch] - shifts - low)[:, None] + torch.arange(2 * shifts + 1)
        curves.append((sounds[positions.to(device)] @ lips[..., None])[..., 0].float().cpu())
    return torch.cat(curves).numpy()


def find_offset(curves: np.ndarray) -> tuple[int, float]:
    """(windows, 2 shifts + 1) similarities -> offset in frames, and the mean curve's maximum minus its median."""
    curve = curves.mean(axis=0)
    best = int(curve.argmax())
    return curves.shape[1] // 2 - best, float(curve[best] - np.median(curve))


def load_expert(path: str | os.PathLike) -> SyncExpert:
    """The expert of a checkpoint folder, or Wav2Lip's file, in eval mode on the CPU; InputError if it is neither."""
    if Path(path).is_dir():
        return load_network(path, "sync_expert")
    expert = SyncExpert(SyncExpertConfig.released())
    try:
        state = released_state(read_foreign(path))
    except ValueError as error:
        raise InputError(f"{path} is not Wav2Lip's expert: {error}") from error
    load_state(expert, state, str(path))
    return expert.eval()


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of clip files")
    parser.add_argument("--expert", required=True, help="checkpoint folder with sync_expert, or lipsync_expert.pth")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"--device {options.device}: no CUDA device is here; use cpu")
    expert = load_expert(options.expert).to(options.device)
    paths = clip_paths(options.clips)
    manifest = Manifest(options.clips)
    known = manifest.read()

    off = 0
    for path in tqdm(paths, unit="clip", desc="offsets"):
        clip = Clip(path, path.relative_to(options.clips).as_posix().removesuffix(SUFFIX))
        curves = similarity_curves(expert, clip)
        if not len(curves):
            continue
        offset, confidence = find_offset(curves)
        off += abs(offset) > 1
        line = known.get(clip.id, {"id": clip.id, "outcome": "ok"})
        manifest.add([line | {"offset": offset, "offset_confidence": round(confidence, 4)}])
    manifest.sort()
    print(f"{len(paths)} clips, {off} of them off by more than a frame; {manifest.path} has the offsets")


if __name__ == "__main__":
    sys.exit(main())
