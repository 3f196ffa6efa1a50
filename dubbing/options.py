"""The options of inference.py and of `dub`, from one dataclass."""

import argparse
import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media.errors import positive


def _option(value: Any, help: str, group: str, *flags: str, **argparse_options: Any) -> Any:
    """A dataclass field with its settings for argparse; its flag is --field-name unless `flags` gives others."""
    return field(default=value, metadata={"help": help, "group": group, "flags": flags, **argparse_options})


def _face(text: str) -> str:
    if text not in ("largest", "left", "right", "all") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is none of largest, left, right, all or a number from 0 on")
    return text


def _point(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not X,Y in pixels; give for example 320,180")
    return int(parts[0]), int(parts[1])


@dataclass
class DubOptions:
    """Options of one dub; each field's help describes it. A video whose path is `None` is not written."""

    visualize: Path | None = _option(
        None, "also write source, heatmap, crop and result side by side", "one dub", metavar="FILE.mp4", type=Path
    )
    crop_output: Path | None = _option(
        None, "also write the bare generated face", "one dub", metavar="FILE.mp4", type=Path
    )
    heatmap_output: Path | None = _option(
        None,
        "also write the predicted heatmaps, for metrics.trajectories",
        "one dub",
        metavar="FILE.mp4",
        type=Path,
    )
    batch_size: int = _option(
        4,
        "faces made at once (default: 4 on the CPU, 32 on cuda)",
        "networks",
        metavar="N",
        type=positive,
        default=None,
    )
    face: str = _option(
        "largest",
        "whom to dub: the largest face of each shot (default), the person on the left, on the right or INDEX from the "
        "left (0, 1, ...) in the first frame that shows most faces, or everyone",
        "faces",
        "--face",
        "--faces",
        metavar="largest|left|right|INDEX|all",
        type=_face,
    )
    face_at: tuple[int, int] | None = _option(
        None,
        "dub the person whose face is at this pixel when first seen there; overrides --face",
        "faces",
        metavar="X,Y",
        type=_point,
    )
    missing_face: str = _option(
        "pass", "frames without a face: leave them (default), or refuse the video", "faces", choices=("pass", "error")
    )
    references: Path | None = _option(
        None, "take the reference frames from this video of the same person", "faces", metavar="VIDEO", type=Path
    )
    reference_choice: str = _option(
        "cover",
        "which of its frames: those nearest to all others (default), or at equal steps of lip opening, as STSA's "
        "authors choose them",
        "faces",
        choices=("cover", "opening"),
    )
    smooth: bool = _option(
        True, "use the tracked landmarks without smoothing over time", "faces", "--no-smoothing", action="store_false"
    )
    keep_fps: bool = _option(
        False, "keep the video's average frame rate (1 to 240) instead of 25", "output", action="store_true"
    )
    workers: int = _option(
        1,
        "face trackers at once (default: the number of CPU cores, 8 at most)",
        "output",
        metavar="N",
        type=positive,
        default=None,
    )
    progress: bool = _option(True, "no progress bars", "output", "--quiet", action="store_false")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `DubOptions` to `parser`, in the field's group."""
    groups = {group.title: group for group in parser._action_groups}
    for each in dataclasses.fields(DubOptions):
        details = {"default": each.default, "dest": each.name, **each.metadata}
        flags = details.pop("flags") or (f"--{each.name.replace('_', '-')}",)
        title = details.pop("group")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(*flags, **details)


def options_of(arguments: argparse.Namespace) -> DubOptions:
    """Convert parsed arguments to options; sets the defaults that depend on the machine.

    Args:
        arguments: from a parser with `add_options` and `--device`.
    """
    given = {each.name: getattr(arguments, each.name) for each in dataclasses.fields(DubOptions)}
    if given["batch_size"] is None:
        given["batch_size"] = 32 if arguments.device.type == "cuda" else 4
    if given["workers"] is None:
        given["workers"] = min(8, os.cpu_count() or 1)
    return DubOptions(**given)
