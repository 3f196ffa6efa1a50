"""Measure the flicker of dubs: videos dubbed with their own sound, compared with their sources.

    python -m benchmarks.flicker videos/val/*.mp4

Dubs each video twice, without and with detail (`--no-detail`). Prints the mean absolute difference between consecutive
frames, in grey levels, of the source and of both dubs, for each video and as the mean over videos. The regions are the
mouth, the cheeks (pasted at full weight, without the mouth), the contour (where the pasted face fades out, and some
pixels beyond it) and the rest of the frame, which is only encoded again. Flicker is the dub's excess over the source.
The mouth of a dub moves differently from its source's, so that its two dubs are to be compared.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
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

REGIONS = ("mouth", "cheeks", "contour", "rest")
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
    return {"mouth": whole & lips, "cheeks": whole & ~lips, "contour": pasted & ~whole & ~lips, "rest": ~pasted & ~lips}


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


def flicker(source: Path, dubs: Sequence[Path], form: CropForm) -> dict[str, list[float]]:
    """The mean difference between consecutive frames of `source` and of each of `dubs`, for each of the `REGIONS`."""
    sums: dict[str, list[np.ndarray]] = defaultdict(list)
    length = min(sum(1 for _ in read_frames(dubbed)) for dubbed in dubs)
    scene = observe(islice(read_frames(source), length), 1)
    before = None
    together = zip(*map(read_frames, (source, *dubs)), strict=False)
    for shown, face in zip(together, faces(scene, form), strict=False):
        frames = [frame.astype(np.int16) for frame in shown]
        if before is not None and face is not None:
            changes = [np.abs(new - old).mean(axis=2) for new, old in zip(frames, before, strict=True)]
            for name, mask in regions(changes[0].shape, *face, form).items():
                if mask.any():
                    sums[name].append(np.array([change[mask].mean() for change in changes]))
        before = frames if face is not None else None
    if not sums:
        raise InputError(f"video {source} has no two frames in a row with a face; give another")
    return {name: np.mean(sums[name], axis=0).tolist() for name in REGIONS if name in sums}


def row(video: str, region: str, values: Sequence[float]) -> str:
    """A line of the Markdown table: `values` of source, dub without detail and dub with it."""
    source, without, with_ = values
    ratios = " | ".join(f"{dub:.3f} | {dub / max(source, 1e-9):.2f}" for dub in (without, with_))
    return f"| {video} | {region} | {source:.3f} | {ratios} |"


@command
def main() -> None:
    arguments = parse()
    speaker = load_speaker(arguments.checkpoint, arguments.device)

    results: dict[str, dict[str, list[float]]] = {}
    print("| video | region | source | without detail | / source | with detail | / source |\n|" + " --- |" * 7)
    with tempfile.TemporaryDirectory() as folder:
        sound, *outputs = (Path(folder) / name for name in ("sound.wav", "without.mp4", "with.mp4"))
        for video in arguments.videos:
            shown = sum(1 for _ in read_frames(video)) / FPS  # a longer sound would play the video backward too
            seconds = min(arguments.seconds, shown, len(read_audio(video)) / SAMPLE_RATE)
            make_sound(sound, seconds, video)
            for output, detail in zip(outputs, (False, True), strict=True):
                options = DubOptions(detail=detail, progress=partial(tqdm, disable=None))
                dub(video, sound, output, speaker, options)
            results[str(video)] = flicker(video, outputs, speaker.crop)
            for name, values in results[str(video)].items():
                print(row(str(video), name, values), flush=True)
    for name in REGIONS:
        found = [each[name] for each in results.values() if name in each]
        if found:
            print(row(f"mean of {len(found)}", name, np.mean(found, axis=0).tolist()))


if __name__ == "__main__":
    sys.exit(main())
