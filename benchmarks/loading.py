"""CPU time of a training item, and the time to open a folder of clip files.

    python -m benchmarks.loading [--items 200] [--clips 5000]

The clips repeat the faces and landmarks of the bundled portrait, in frames of LRS2's size. Their sound is noise, with
log-mel and Wav2Vec 2.0 features. Items are windows of five frames with five references, augmented, in random order, as
train_heatmap.py (without pictures) and train_face.py read them.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from media.errors import Parser, command, positive, quick_help


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--items", type=positive, default=200, help="items of each measurement (default: 200)")
    parser.add_argument("--clips", type=positive, default=5000, help="clip files of the opened folder (default: 5000)")
    return parser.parse_args()


import cv2
import numpy as np
import torch

from benchmarks.training import PORTRAIT
from data_prep.clips import ClipData, encode_face, stored_part, write_clip
from data_prep.storage import LONGEST_SIDE, QUALITY
from data_prep.windows import ClipDataset
from media.face import FaceTracker
from media.landmarks import tracked
from media.place import resize
from media.video import read_frames

SHORT, LONG = 75, 7500  # frames: three seconds, five minutes
LRS2 = 160  # px, width and height of its frames
CLIPS = 8


def portrait() -> list[tuple[bytes, np.ndarray, np.ndarray]]:
    """JPEGs, tracked points and stored parts of the portrait's faces, in frames of LRS2's size."""
    found = []
    with FaceTracker() as tracker:
        for frame in read_frames(PORTRAIT):
            frame = resize(frame, LRS2, LRS2)
            face = tracker.track(frame)
            if face is not None:
                points = tracked(face.landmarks)
                box = stored_part(points, frame.shape[1], frame.shape[0])
                found.append((encode_face(frame, box, QUALITY, LONGEST_SIDE), points, box))
    return found


def repeated(faces: list[tuple[bytes, np.ndarray, np.ndarray]], frames: int) -> ClipData:
    """A clip of `frames` faces, there and back through the given ones."""
    random = np.random.default_rng(0)
    there_and_back = [*range(len(faces)), *range(len(faces) - 1, -1, -1)]
    order = [there_and_back[i % len(there_and_back)] for i in range(frames)]
    sound = random.uniform(-0.1, 0.1, frames * 640).astype(np.float32)
    audio = {"mel": random.uniform(-4, 4, (frames * 80 // 25 + 1, 80)).astype(np.float32)}
    audio["wav2vec2"] = random.standard_normal((frames * 2, 768), np.float32)
    shown, points, boxes = (list(each) for each in zip(*(faces[i] for i in order), strict=True))
    return ClipData(shown, points, boxes, list(range(frames)), sound, audio)


def cost(dataset: ClipDataset, count: int) -> float:
    """CPU time of an item in ms, with a warm file cache."""
    chosen = np.random.default_rng(0).choice(len(dataset), count)
    began = time.process_time()
    for seed, index in enumerate(chosen):
        dataset[int(index), seed]
    return 1000 * (time.process_time() - began) / count


def opening(folder: Path) -> float:
    """Seconds until a folder's windows are known."""
    began = time.perf_counter()
    ClipDataset(folder)
    return time.perf_counter() - began


@command
def main() -> None:
    options = parse()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    faces = portrait()
    print("clips | sound | heatmap stage, ms an item | face stage, ms an item")
    with tempfile.TemporaryDirectory() as place:
        for what, frames in (("three seconds", SHORT), ("five minutes", LONG)):
            folder, data = Path(place, what.replace(" ", "-")), repeated(faces, frames)
            for number in range(CLIPS):
                write_clip(folder / f"{number}.safetensors", data)
            for kind in ("mel", "wav2vec2"):
                heatmap_stage = ClipDataset(folder, kind, augment=True, pictures=False)
                face_stage = ClipDataset(folder, kind, augment=True, poses=False)
                times = [cost(dataset, options.items) for dataset in (heatmap_stage, face_stage)]
                print(f"{what} | {kind} | " + " | ".join(f"{each:.1f}" for each in times), flush=True)
        folder, data = Path(place, "many"), repeated(faces, 30)
        data.audio.pop("wav2vec2")
        for number in range(options.clips):
            write_clip(folder / f"{number % 100:02d}" / f"{number}.safetensors", data)
        print(f"open {options.clips} clips: {opening(folder):.2f} s; again: {opening(folder):.2f} s")


if __name__ == "__main__":
    sys.exit(main())
