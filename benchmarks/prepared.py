"""Time to the first dubbed frame and of the whole dub, with and without a prepared person.

python -m benchmarks.prepared --seconds 20 --width 1280 --height 720
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from media.errors import Parser, command, positive, quick_help
from media.files import DEMO
from models.devices import add_device


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=positive, default=20, metavar="S", help="of video; default: 20")
    parser.add_argument("--sound", type=positive, default=5, metavar="S", help="of sound; default: 5")
    parser.add_argument("--width", type=positive, default=1280, metavar="PX", help="default: 1280")
    parser.add_argument("--height", type=positive, default=720, metavar="PX", help="default: 720")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR", help="default: the bundled one")
    add_device(parser)
    return parser.parse_args()


from benchmarks.dubbing import make_sound, make_video
from dubbing import Dubber, Prepared


def timed(dubber: Dubber, video: Path | Prepared, sound: Path, output: Path) -> tuple[float, float]:
    """Seconds until the first frame is dubbed, and until the dub is complete."""
    start = time.perf_counter()
    first = 0.0

    def watch(frames: Iterable, stage: str, total: int | None, **_: Any) -> Iterator:
        nonlocal first
        for frame in frames:
            if stage == "dubbing" and not first:
                first = time.perf_counter() - start
            yield frame

    dubber.dub(video, sound, output, progress=watch)
    return first, time.perf_counter() - start


@command
def main() -> None:
    arguments = parse()
    dubber = Dubber(arguments.checkpoint, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        video, sound, output, person = (Path(folder) / name for name in ("v.mp4", "s.wav", "dub.mp4", "person"))
        make_video(video, arguments.width, arguments.height, arguments.seconds)
        make_sound(sound, arguments.sound)
        timed(dubber, video, sound, output)  # loads the tracker and the features
        rows = {"video": timed(dubber, video, sound, output)}
        start = time.perf_counter()
        dubber.prepare(video).save(person)
        prepared = time.perf_counter() - start
        rows["prepared person, read from its file"] = timed(dubber, Prepared.load(person), sound, output)
    print(f"{'dub of':<38}{'first frame':>12}{'whole':>10}")
    for name, (first, whole) in rows.items():
        print(f"{name:<38}{first:>10.2f} s{whole:>8.2f} s")
    print(f"preparing: {prepared:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
