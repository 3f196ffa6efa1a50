"""Make the page of a user study: shuffled, unnamed videos to rate, as one HTML file without anything beside it.

    python -m metrics.study --generated Mine=DUBS --generated IP-LAP=OTHERS --clips 5 --output out/study.html

Send the HTML file to participants. It opens in a browser without a network, holds the videos, shows them in an order of
its own to each participant, and saves the ratings as a CSV file, which participants send back. Videos are re-encoded
alike, and have random names. OUTPUT.key.json tells which video is whose: keep it. `metrics.opinions` scores the CSVs.

The questions are those of G4G's Table 3: visual quality, lip synchronization and video realness, from 1 to 5. Give the
true videos as a method too, such as GT=TRUTH, so that its opinion can be told.
"""

import argparse
import sys
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.files import named_paths, output_folder, replacing


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--generated", action="append", required=True, metavar="[NAME=]DIR", help="a method's videos, with sound"
    )
    parser.add_argument("--clips", type=positive, default=5, help="clips to rate, of each method (default: 5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each video, at most (default: 8)")
    parser.add_argument("--height", type=positive, default=480, help="of the videos in pixels, at most (default: 480)")
    parser.add_argument("--seed", type=int, default=0, help="draws the clips and the names (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("out/study.html"), metavar="FILE.html")
    return parser.parse_args(arguments)


import base64
import html
import itertools
import json
import random
import tempfile
from dataclasses import dataclass

import cv2
from tqdm import tqdm

from media.timeline import FPS
from media.video import VideoWriter, probe, read_frames
from metrics.pairs import find_videos
from metrics.tables import OPINIONS

TEMPLATE = Path(__file__).with_name("study.html")
LARGE = 100  # MB of a page; a larger one opens slowly
ASKED = {
    "visual_quality": "How good is the picture? Look at sharpness, teeth and edges.",
    "lip_synchronization": "How well do the lips fit the words?",
    "video_realness": "How real is the video as a whole?",
}


@dataclass(frozen=True)
class Item:
    """One video of a study; `token` is its name on the page."""

    token: str
    method: str
    clip: str
    path: Path


def draw_items(methods: dict[str, dict[str, Path]], count: int, seed: int) -> list[Item]:
    """`count` clips that every method has, of each method, in the order of their random tokens.

    Raises:
        InputError: the methods share fewer clips, or a video has no sound.
    """
    shared = sorted(set.intersection(*(set(videos) for videos in methods.values())))
    if len(shared) < count:
        raise InputError(f"the methods share {len(shared)} clips by name, not {count}; give fewer --clips")
    generator = random.Random(seed)
    clips = sorted(generator.sample(shared, count))
    tokens = [f"{number:06x}" for number in generator.sample(range(16**6), count * len(methods))]
    named = itertools.product(methods, clips)
    items = [
        Item(token, method, clip, methods[method][clip]) for token, (method, clip) in zip(tokens, named, strict=True)
    ]
    for item in items:
        if not probe(item.path).has_sound:
            raise InputError(f"{item.path} of {item.method} has no sound; lips cannot be rated without the words")
    return sorted(items, key=lambda item: item.token)


def encode(path: Path, seconds: float, height: int) -> bytes:
    """The beginning of a video as MP4 bytes, in an even size and without metadata."""
    info = probe(path)
    scale = min(1.0, height / info.height)
    wide, tall = (max(2, round(side * scale / 2) * 2) for side in (info.width, info.height))
    frames = itertools.islice(read_frames(path), max(1, round(seconds * FPS)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "video.mp4"
        length = min(seconds, info.duration)
        with VideoWriter(place, wide, tall, FPS, path, length, metadata={}, crf=20) as writer:
            for frame in frames:
                writer.write(cv2.resize(frame, (wide, tall), interpolation=cv2.INTER_AREA))
        return place.read_bytes()


def page(videos: dict[str, bytes], study: str) -> str:
    """The HTML page: `videos` by token, and `study`, a name that goes into the CSV files."""
    questions = [{"key": key, "label": column.label, "text": ASKED[key]} for key, column in OPINIONS.items()]
    content = {
        "study": study,
        "questions": questions,
        "videos": [
            {"token": token, "data": base64.b64encode(video).decode("ascii")} for token, video in videos.items()
        ],
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("{{title}}", html.escape(f"Rating of {len(videos)} videos"))
    return text.replace("{{content}}", json.dumps(content).replace("<", "\\u003c"))


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {args.output} must end in .html; rename it")
    if args.seconds <= 0:
        raise InputError(f"--seconds {args.seconds} is no length; give more than 0")
    folders = named_paths("--generated", args.generated)
    methods = {name: find_videos(folder, "--generated") for name, folder in folders.items()}
    items = draw_items(methods, args.clips, args.seed)
    output_folder(args.output.parent)
    videos = {item.token: encode(item.path, args.seconds, args.height) for item in tqdm(items, unit="video")}
    study = f"{random.Random(f'{args.seed} {sorted(videos)}').getrandbits(32):08x}"
    key = {
        "study": study,
        "methods": list(methods),
        "videos": {item.token: {"method": item.method, "clip": item.clip} for item in items},
    }
    place = args.output.with_suffix(".key.json")
    for path, text in ((args.output, page(videos, study)), (place, json.dumps(key, indent=2) + "\n")):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    size = args.output.stat().st_size / 1e6
    advice = "; give fewer --clips or less --height, it opens slowly" if size > LARGE else ""
    print(f"{len(items)} videos of {len(methods)} methods; {args.output} has {size:.1f} MB{advice}; keep {place}")


if __name__ == "__main__":
    sys.exit(main())
