"""Measure how sharp dubs are: videos dubbed with their own sound, compared with their sources.

    python -m benchmarks.sharpness videos/val/*.mp4
    python -m benchmarks.sharpness --width 200 videos/val/*.mp4    # the videos scaled down to faces 200 px wide

Dubs each video twice, without and with detail (`--no-detail`). Prints for each dub the width of the face's landmarks in
pixels, the gradient magnitude of the lower face in grey levels a pixel, in the source and in the dub, PSNR and SSIM of
the dub, and the milliseconds of processor time that detail takes a frame, on one thread. The lower face is what is
pasted at full weight: mouth, cheeks and chin. PSNR and SSIM are of the hidden rectangle of the face's box, as large as
in the frame.
"""

import argparse
import contextlib
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
        help="scale each video down to a face so wide; wider than the video's own is refused",
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

COLUMNS = ("face px", "source", "dub", "dub / source", "PSNR", "SSIM", "detail, ms")
DETAIL = COLUMNS[-1]
_SMALLEST_SIDE = 11  # px, of SSIM's window


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
    """The `COLUMNS` of a dub of `source`, but for `DETAIL`: means over the frames with a face.

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
    return dict(zip(COLUMNS, (width, before, after, ratio, decibels, similarity), strict=False))


def scaled_size(frame: np.ndarray, own: float, wanted: int) -> tuple[int, int]:
    """Width and height, both even, at which a face of `own` pixels in `frame` (H, W, 3) is `wanted` pixels wide."""
    scale = wanted / own
    return round(frame.shape[1] * scale / 2) * 2, round(frame.shape[0] * scale / 2) * 2


def scaled_down(video: Path, output: Path, width: int, seconds: float) -> None:
    """Write the first `seconds` of `video` to `output` so that the largest face first seen is `width` pixels wide.

    Raises:
        InputError: no frame shows a face, or the face is narrower already.
    """
    frames: Iterator[np.ndarray] = islice(read_frames(video), max(1, round(seconds * FPS)))
    seen: list[np.ndarray] = []
    own = 0.0
    for frame in frames:
        seen.append(frame)
        people = observe([frame], 1).people
        if people:
            own = max(float(np.ptp(person.points[0][:, 0])) for person in people)
            break
    if own < width:
        shown = f"a face {own:.0f} px wide" if own else "no face"
        raise InputError(f"video {video} shows {shown}, less than --width {width}; give another width")
    size = scaled_size(seen[0], own, width)
    with VideoWriter(output, *size, crf=8) as writer:
        for frame in chain(seen, frames):
            writer.write(resize(frame, *size))


def row(name: str, detail: bool, values: dict[str, float]) -> str:
    """A line of the Markdown table: `values` of the `COLUMNS`."""
    width, before, after, ratio, decibels, similarity, milliseconds = (values[column] for column in COLUMNS)
    return (
        f"| {name} | {'with' if detail else 'without'} | {width:.0f} | {before:.2f} | {after:.2f} | {ratio:.3f} "
        f"| {decibels:.2f} | {similarity:.4f} | {milliseconds:.1f} |"
    )


class _ProcessorClock(Clock):
    """Seconds of processor time instead, of the thread that works: other stages run at the same time."""

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[stage] += time.thread_time() - start


def measured(source: Path, sound: Path, output: Path, speaker: Speaker, detail: bool) -> dict[str, float]:
    """Dub `source` with `sound` to `output`: the `COLUMNS`."""
    clock = _ProcessorClock()
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
        sound, output, smaller = (Path(folder) / name for name in ("sound.wav", "dubbed.mp4", "source.mp4"))
        for video in arguments.videos:
            heard = arguments.sound or video
            shown = sum(1 for _ in read_frames(video)) / FPS  # a longer sound would play the video backward too
            make_sound(sound, min(arguments.seconds, shown, len(read_audio(heard)) / SAMPLE_RATE), heard)
            source = video
            if arguments.width is not None:
                scaled_down(video, smaller, arguments.width, shown)
                source = smaller
            for detail, rows in results.items():
                rows.append(measured(source, sound, output, speaker, detail))
                print(row(str(video), detail, rows[-1]), flush=True)
    for detail, rows in results.items():
        means = {name: float(np.mean([each[name] for each in rows])) for name in COLUMNS}
        print(row(f"mean of {len(rows)}", detail, means))


if __name__ == "__main__":
    sys.exit(main())
