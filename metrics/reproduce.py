"""Run a paper's protocol from the dataset to the table: choose test clips, dub each with its own sound, evaluate.

    python -m metrics.reproduce LRS2 --table stsa-lrs2 --checkpoint checkpoints/mine --output out/stsa-lrs2
    python -m metrics.reproduce CMLR --table stsa-cmlr --checkpoint checkpoints/mine --output out/stsa-cmlr
    python -m metrics.reproduce videos/val --table stsa-lrs2 --dataset folder --output out/val

The last command takes any folder of videos instead of LRS2. As in STSA's experiments, the reference frames and the
sound come from the dubbed clip itself. --protocol authors (default) dubs and compares as STSA's authors do: the whole
generated crop, bare and without loss for the metrics of images (`inference.py --protocol`). Only such rows can be set
beside the papers'. --protocol best takes inference.py's own settings, and compares the pasted videos.

STSA's tables take 40 clips of LRS2's test split (intra-domain) and 40 of CMLR's (cross-domain); G4G's take 45 of LRS2
and 20 of HDTF. The papers do not list their clips; here a fixed seed chooses them. A stopped run resumes when started
again.

A clip that the checkpoint's config names as training data is not drawn. What was compared to tell is printed and stands
below the table.

OUTPUT holds list.csv (the dubs to make), clips.txt (the names), truth/ (links to the true videos, or the parts of
videos that the dataset cuts), dubbed/, crops/ (of the authors' protocol: generated/ and true/) and results/.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from data_prep.layout import Source
from data_prep.layouts import LAYOUTS
from media.errors import InputError, Parser, command, quick_help
from media.files import DEMO, output_folder, replacing
from metrics.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = {  # table -> dataset layout and number of test clips
    "stsa-lrs2": ("lrs2", 40),
    "stsa-cmlr": ("cmlr", 40),
    "stsa-ablation": ("lrs2", 40),
    "g4g-lrs2": ("lrs2", 45),
    "g4g-hdtf": ("hdtf", 20),
    "g4g-ablation": ("hdtf", 20),
}


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("input", type=Path, metavar="INPUT", help="the dataset's folder")
    parser.add_argument("--table", required=True, choices=sorted(PROTOCOLS), help="the table to reproduce")
    parser.add_argument("--dataset", choices=sorted(LAYOUTS), help="layout of INPUT (default: the table's dataset)")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="folder of the networks (default: the bundled)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the dubs and the results")
    parser.add_argument("--count", type=int, help="test clips (default: the paper's number)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the clips (default 0)")
    parser.add_argument(
        "--reference-choice",
        choices=("cover", "opening"),
        default="cover",
        help="as inference.py's, with --protocol best (default: cover); the authors' protocol has its own",
    )
    parser.add_argument(
        "--protocol", choices=("authors", "best"), default="authors", help="how clips are dubbed and compared"
    )
    parser.add_argument("--name", default="Reproduction", help="the row's name in the table")
    parser.add_argument("--metrics", nargs="+", default=[], help="default: the table's")
    parser.add_argument("--lse-boxes", choices=("mesh", "s3fd", "frame"), default="mesh", help="as evaluate.py's")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keeps what depends on the true videos alone, for other rows (default: evaluation_cache next to OUTPUT)",
    )
    return parser.parse_args(arguments)


from data_prep.cut import write_part
from metrics.held_out import held_out
from models.checkpoint import digest

PRECISION = "float32"  # scores are compared digit by digit


def candidates(sources: list[Source]) -> list[Source]:
    """The sources of the test split, or all if there are no splits.

    Raises:
        InputError: there are splits, but no test split.
    """
    test = [source for source in sources if source.id.startswith("test/")]
    if not test and any(source.id.startswith(("train/", "val/")) for source in sources):
        raise InputError("the dataset lists clips to train and validate on and none to test on; add its test list")
    return test or sources


def shortfall(sources: list[Source], count: int) -> list[str]:
    """Why `choose_clips` cannot draw `count` clips from all test clips, a line a reason."""
    test = candidates(sources)
    unusable = [source for source in test if source.problem]
    usable, lines = len(test) - len(unusable), []
    if unusable:
        listed = ", ".join(f"{source.id} {source.problem}" for source in unusable[:5])
        more = f" and {len(unusable) - 5} more" if len(unusable) > 5 else ""
        lines.append(f"{len(unusable)} of {len(test)} test clips cannot be used: {listed}{more}")
    if usable < count:
        lines.append(f"only {usable} test clips can be used, not the {count} asked for: all of them are taken")
    return lines


def choose_clips(sources: list[Source], count: int, seed: int) -> list[Source]:
    """`count` clips drawn with `seed` from `candidates`; sorted by id.

    Raises:
        InputError: no clip can be used.
    """
    usable = sorted((source for source in candidates(sources) if not source.problem), key=lambda source: source.id)
    if not usable:
        raise InputError("the dataset has no test clip that is there; check its folder and its split files")
    drawn = usable if len(usable) <= count else random.Random(seed).sample(usable, count)
    return sorted(drawn, key=lambda source: source.id)


def prepare(clips: list[Source], output: Path, crops: bool = False) -> None:
    """Write the list of dubs and the names to evaluate, and the true videos under those names: links, or parts cut."""
    truth = {clip.id: output / "truth" / f"{clip.id}{'.mp4' if clip.cut else clip.video.suffix}" for clip in clips}
    with replacing(output / "list.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "audio", "output", *(["crops", "source_crops"] if crops else [])])
        for clip in clips:
            bare = [(output / "crops" / which / f"{clip.id}.mkv").resolve() for which in ("generated", "true")]
            place = truth[clip.id].absolute()
            video, sound = (place, place) if clip.cut else (clip.video.resolve(), clip.sound.resolve())
            dub = (output / "dubbed" / f"{clip.id}.mp4").resolve()
            writer.writerow([video, sound, dub, *(bare if crops else [])])
    with replacing(output / "clips.txt") as temporary:
        temporary.write_text("".join(f"{clip.id}\n" for clip in clips), encoding="utf-8")
    for clip in clips:
        place = truth[clip.id]
        if clip.cut is None:
            link(clip.video, place)
        elif not place.exists():
            write_part(clip, place)


def link(video: Path, place: Path) -> None:
    """Make `place` a link to `video`, or a copy on a file system without links."""
    output_folder(place.parent)
    if place.exists():
        return
    place.unlink(missing_ok=True)  # a link whose video has moved
    try:
        place.symlink_to(video.resolve())
    except OSError:
        shutil.copyfile(video, place)


def keep_settings(settings: dict, output: Path) -> None:
    """Store the run's settings in its folder; InputError if the folder belongs to a run with other settings."""
    path = output / "settings.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} cannot be read; choose another --output") from error
        if not isinstance(before, dict):
            raise InputError(f"{path} cannot be read; choose another --output")
        changed = next((name for name in settings if before.get(name) != settings[name]), None)
        if changed:
            raise InputError(
                f"--output {output} is of a run with {changed} {before.get(changed)}, not {settings[changed]}; "
                "choose another"
            )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def step(*arguments: str | os.PathLike) -> int:
    """Run one of the repository's scripts with this Python, showing its output; returns its exit code."""
    script, *rest = map(str, arguments)
    return subprocess.run([sys.executable, str(ROOT / script), *rest], check=False).returncode


@command
def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    layout, count = PROTOCOLS[args.table]
    layout, count = args.dataset or layout, args.count if args.count is not None else count
    if count < 1:
        raise InputError(f"--count {count} is too small; give 1 or more")
    if not args.input.is_dir():
        raise InputError(f"input {args.input} is not a folder; give the dataset's")

    sources = LAYOUTS[layout](args.input)
    drawable = candidates(sources)
    unseen, checks = held_out(drawable, args.checkpoint)
    if drawable and not unseen:
        raise InputError(f"every test clip of {args.input} is among the checkpoint's training data; give other clips")
    clips = choose_clips(unseen, count, args.seed)
    content = digest(args.checkpoint)
    choice = "truncated" if args.protocol == "authors" else args.reference_choice
    output = output_folder(args.output)
    keep_settings(
        {
            "input": str(args.input.resolve()),
            "dataset": layout,
            "checkpoint": str(args.checkpoint.resolve()),
            "checkpoint digest": content,
            "count": count,
            "seed": args.seed,
            "protocol": args.protocol,
            "reference choice": choice,
            "precision": PRECISION,
        },
        output,
    )
    for line in [*checks, *shortfall(unseen, count)]:
        print(line)
    authors = args.protocol == "authors"
    prepare(clips, output, authors)
    print(f"{TABLES[args.table].title}: dubbing {len(clips)} clips of {args.input}")
    how = ("--checkpoint", args.checkpoint, "--precision", PRECISION, "--protocol", args.protocol)
    code = step("inference.py", "--list", output / "list.csv", *how, "--reference-choice", choice)
    if code not in (0, 2) or not any((output / "dubbed").rglob("*.mp4")):  # evaluate.py lists failed clips
        return code
    metrics = ["--metrics", *args.metrics] if args.metrics else []
    return step(
        "evaluate.py",
        *("--generated", f"{args.name}={output / 'dubbed'}", "--reference", output / "truth"),
        *("--clips", output / "clips.txt", "--table", args.table, "--output", output / "results"),
        *(word for line in checks for word in ("--note", line)),
        *("--crop", args.checkpoint),
        *("--cache", args.cache or output.resolve().parent / "evaluation_cache", "--protocol", args.protocol),
        *("--lse-boxes", args.lse_boxes),
        *(("--crops", f"{args.name}={output / 'crops'}") if authors else ()),
        *metrics,
    )


if __name__ == "__main__":
    sys.exit(main())
