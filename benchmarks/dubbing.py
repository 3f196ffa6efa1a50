"""Measure the time of each stage of dubbing, and the memory.

    python -m benchmarks.dubbing                                                      # 10 s at 512x512
    python -m benchmarks.dubbing --seconds 600 --width 1920 --height 1080             # the memory of a long video
    python -m benchmarks.dubbing --skip-networks                                      # everything but the networks

Makes a video of the bundled portrait and a sound of that length, dubs the video, and prints a table. A stage's seconds
are the time in which its thread worked or waited for a core. The stages overlap, so their sum exceeds the total time.
The CPU time at the end is the sum over all threads, which is the time that one core would need.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from dubbing.options import DubOptions
from media.errors import Parser, command, positive, quick_help
from media.files import DEMO
from media.timeline import FPS
from models.devices import add_device

ROOT = Path(__file__).resolve().parent.parent


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--width", type=positive, default=512)
    parser.add_argument("--height", type=positive, default=512)
    parser.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR")
    add_device(parser)
    parser.add_argument("--batch-size", type=positive, default=DubOptions.batch_size)
    parser.add_argument("--workers", type=positive, default=2, help="face trackers at once")
    parser.add_argument("--skip-networks", action="store_true", help="paste the source's own face")
    return parser.parse_args()


import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.memory import peak_memory
from dubbing import Clock, Speaker, dub, load_speaker
from dubbing.load import share_cores
from dubbing.source import Source
from dubbing.speaker import FaceJob
from media.crop import STSA, CropForm
from media.sound import read_sound
from media.video import VideoWriter

PORTRAIT, SPEECH = ROOT / "assets" / "portrait.mp4", ROOT / "assets" / "speech.wav"
STAGES = (
    "sound",
    "decode, first pass",
    "track",
    "occlusion",
    "references",
    "decode",
    "crop",
    "networks",
    "colour",
    "detail",
    "paste",
    "encode",
)


class SourcesOwnFaces(Speaker):
    """Returns each face unchanged."""

    def __init__(self, crop: CropForm = STSA):
        self.device, self.audio, self.predicts_heatmaps = torch.device("cpu"), "mel", False
        self.references, self.window, self.crop, self.ear = 5, 5, crop, None

    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> None:
        return None

    def state(self, references: None) -> dict[str, torch.Tensor]:
        return {}

    def restored(self, state: dict[str, torch.Tensor]) -> None:
        return None

    def speak(self, jobs: list[FaceJob], references: None, features: np.ndarray, known: dict):
        return np.stack([job.crop for job in jobs]), np.zeros((len(jobs), *[self.crop.guidance] * 2), np.float32)


def make_video(path: Path, width: int, height: int, seconds: float) -> None:
    """Write a video of `width` by `height` with the bundled portrait, played back and forth, in its middle."""
    source = Source(PORTRAIT, FPS)
    for _ in source.scan():
        pass
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    with VideoWriter(path, width, height) as video:
        for _, frame in source.play(round(seconds * FPS)):
            blurred = cv2.resize(frame, (8, 8), interpolation=cv2.INTER_AREA)  # a background that moves, without a face
            picture = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
            picture[top : top + side, left : left + side] = cv2.resize(frame, (side, side))
            video.write(picture)


def make_sound(path: Path, seconds: float, speech: Path = SPEECH) -> None:
    """Write the sound of `speech`, repeated or cut to length, as 16 kHz mono WAV."""
    import wave

    samples = np.concatenate(list(read_sound(speech, 16000, "mono")), axis=1)[0]
    samples = np.resize(samples, round(seconds * 16000))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def table(clock: Clock, frames: int, elapsed: float) -> str:
    """The stages' seconds, share of their sum and milliseconds a frame."""
    known = [stage for stage in STAGES if stage in clock.seconds]
    total = sum(clock.seconds[stage] for stage in known)
    rows = [f"{'stage':<20}{'seconds':>10}{'share':>8}{'ms/frame':>10}"]
    for stage in known:
        seconds = clock.seconds[stage]
        rows.append(f"{stage:<20}{seconds:>10.2f}{seconds / total:>8.1%}{1000 * seconds / frames:>10.2f}")
    rows.append(f"{'all stages':<20}{total:>10.2f}{1:>8.1%}{1000 * total / frames:>10.2f}")
    rows.append(f"{'end to end':<20}{elapsed:>10.2f}{'':>8}{1000 * elapsed / frames:>10.2f}")
    return "\n".join(rows)


@command
def main() -> None:
    arguments = parse()
    share_cores(arguments.device)
    speaker: Speaker = (
        SourcesOwnFaces()
        if arguments.skip_networks
        else load_speaker(arguments.checkpoint, arguments.device, batch_size=arguments.batch_size)
    )
    with tempfile.TemporaryDirectory() as folder:
        video, sound, output = (Path(folder) / name for name in ("source.mp4", "sound.wav", "dubbed.mp4"))
        make_video(video, arguments.width, arguments.height, arguments.seconds)
        make_sound(sound, arguments.seconds)
        clock, start, worked = Clock(), time.perf_counter(), time.process_time()
        options = DubOptions(
            batch_size=arguments.batch_size, workers=arguments.workers, progress=partial(tqdm, disable=None)
        )
        summary = dub(video, sound, output, speaker, options, clock)
        elapsed, worked = time.perf_counter() - start, time.process_time() - worked
    print(table(clock, summary.frames, elapsed))
    print(
        f"{summary.frames} frames of {summary.width}x{summary.height} in {elapsed:.1f} s: "
        f"{summary.frames / elapsed:.2f} frames/s, {1000 * worked / summary.frames:.1f} ms of CPU a frame, "
        f"peak memory {peak_memory() / 1024:.2f} GiB"
    )


if __name__ == "__main__":
    sys.exit(main())
