"""Dub videos with other people's words and score them: the pairs lists of Wav2Lip's evaluation.

    python -m metrics.unpaired lrs2.txt --data LRS2/mvlrs_v1/main --checkpoint checkpoints/mine --output out/unpaired
    python -m metrics.unpaired lrs2.txt --data LRS2/mvlrs_v1/main --generated Wav2Lip=out/wav2lip --output out/unpaired

A line of the list names a sound and a video: `<sound> <video>`, both without suffix below --data. As in Wav2Lip's
script, the dub of line n, counted from 0, is n.mp4, and a line whose video is shorter than its sound is left out. With
--generated, such videos of other methods are scored and nothing is dubbed. A stopped run resumes when started again.

OUTPUT holds list.csv (the dubs to make), source/ (links to the videos), dubbed/ and results/.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.files import DEMO, SOUND_SUFFIXES, VIDEO_SUFFIXES, output_folder, replacing


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("list", type=Path, metavar="LIST", help="text file of lines <sound> <video>")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that the list's names lie in")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="folder of the networks (default: the bundled)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the dubs and the results")
    parser.add_argument("--count", type=positive, metavar="N", help="only the first N lines (default: all)")
    parser.add_argument("--name", default="Mine", help="the row's name in the table")
    parser.add_argument("--metrics", nargs="+", default=[], help="default: all that need no true video")
    parser.add_argument(
        "--generated",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="score these videos, named by their lines, in place of new dubs; may be given several times",
    )
    return parser.parse_args(arguments)


from media.audio import SAMPLE_RATE
from media.sound import read_audio
from media.video import probe
from metrics.reproduce import PRECISION, keep_settings, link, step
from models.checkpoint import digest


@dataclass(frozen=True)
class Line:
    """One line of a list: its number, from 0 on, the sound's file and the video's."""

    number: int
    sound: Path
    video: Path


def read_list(path: Path, data: Path, count: int | None = None) -> list[Line]:
    """The lines of a pairs list.

    Raises:
        InputError: the list cannot be read, has no line, or names a file that is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list {path} cannot be read ({error}); give a text file of lines <sound> <video>") from error
    found = []
    for number, text in enumerate(line for line in lines if line.strip()):
        if count is not None and number >= count:
            break
        words = text.split()
        if len(words) != 2:
            raise InputError(f"list {path}: {text.strip()!r} is not <sound> <video>; correct the line")
        sound = _file(data, words[0], SOUND_SUFFIXES | VIDEO_SUFFIXES, path)
        found.append(Line(number, sound, _file(data, words[1], VIDEO_SUFFIXES, path)))
    if not found:
        raise InputError(f"list {path} has no line; write lines <sound> <video>")
    return found


def _file(data: Path, name: str, suffixes: set[str], listed_in: Path) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"list {listed_in} names {name!r}, which lies outside {data}; correct the line")
    for path in (data / f"{name}{suffix}" for suffix in ("", *sorted(suffixes))):
        if path.suffix.lower() in suffixes and path.is_file():
            return path
    raise InputError(f"list {listed_in} names {name}, which is not in {data}; check --data")


def too_short(line: Line) -> bool:
    """Whether the video is shorter than the sound."""
    return probe(line.video).duration < len(read_audio(line.sound)) / SAMPLE_RATE


def prepare(lines: list[Line], output: Path) -> None:
    """Write the list of dubs, and link the videos under the dubs' names."""
    with replacing(output / "list.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "audio", "output"])
        for line in lines:
            dub = (output / "dubbed" / f"{line.number}.mp4").resolve()
            writer.writerow([line.video.resolve(), line.sound.resolve(), dub])
    for line in lines:
        link(line.video, output / "source" / f"{line.number}{line.video.suffix}")


@command
def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    lines = read_list(args.list, args.data, args.count)
    kept = [line for line in lines if not too_short(line)]
    if not kept:
        raise InputError(f"list {args.list}: every video is shorter than its sound; give other pairs")
    output = output_folder(args.output)
    settings = {"list": str(args.list.resolve()), "data": str(args.data.resolve()), "count": args.count}
    if not args.generated:
        settings |= {"checkpoint digest": digest(args.checkpoint), "precision": PRECISION}
    keep_settings(settings, output)
    prepare(kept, output)
    left_out = len(lines) - len(kept)
    print(f"{len(kept)} pairs of {args.list}; {left_out} left out, because the video is shorter than the sound")
    generated = args.generated
    if not generated:
        how = ("--checkpoint", args.checkpoint, "--precision", PRECISION)
        code = step("inference.py", "--list", output / "list.csv", *how)
        if code not in (0, 2) or not any((output / "dubbed").rglob("*.mp4")):
            return code
        generated = [f"{args.name}={output / 'dubbed'}"]
    with replacing(output / "clips.txt") as temporary:
        temporary.write_text("".join(f"{line.number}\n" for line in kept), encoding="utf-8")
    rows = [word for method in generated for word in ("--generated", method)]
    note = f"pairs: {args.list.name}, {left_out} left out, because the video is shorter than the sound"
    return step(
        "evaluate.py",
        *(*rows, "--source", output / "source", "--clips", output / "clips.txt", "--output", output / "results"),
        *("--note", note, *(["--metrics", *args.metrics] if args.metrics else [])),
    )


if __name__ == "__main__":
    sys.exit(main())
