"""Score generated videos against the true ones, next to a paper's table.

    python evaluate.py --generated out/dubbed --reference clips
    python evaluate.py --generated A=out/a --generated B=out/b --reference clips --table stsa-lrs2 --output out/eval
    python evaluate.py --generated out/dubbed --source videos
    python evaluate.py --table g4g-user-study

Without --reference, only metrics that need no true video of the same words are computed; --source gives the videos that
were dubbed, for the metrics that compare the person. Videos are paired by their path below the folders, without the
suffix. Each metric is defined in the module of `metrics/` that computes it.
"""

import argparse
import dataclasses
import json
import sys
from dataclasses import asdict
from pathlib import Path

from media.crop import CROPS, CropForm
from media.errors import InputError, Parser, command, quick_help
from media.files import named_paths, output_folder, replacing
from metrics.tables import METRICS, NEED_SOURCE, TABLES, UNPAIRED, PublishedTable
from models.devices import add_device

SMALLEST_CROP = 32  # px, of the metrics' networks


def size(text: str) -> tuple[int, int]:
    """Read HxW, or N for NxN."""
    try:
        height, width = (int(part) for part in text.split("x")) if "x" in text else (int(text), int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 416x320") from None
    return height, width


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--generated",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder of generated videos; give it several times for several rows. A row named GT gets no marks, as the "
        "papers' ground truth has none",
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="folder of the true videos of the same names")
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="unpaired: folder of the dubbed videos of the same names"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help=f"of {', '.join(METRICS)}; the table's, or all")
    parser.add_argument("--table", metavar="NAME", help=f"the paper's rows to show above: {', '.join(TABLES)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write Markdown, LaTeX, CSV, JSON and report.html")
    parser.add_argument(
        "--region",
        default="face",
        metavar="face|frame",
        help="compare the face crop (face, default) or the whole frame (frame)",
    )
    parser.add_argument(
        "--crop",
        default="stsa",
        metavar="NAME|CHECKPOINT",
        help=f"form of the face crop: {', '.join(CROPS)}, or the folder of a checkpoint, whose form is taken "
        "(default: stsa)",
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="height and width of the face crop, or one number (default: the form's)",
    )
    parser.add_argument(
        "--lse-boxes",
        choices=("mesh", "s3fd", "frame"),
        default="mesh",
        help="what SyncNet sees: the box of MediaPipe's mesh (default), S3FD's box, as in its published pipeline, or "
        "the whole frame, as in Wav2Lip's script for LRS2, LRS3 and LRW, whose frames are faces",
    )
    parser.add_argument("--expert", metavar="CHECKPOINT", help="also the score Sync of this sync expert of the project")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep what depends on the true videos alone, for other methods' rows"
    )
    parser.add_argument(
        "--clips", type=Path, metavar="FILE", help="score only these: a name a line, what follows it ignored"
    )
    parser.add_argument(
        "--crops",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a method's bare crops, DIR/generated and DIR/true (metrics.reproduce), which PSNR, SSIM, MSE, LPIPS, FID "
        "and FVD then compare",
    )
    parser.add_argument(
        "--protocol", choices=("authors", "best"), default="", help="how the videos were made, for the table's notes"
    )
    parser.add_argument("--note", action="append", default=[], metavar="TEXT", help="a line to print below the table")
    add_device(parser)
    return parser.parse_args(arguments)


from tqdm import tqdm

from checkpoints import fetch
from metrics.evaluation import Evaluation
from metrics.gallery import Gallery
from metrics.networks import load_networks
from metrics.pairs import SUFFIXES
from metrics.render import markdown, to_csv, to_latex, to_markdown, to_text
from metrics.report import write_report
from metrics.results import Results, published_grid
from metrics.scoring import Options, count_frames
from metrics.sync import load_s3fd
from models.checkpoint import checkpoint_crop, load_sync_expert
from models.fast import forbid_tf32


def chosen_table(name: str | None) -> PublishedTable | None:
    if name is None:
        return None
    if name not in TABLES:
        raise InputError(f"--table {name} does not exist; choose from {', '.join(TABLES)}")
    return TABLES[name]


def chosen_metrics(names: list[str] | None, table: PublishedTable | None, expert: bool) -> tuple[str, ...]:
    """The given metrics, else the table's, else all; "LSE-D" and "lse_d" are the same. Sync, if there is an expert."""
    if names is None:
        wanted = [metric for metric in (table.metrics if table else METRICS) if metric in METRICS and metric != "sync"]
        return (*wanted, *(["sync"] if expert else []))
    metrics = [name.lower().replace("-", "_") for name in names]
    for given, metric in zip(names, metrics, strict=True):
        if metric not in METRICS:
            raise InputError(f"--metrics {given} does not exist; choose from {', '.join(METRICS)}")
    if "sync" in metrics and not expert:
        raise InputError("--metrics sync needs --expert, a checkpoint with a sync expert; add it or leave sync out")
    return tuple(dict.fromkeys([*metrics, *(["sync"] if expert else [])]))


def compared_crop(name: str, size: tuple[int, int] | None) -> CropForm:
    """The form `name`, or that of the checkpoint `name`, at the size (height, width) if one is given."""
    if name in CROPS:
        form = CROPS[name]
    elif Path(name).is_dir():
        form = checkpoint_crop(name)
    else:
        raise InputError(f"--crop {name} is neither a form ({', '.join(CROPS)}) nor the folder of a checkpoint")
    form = form if size is None else dataclasses.replace(form, height=size[0], width=size[1])
    if min(form.shape) < SMALLEST_CROP:
        raise InputError(
            f"--size {form.height}x{form.width} is too small for the metrics; give {SMALLEST_CROP} or more"
        )
    return form


def unpaired_metrics(metrics: tuple[str, ...], asked: bool, source: Path | None) -> tuple[str, ...]:
    """Those of `metrics` that need no true video; InputError for one that was `asked` for and needs more."""
    possible = [metric for metric in UNPAIRED if source is not None or metric not in NEED_SOURCE]
    if asked:
        for metric in metrics:
            if metric not in possible:
                needs = "--source" if metric in UNPAIRED else "--reference, the true videos of the same words"
                raise InputError(f"--metrics {metric} needs {needs}; add it or leave the metric out")
    return tuple(metric for metric in metrics if metric in possible)


def check_crops(crops: dict[str, Path], folders: dict[str, Path], options: Options) -> None:
    """InputError where --crops names no method, leaves one out, or does not go with the other options."""
    if crops and (options.unpaired or options.region == "frame"):
        raise InputError("--crops needs --reference and the region face; leave --crops out")
    odd = next((name for name in [*crops, *folders] if crops and (name in crops) != (name in folders)), None)
    if odd is not None:
        raise InputError(f"--crops and --generated must name the same methods; {odd} is in one of them only")


def listed_clips(path: Path | None) -> dict[str, set[str]] | None:
    """The clips that a file lists, one a line: line -> names that the clip's videos may have."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--clips {path} cannot be read ({error}); give a text file with a name a line") from error
    # A split file of a dataset may have a tag after the name; a list of file names may have spaces and suffixes.
    clips = {line.strip(): {line.strip(), line.split()[0]} for line in lines if line.strip()}
    for names in clips.values():
        names |= {name.removesuffix(Path(name).suffix) for name in names if Path(name).suffix.lower() in SUFFIXES}
    if not clips:
        raise InputError(f"--clips {path} lists no clip; give a text file with a name a line")
    return clips


def write_results(results: Results, gallery: Gallery, folder: Path) -> None:
    grids = [results.main(), results.intervals(), results.per_clip()]
    remarks = "".join(f"- {markdown(line)}\n" for line in results.remarks())
    write_texts(
        folder,
        {
            "table.md": "\n".join(map(to_markdown, grids)) + (f"\n## Left out\n\n{remarks}" if remarks else ""),
            "table.tex": "\n".join(map(to_latex, grids)),
            "table.csv": to_csv(grids[0]),
            "intervals.csv": to_csv(grids[1]),
            "clips.csv": to_csv(grids[2]),
            "results.json": to_json(results.to_json()),
        },
    )
    write_report(results, gallery, folder / "report.html")


def write_published(table: PublishedTable, folder: Path) -> None:
    """Write a paper's table alone, in all forms."""
    grid = published_grid(table)
    files = {"md": to_markdown(grid), "tex": to_latex(grid), "csv": to_csv(grid), "json": to_json(asdict(table))}
    write_texts(folder, {f"table.{suffix}": text for suffix, text in files.items()})


def to_json(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_texts(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    table = chosen_table(args.table)
    metrics = chosen_metrics(args.metrics, table, args.expert is not None)
    if not args.generated and args.reference is None and table is not None:
        print(to_text(published_grid(table)))
        if args.output:
            write_published(table, output_folder(args.output))
            print(f"{args.output}/table.md, .tex, .csv and .json written")
        return
    if not args.generated:
        raise InputError("--generated is needed; see `python evaluate.py --help`")
    if args.source is not None and args.reference is not None:
        raise InputError("--source is for an evaluation without true videos; leave it or --reference out")
    unpaired = args.reference is None
    if unpaired:
        if table is not None:
            raise InputError(f"--table {table.name} has rows of paired dubbing; give --reference or leave it out")
        metrics = unpaired_metrics(metrics, args.metrics is not None, args.source)
    if not metrics and table is not None:
        raise InputError(f"--table {table.name} has no column that can be computed; leave --generated out to print it")
    if args.region not in ("face", "frame"):
        raise InputError(f"--region {args.region} does not exist; give face or frame")
    crop = compared_crop(args.crop, args.size)
    crops = named_paths("--crops", args.crops)
    options = Options(
        metrics, args.region, crop, str(args.device), unpaired, args.protocol, bool(crops), args.lse_boxes
    )
    folders = named_paths("--generated", args.generated)
    check_crops(crops, folders, options)
    only = listed_clips(args.clips)
    output = output_folder(args.output) if args.output else None

    forbid_tf32()  # scores are compared digit by digit
    networks, footnotes = load_networks(metrics, options.device)
    if args.lse_boxes == "s3fd" and "syncnet" in networks:
        networks["s3fd"] = load_s3fd(fetch.require("s3fd", "--lse-boxes s3fd")).to(options.device)
    if args.expert is not None:
        networks["expert"] = load_sync_expert(args.expert).to(options.device)
    gallery = Gallery() if output else None
    compared = args.reference or args.source
    evaluation = Evaluation(folders, compared, options, networks, only, gallery, args.cache, crops)
    with tqdm(unit="frame", desc=f"{len(evaluation.clips)} clips") as bar:

        def progress(clip: str, frames: int) -> None:
            bar.set_postfix_str(clip, refresh=False)
            bar.update(frames)

        methods = evaluation.run(progress)
    results = Results(methods, options, footnotes, table, args.note)
    print(to_text(results.main()))
    for line in results.remarks():
        print(line)
    if output and gallery:
        write_results(results, gallery, output)
    clips = [clip for method in methods for clip in method.clips]
    left_out = sum(count_frames(clip.left_out) for clip in clips)
    pairs = sum(len(method.left_out) for method in methods)
    what = "videos scored" if unpaired else "pairs compared"
    print(
        f"{len(clips)} {what} in {sum(clip.frames for clip in clips)} frames; {left_out} frames and {pairs} "
        f"{what.split()[0]} left out{f'; {output}/report.html and tables written' if output else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
