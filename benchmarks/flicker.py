"""Measure the flicker of dubs: videos dubbed with their own sound, compared with their sources.

    python -m benchmarks.flicker videos/val/*.mp4

Prints the mean absolute difference between consecutive frames, in grey levels, of source and dub, for each video and as
the mean over videos. The regions are the cheeks (pasted at full weight, without the mouth), the contour (where the
pasted face fades out, and some pixels beyond it) and the rest of the frame. Flicker is the dub's excess over the
source.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from media.errors import InputError, Parser, command, quick_help
from media.files import DEMO
from media.timeline import FPS
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="videos with sound")
    parser.add_argument("--seconds", type=float, default=4, help="how much of each is dubbed (default: 4)")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR")
    add_device(parser)
    return parser.parse_args()


import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.dubbing import make_sound
from dubbing import DubOptions, dub, load_speaker
from dubbing.paste import paste_weight
from dubbing.people import Scene, choose, observe
from media.audio import SAMPLE_RATE
from media.crop import CropForm
from media.heatmap import LIP_POINTS
from media.landmarks import select131
from media.place import Place
from media.sound import read_audio
from media.video import read_frames

REGIONS = ("cheeks", "contour", "rest")
MOUTH = 0.12  # of the face's width: margin of the mouth's region around the lips
BEYOND = 0.04  # of the face's width: how far the contour's band extends beyond the pasted face


def regions(shape: tuple[int, int], place: Place, landmarks: np.ndarray, form: CropForm) -> dict[str, np.ndarray]:
    """Masks of the `REGIONS` of a face pasted by `form` into a frame of `shape` (H, W), (H, W) bool each."""
    (left, top, right, bottom), inside = paste_weight(shape, place, landmarks, form)
    weight = np.zeros(shape, np.float32)
    weight[top:bottom, left:right] = inside
    mouth = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mouth, cv2.convexHull(np.rint(landmarks[LIP_POINTS]).astype(np.int32)), (1,))
    lips = _widened(mouth, MOUTH * place.width)
    pasted = _widened((weight > 0).astype(np.uint8), BEYOND * place.width)
    whole = weight > 0.99
    return {"cheeks": whole & ~lips, "contour": pasted & ~whole & ~lips, "rest": ~pasted & ~lips}


def _widened(mask: np.ndarray, pixels: float) -> np.ndarray:
    side = 2 * max(1, round(pixels)) + 1
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0


def faces(scene: Scene, form: CropForm) -> Iterator[tuple[Place, np.ndarray] | None]:
    """Place of the crop of `form`, and landmarks (131, 2), of the dubbed face in each frame; None if there is none."""
    for index, people in enumerate(choose(scene)):
        if people and index in people[0].frames:
            position = people[0].frames.index(index)
            points = people[0].points[position]
            yield form.place(points), select131(points)
        else:
            yield None


def flicker(source: Path, dubbed: Path, form: CropForm) -> dict[str, tuple[float, float]]:
    """The mean difference between consecutive frames of `source` and of `dubbed`, for each of the `REGIONS`."""
    sums: dict[str, list[np.ndarray]] = defaultdict(list)
    length = sum(1 for _ in read_frames(dubbed))
    scene = observe((frame for frame, _ in zip(read_frames(source), range(length), strict=False)), 1)
    before = None
    for *frames, face in zip(read_frames(source), read_frames(dubbed), faces(scene, form), strict=False):
        frames = [frame.astype(np.int16) for frame in frames]
        if before is not None and face is not None:
            changes = [np.abs(new - old).mean(axis=2) for new, old in zip(frames, before, strict=True)]
            for name, mask in regions(changes[0].shape, *face, form).items():
                if mask.any():
                    sums[name].append(np.array([change[mask].mean() for change in changes]))
        before = frames if face is not None else None
    if not sums:
        raise InputError(f"video {source} has no two frames in a row with a face; give another")
    return {name: tuple(np.mean(sums[name], axis=0).tolist()) for name in REGIONS if name in sums}


@command
def main() -> None:
    arguments = parse()
    speaker = load_speaker(arguments.checkpoint, arguments.device)

    results: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sound, output = Path(folder) / "sound.wav", Path(folder) / "dubbed.mp4"
        for video in arguments.videos:
            shown = sum(1 for _ in read_frames(video)) / FPS  # a longer sound would play the video backward too
            seconds = min(arguments.seconds, shown, len(read_audio(video)) / SAMPLE_RATE)
            make_sound(sound, seconds, video)
            dub(video, sound, output, speaker, DubOptions(progress=partial(tqdm, disable=None)))
            results[str(video)] = flicker(video, output, speaker.crop)
    results[f"mean of {len(results)}"] = {
        name: tuple(np.mean([each[name] for each in results.values() if name in each], axis=0)) for name in REGIONS
    }
    print("| video | region | source | dub | dub / source |\n| --- | --- | --- | --- | --- |")
    for video, values in results.items():
        for name, (source, dubbed) in values.items():
            print(f"| {video} | {name} | {source:.3f} | {dubbed:.3f} | {dubbed / max(source, 1e-9):.2f} |")


if __name__ == "__main__":
    sys.exit(main())
