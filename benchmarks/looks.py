"""Measure by how much looks of one person and of different people differ, in several lights (`dubbing.looks`).

    python -m benchmarks.looks VIDEO_FOLDER ... [--people index.tsv]

Each video shows one person. A file of people has the columns `file` and `person`, tabs between them; videos that it
does not name show somebody who is in no other. Of each video, every second of `--frames` frames is remembered. The
others, in less light, are compared with what is remembered of their own person and of everybody else.
"""

import argparse
import csv
from pathlib import Path

from media.errors import Parser, command, positive, quick_help


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="VIDEO_FOLDER")
    parser.add_argument("--people", type=Path, metavar="TSV")
    parser.add_argument("--frames", type=positive, default=10, help="of each video")
    return parser.parse_args()


import numpy as np

from dubbing.looks import SAME_LOOK, differences, look, small_face
from media.face import FaceTracker
from media.timeline import FPS
from media.video import probe, read_frames

LIGHTS = (1.0, 0.5, 0.25, 0.1, 0.05)
SECONDS = 12  # of each video


def looks_of(video: Path, frames: int, tracker: FaceTracker) -> np.ndarray:
    """Looks (frames found, lights, 10, 16, 3) uint8."""
    last = max(1, int(min(probe(video).duration, SECONDS) * FPS) - 1)
    wanted, looks = set(np.linspace(0, last - 1, frames).astype(int).tolist()), []
    for index, frame in enumerate(read_frames(video, FPS)):
        if index in wanted and (faces := tracker.find(frame)):
            dimmed = [(frame * light).round().astype(np.uint8) for light in LIGHTS]
            looks.append([look(small_face(each, faces[0].landmarks)) for each in dimmed])
        if index >= last:
            break
    return np.array(looks)


@command
def main() -> None:
    arguments = parse()
    people = {}
    if arguments.people is not None:
        with arguments.people.open(newline="") as file:
            people = {row["file"]: row["person"] for row in csv.DictReader(file, delimiter="\t")}
    videos = sorted(
        file for folder in arguments.folders for file in folder.iterdir() if file.suffix in (".mp4", ".mpg")
    )
    with FaceTracker() as tracker:
        found = {video: looks_of(video, arguments.frames, tracker) for video in videos}
    known = {video: looks for video, looks in found.items() if len(looks) > 1}
    print(f"{len({people.get(video.name, str(video)) for video in known})} people")
    print("light | own: median, 99 % | others: least, 0.1 %, 1 % | own not recognised | others taken for them")
    for i, light in enumerate(LIGHTS):
        own, others = [], []
        for video, looks in known.items():
            for other, remembered in known.items():
                nearest = differences(looks[1::2, i], remembered[::2, 0]).min(axis=1).tolist()
                if video == other:
                    own += nearest
                elif people.get(video.name, str(video)) != people.get(other.name, str(other)):
                    others += nearest
        numbers = [*np.quantile(own, (0.5, 0.99)), *np.quantile(others, (0, 0.001, 0.01))]
        rates = np.mean(np.array(own) >= SAME_LOOK), np.mean(np.array(others) < SAME_LOOK)
        print(light, *(f"{number:.3f}" for number in numbers), *(f"{rate:.2%}" for rate in rates), sep=" | ")


if __name__ == "__main__":
    main()
