"""Measure how sharp dubs are: videos dubbed with their own sound, compared with their sources.

    python -m benchmarks.sharpness videos/val/*.mp4
    python -m benchmarks.sharpness --width 200 videos/val/*.mp4    # the videos scaled to faces 200 px wide

Dubs each video twice, without and with detail (`--no-detail`). Prints for each dub the width of the face's landmarks in
pixels, the gradient magnitude of the lower face in grey levels a pixel, in the source and in the dub, the share of it
that is left of the source itself, encoded like a dub, PSNR and SSIM of the dub, and the milliseconds of processor time
that detail takes a frame, on one thread. The lower face is what is
pasted at full weight: mouth, cheeks and chin. PSNR and SSIM are of the hidden rectangle of the face's box, as large as
in the frame.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.files import DEMO
from media.timeline import FPS
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="videos with sound")
    parser.add_argument("--seconds", type=float, default=2, help="how much of each is dubbed (default: 2)")
    parser.add_argument(
        "--width",
        type=positive,
        metavar="PX",
        help="scale each video to a face so wide; a wider face than the video's own is enlarged, within 1920x1080",
    )
    parser.add_argument(
        "--sound", type=Path, metavar="FILE", help="dub with this sound; PSNR and SSIM then compare different mouths"
    )
    parser.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR")
    add_device(parser)
    return parser.parse_args()


import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.dubbing import make_sound
from benchmarks.flicker import faces
from dubbing import Clock, DubOptions, Speaker, dub, load_speaker
from dubbing.paste import paste_weight
from dubbing.people import observe
from media.audio import SAMPLE_RATE
from media.crop import CropForm
from media.pictures import to_tensor
from media.place import Place, crop_face, resize
from media.sound import read_audio
from media.video import VideoWriter, read_frames
from metrics.image import psnr, ssim

COLUMNS = ("face px", "source", "dub", "dub / source", "encoded / source", "PSNR", "SSIM", "detail, ms")
DETAIL, ENCODED = COLUMNS[-1], COLUMNS[4]
_SMALLEST_SIDE = 11  # px, of SSIM's window
_LARGEST = 1920, 1080  # px: width and height of an enlarged video


def gradient_magnitude(picture: np.ndarray) -> np.ndarray:
    """Length of the gradient at each pixel of `picture` (H, W, 3) uint8 RGB: (H, W) float32, grey levels a pixel."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8) for dx in (1, 0))
    return np.hypot(across, down)


def pasted_part(shape: tuple[int, int], place: Place, landmarks: np.ndarray, form: CropForm) -> np.ndarray:
    """Mask of the pixels of a frame of `shape` (H, W) that `form` pastes at full weight, (H, W) bool."""
    (left, top, right, bottom), weight = paste_weight(shape, place, landmarks, form)
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = weight > 0.99
    return mask


def hidden_part(frame: np.ndarray, place: Place, form: CropForm) -> np.ndarray:
    """The hidden rectangle of `form` at `place`, cut out of `frame` (H, W, 3) at the frame's resolution."""
    width, height = (round(side) for side in place.size)
    left, top, right, bottom = form.hidden
    rows, columns = (slice(round(a * n), round(b * n)) for a, b, n in ((top, bottom, height), (left, right, width)))
    return crop_face(frame, place, (height, width))[rows, columns]


def sharpness(source: Path, dubbed: Path, form: CropForm) -> dict[str, float]:
    """The `COLUMNS` of a dub of `source`, but for `DETAIL` and `ENCODED`: means over the frames with a face.

    Raises:
        InputError: no frame shows a face that is large enough.
    """
    rows = []
    length = sum(1 for _ in read_frames(dubbed))
    scene = observe(islice(read_frames(source), length), 1)
    for true, made, face in zip(read_frames(source), read_frames(dubbed), faces(scene, form), strict=False):
        if face is None:
            continue
        mask = pasted_part((true.shape[0], true.shape[1]), *face, form)
        parts = [hidden_part(frame, face[0], form) for frame in (made, true)]
        if not mask.any() or min(parts[0].shape[:2]) < _SMALLEST_SIDE:
            continue
        gradients = [float(gradient_magnitude(frame)[mask].mean()) for frame in (true, made)]
        pair = [to_tensor(part[None]) for part in parts]
        rows.append([np.ptp(face[1][:, 0]), *gradients, float(psnr(*pair)), float(ssim(*pair))])
    if not rows:
        raise InputError(f"video {source} shows no face that is large enough; give another")
    width, before, after, decibels, similarity = np.mean(rows, axis=0).tolist()
    ratio = after / max(before, 1e-9)
    names = [name for name in COLUMNS if name not in (DETAIL, ENCODED)]
    return dict(zip(names, (width, before, after, ratio, decibels, similarity), strict=True))


def scaled_size(frame: np.ndarray, own: float, wanted: int) -> tuple[int, int]:
    """Width and height, both even, at which a face of `own` pixels in `frame` (H, W, 3) is `wanted` pixels wide."""
    scale = wanted / own
    return round(frame.shape[1] * scale / 2) * 2, round(frame.shape[0] * scale / 2) * 2


def scaled(video: Path, output: Path, width: int, seconds: float) -> None:
    """Write the first `seconds` of `video` to `output` so that the largest face first seen is `width` pixels wide.

    An enlarged video is cut to 1920x1080 around that face.

    Raises:
        InputError: no frame shows a face.
    """
    frames: Iterator[np.ndarray] = islice(read_frames(video), max(1, round(seconds * FPS)))
    seen: list[np.ndarray] = []
    faces_seen: list[np.ndarray] = []
    for frame in frames:
        seen.append(frame)
        faces_seen = [person.points[0] for person in observe([frame], 1).people]
        if faces_seen:
            break
    if not faces_seen:
        raise InputError(f"video {video} shows no face; give another")
    points = max(faces_seen, key=lambda each: np.ptp(each[:, 0]))
    own = float(np.ptp(points[:, 0]))
    size = scaled_size(seen[0], own, width)
    shown = size if width <= own else (min(size[0], _LARGEST[0]), min(size[1], _LARGEST[1]))
    centre = points.mean(axis=0) * width / own
    x, y = (int(np.clip(round(c - n / 2), 0, whole - n)) for c, n, whole in zip(centre, shown, size, strict=True))
    with VideoWriter(output, *shown, crf=8) as writer:
        for frame in chain(seen, frames):
            writer.write(np.ascontiguousarray(resize(frame, *size)[y : y + shown[1], x : x + shown[0]]))


def encoded(source: Path, output: Path, length: int) -> None:
    """Write the first `length` frames of `source` to `output`, encoded like a dub."""
    frames = islice(read_frames(source), length)
    first = next(frames)
    with VideoWriter(output, first.shape[1], first.shape[0]) as writer:
        for frame in chain([first], frames):
            writer.write(frame)


def row(name: str, detail: bool, values: dict[str, float]) -> str:
    """A line of the Markdown table: `values` of the `COLUMNS`."""
    width, before, after, ratio, left, decibels, similarity, spent = (values[column] for column in COLUMNS)
    return (
        f"| {name} | {'with' if detail else 'without'} | {width:.0f} | {before:.2f} | {after:.2f} | {ratio:.3f} "
        f"| {left:.3f} | {decibels:.2f} | {similarity:.4f} | {spent:.1f} |"
    )


def measured(source: Path, sound: Path, output: Path, speaker: Speaker, detail: bool) -> dict[str, float]:
    """Dub `source` with `sound` to `output`: the `COLUMNS` but for `ENCODED`."""
    clock = Clock(time.thread_time)  # of the thread that works: other stages run at the same time
    summary = dub(
        source, sound, output, speaker, DubOptions(detail=detail, progress=partial(tqdm, disable=None)), clock
    )
    return sharpness(source, output, speaker.crop) | {DETAIL: 1000 * clock.seconds["detail"] / summary.frames}


@command
def main() -> None:
    arguments = parse()
    cv2.setNumThreads(1)
    speaker = load_speaker(arguments.checkpoint, arguments.device)

    print(f"| video | detail | {' | '.join(COLUMNS)} |\n|{' --- |' * (2 + len(COLUMNS))}")
    results: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        sound, output, resized = (Path(folder) / name for name in ("sound.wav", "dubbed.mp4", "source.mp4"))
        for video in arguments.videos:
            heard = arguments.sound or video
            shown = sum(1 for _ in read_frames(video)) / FPS  # a longer sound would play the video backward too
            make_sound(sound, min(arguments.seconds, shown, len(read_audio(heard)) / SAMPLE_RATE), heard)
            source = video
            if arguments.width is not None:
                scaled(video, resized, arguments.width, shown)
                source = resized
            encoded(source, output, max(1, round(len(read_audio(sound)) / SAMPLE_RATE * FPS)))
            left = sharpness(source, output, speaker.crop)["dub / source"]
            for detail, rows in results.items():
                rows.append(measured(source, sound, output, speaker, detail) | {ENCODED: left})
                print(row(str(video), detail, rows[-1]), flush=True)
    for detail, rows in results.items():
        means = {name: float(np.mean([each[name] for each in rows])) for name in COLUMNS}
        print(row(f"mean of {len(rows)}", detail, means))


if __name__ == "__main__":
    sys.exit(main())
