"""Latency, speed and jitter of a live voice.

    python -m benchmarks.live --device cuda

Sound comes in pieces of 20 ms, each at its time. A picture's delay is the time from the moment that it shows to its
arrival: the algorithmic latency, and what the networks take.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from media.errors import Parser, command, positive, quick_help
from media.files import DEMO
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=positive, default=10, metavar="S", help="of sound; default: 10")
    parser.add_argument("--width", type=positive, default=640, metavar="PX", help="default: 640")
    parser.add_argument("--height", type=positive, default=480, metavar="PX", help="default: 480")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="faces at once; default: 1")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR", help="default: the bundled one")
    add_device(parser)
    return parser.parse_args()


import numpy as np

from benchmarks.dubbing import SPEECH, make_video
from dubbing import Dubber, Live, Prepared
from media.audio import SAMPLE_RATE
from media.sound import read_audio
from media.timeline import FPS

PIECE = SAMPLE_RATE // 50


def fastest(live: Live, wav: np.ndarray) -> float:
    """Pictures a second where the sound is there at once."""
    start = time.perf_counter()
    count = sum(1 for _ in live.hear(wav)) + sum(1 for _ in live.end())
    return count / (time.perf_counter() - start)


def delays(dubber: Dubber, prepared: Prepared, wav: np.ndarray) -> list[float]:
    """Seconds from the time that each picture shows to its arrival, the sound coming in real time."""
    live = dubber.live(prepared, lambda: 0.0)
    start = time.perf_counter()
    found: list[float] = []
    for place in range(0, len(wav), PIECE):
        time.sleep(max(0.0, start + (place + PIECE) / SAMPLE_RATE - time.perf_counter()))
        for _ in live.hear(wav[place : place + PIECE]):
            found.append(time.perf_counter() - start - len(found) / FPS)
    return found


@command
def main() -> None:
    arguments = parse()
    dubber = Dubber(arguments.checkpoint, arguments.device, batch_size=arguments.batch_size)
    wav = np.resize(read_audio(SPEECH), arguments.seconds * SAMPLE_RATE)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        make_video(video, arguments.width, arguments.height, 4)
        prepared = dubber.prepare(video)
        latency = dubber.live(prepared).latency
        fastest(dubber.live(prepared), wav[:SAMPLE_RATE])  # warms up
        rate = fastest(dubber.live(prepared), wav)
        found = np.array(delays(dubber, prepared, wav))
    print(f"algorithmic latency: {1000 * latency:.0f} ms")
    print(f"pictures a second, the sound at once: {rate:.1f}")
    middle, most, jitter = (1000 * value for value in (np.median(found), found.max(), found.std()))
    print(f"delay of a picture in real time: median {middle:.0f} ms, largest {most:.0f} ms, deviation {jitter:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
