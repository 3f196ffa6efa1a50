"""Measure the CPU time of each stage of dubbing, but for the networks, one after the other.

    python -m benchmarks.stages                         # 6 s of the bundled portrait at 512x512
    python -m benchmarks.stages --video VIDEO --crop upright

Each stage runs alone over all frames, so that the process's CPU time, all threads included, is the stage's. The faces
pasted are the source's own, blurred. `benchmarks.dubbing` measures the stages as they run, at the same time.
"""

import argparse
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from media.crop import CROPS, CropForm
from media.errors import Parser, command, positive, quick_help


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--video", type=Path, help="a video that shows a face in every frame, instead of the portrait")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--width", type=positive, default=512)
    parser.add_argument("--height", type=positive, default=512)
    parser.add_argument("--crop", choices=CROPS, default="upright", help="form of the faces")
    return parser.parse_args()


import cv2
import numpy as np
import torch

from benchmarks.dubbing import SourcesOwnFaces, make_video
from dubbing.load import share_cores
from dubbing.options import DubOptions
from dubbing.people import choose, observe
from dubbing.pipeline import Cast
from dubbing.reference_frames import covers_of, references_of
from dubbing.second_pass import pasted, with_faces, with_jobs
from dubbing.source import Source
from dubbing.speaker import FaceJob, Speaker
from media.stages import Clock
from media.timeline import FPS
from media.video import VideoWriter, probe

ONCE = ("set-up of the trackers", "references")
MEMORY = 2**32  # bytes of frames to hold: each stage finds them decoded


class BlurredFaces(SourcesOwnFaces):
    """Returns each face slightly blurred, and a flow that leaves the references in their place."""

    def __init__(self, crop: CropForm):
        super().__init__(crop)
        y, x = np.mgrid[: crop.height, : crop.width].astype(np.float32)
        points = np.stack([(x + 0.5) / crop.width * 2 - 1, (y + 0.5) / crop.height * 2 - 1])
        self._flow = np.stack([points[:, *crop.hidden_pixels]] * self.references)

    def speak(self, jobs: list[FaceJob], references: None, features: np.ndarray, known: dict):
        faces, heatmaps = super().speak(jobs, references, features, known)
        for job in jobs:
            job.flow = self._flow
        return np.stack([cv2.GaussianBlur(face, (0, 0), 1) for face in faces]), heatmaps


def table(seconds: dict[str, float], frames: int) -> str:
    """Milliseconds a frame of each stage and of their sum; seconds of what is done once."""
    each = {name: spent for name, spent in seconds.items() if name not in ONCE}
    rows = [*each.items(), ("all of these", sum(each.values()))]
    lines = [f"{name:<16}{1000 * spent / frames:>8.2f}" for name, spent in rows]
    once = [f"{name} {seconds[name]:.1f} s" for name in ONCE]
    return "\n".join([*lines, f"once a video: {', '.join(once)}"])


def measure(video: Path, length: int, speaker: Speaker, output: Path) -> tuple[dict[str, float], int]:
    """The CPU seconds of each stage in the first `length` frames of `video`, and their number."""
    meter, clock = (Clock(time.process_time) for _ in range(2))
    options, info = DubOptions(), probe(video)
    source = Source(video, FPS, memory=MEMORY)
    with meter.time("decode"):
        frames = list(source.scan(length))
    with meter.time(ONCE[0]):
        observe(iter(frames[:1]), 1)
    with meter.time("again"):  # a second set-up takes less time than a process's first
        observe(iter(frames[:1]), 1)
    with meter.time("track"):
        scene = observe(iter(frames), 1)
    meter.seconds["track"] -= meter.seconds.pop("again")
    dubbed = choose(scene)
    people = list({id(person): person for row in dubbed for person in row}.values())
    with meter.time("motion"):
        motions = Cast(source, scene, dubbed, people, [], []).motions(len(frames), options, speaker.crop)
    with meter.time("occlusion"):
        covers = covers_of(source, scene, people, len(frames), speaker, options, clock, None)
    with meter.time(ONCE[1]):
        references = references_of(source, people, covers, None, speaker, options, None)
    with meter.time("crop"):
        made = list(with_jobs(source.play(len(frames)), motions, covers, Fraction(FPS), speaker, clock))
        made = list(with_faces((each for each in made), speaker, references, np.zeros((1, 80)), 8, clock))
    made = list(pasted((each for each in made), references, speaker.crop, options, clock))
    meter.seconds |= {stage: clock.seconds[stage] for stage in ("colour", "detail", "paste")}
    with meter.time("encode"), VideoWriter(output, info.width, info.height, colour=info.colour) as writer:
        for each in made:
            writer.write(each.result)
    return meter.seconds, len(frames)


@command
def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    share_cores(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video
        if video is None:
            video = Path(folder) / "source.mp4"
            make_video(video, arguments.width, arguments.height, arguments.seconds)
        speaker, length = BlurredFaces(CROPS[arguments.crop]), round(arguments.seconds * FPS)
        seconds, frames = measure(video, length, speaker, Path(folder) / "dubbed.mp4")
        info = probe(video)
    print(f"ms of CPU a frame, {frames} frames of {info.width}x{info.height}, crop {arguments.crop}:")
    print(table(seconds, frames))


if __name__ == "__main__":
    sys.exit(main())
