"""Speed and memory of evaluate.py's metrics.

    python -m benchmarks.metrics                      # 256x256, PSNR, SSIM and LipLMD
    python -m benchmarks.metrics --minutes 10         # a long video: memory must not grow with it
    python -m benchmarks.metrics --threads 2 --metrics psnr ssim

Two videos are made from a source: its frames at --size, repeated for --minutes, and the same frames blurred. Frames a
second count pairs of frames. They include decoding, landmarks of both videos and the metrics. They exclude loading: a
second of video warms up the libraries and the trackers.
"""

import argparse
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.timeline import FPS
from metrics.tables import METRICS
from models.devices import add_device

PORTRAIT = Path(__file__).resolve().parent.parent / "assets" / "portrait.mp4"


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--video", type=Path, default=PORTRAIT, help="source of the frames (default: the bundled one)")
    parser.add_argument("--size", type=positive, default=256, help="side of the videos in pixels (default 256)")
    parser.add_argument("--minutes", type=float, default=0.25, help="length of the videos (default 0.25)")
    parser.add_argument("--metrics", nargs="+", default=["psnr", "ssim", "liplmd"], help="default: psnr ssim liplmd")
    parser.add_argument("--region", choices=("face", "frame"), default="face", help="default: face")
    add_device(parser)
    parser.add_argument("--threads", type=positive, default=1, help="of PyTorch; two readers run too (default 1)")
    return parser.parse_args(arguments)


import cv2
import torch
from torch import nn

from benchmarks.memory import peak_memory
from media.video import VideoWriter, read_frames
from metrics.evaluation import Evaluation
from metrics.networks import load_networks
from metrics.render import Cell, Grid, to_text
from metrics.scoring import Options


def make_videos(source: Path, folder: Path, size: int, frames: int) -> None:
    """Write folder/truth/video.mp4 and the same blurred, folder/blurred/video.mp4."""
    pictures = [
        cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in islice(read_frames(source), 100)
    ]
    with (
        VideoWriter(folder / "truth" / "video.mp4", size, size) as truth,
        VideoWriter(folder / "blurred" / "video.mp4", size, size) as blurred,
    ):
        for picture in islice(cycle([*pictures, *pictures[::-1]]), frames):
            truth.write(picture)
            blurred.write(cv2.GaussianBlur(picture, (0, 0), 1))


def score(folder: Path, options: Options, networks: dict[str, nn.Module]) -> int:
    """Evaluate the pair of videos in `folder`; returns its number of frames."""
    evaluation = Evaluation({"blurred": folder / "blurred"}, folder / "truth", options, networks)
    return evaluation.run()[0].clips[0].frames


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    for metric in args.metrics:
        if metric not in METRICS:
            raise InputError(f"--metrics {metric} does not exist; choose from {', '.join(METRICS)}")
    torch.set_num_threads(args.threads)
    options = Options(tuple(args.metrics), args.region, device=str(args.device))
    networks, absent = load_networks(options.metrics, options.device)
    if absent:
        raise InputError(next(iter(absent.values())))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_videos(args.video, folder / "warm", args.size, FPS)
        make_videos(args.video, folder / "timed", args.size, max(1, round(args.minutes * 60 * FPS)))
        score(folder / "warm", options, networks)
        before = time.perf_counter(), time.process_time()
        frames = score(folder / "timed", options, networks)
        wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    texts = (", ".join(args.metrics), f"{args.size}x{args.size}", str(frames), f"{wall:.1f}", f"{frames / wall:.1f}")
    cells = [Cell(text) for text in (*texts, f"{1000 * cpu / frames:.1f}", f"{peak_memory():.0f}")]
    header = ["Metrics", "Size", "Frames", "Seconds", "Frames/s", "CPU ms a frame", "Peak memory (MiB)"]
    print(to_text(Grid("Streamed evaluation of one pair of videos", header, [cells])))


if __name__ == "__main__":
    sys.exit(main())
