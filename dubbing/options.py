"""The options of inference.py and of `dub`, from one dataclass."""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from media.errors import positive

LENGTHS = ("sound", "video", "shorter")
WHEN_SHORT = ("bounce", "loop", "freeze")


def _option(value: Any, help: str, group: str, *flags: str, **argparse_options: Any) -> Any:
    """A dataclass field with its settings for argparse; its flag is --field-name unless `flags` gives others."""
    return field(default=value, metadata={"help": help, "group": group, "flags": flags, **argparse_options})


def parse_face(text: str) -> str:
    if text not in ("largest", "left", "right", "all", "speaking") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is none of largest, left, right, all, speaking or a number from 0 on")
    return text


def parse_point(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not X,Y in pixels; give for example 320,180")
    return int(parts[0]), int(parts[1])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from error
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time in the video; give seconds from 0 on")
    return seconds


def _track(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a track; give 0, 1, ...")
    return int(text)


@dataclass
class DubOptions:
    """Options of one dub; each field's help describes it. A video whose path is `None` is not written.

    `progress` shows the progress of each stage over its frames: `tqdm`, or anything that is called as
    `tqdm(frames, stage, total, unit="frame", dynamic_ncols=True)` and yields the frames. `total` is None if the number
    of frames is unknown. An exception that it raises stops the dub. None shows nothing.
    """

    voice: Path | None = _option(
        None,
        "take the mouth from this recording; the output's sound is still --audio (with music, with noise)",
        "one dub",
        metavar="FILE",
        type=Path,
    )
    audio_track: int | None = _option(
        None,
        "which sound track of --audio, counted from 0 on (default: the file's default track, the first if none is "
        "marked)",
        "one dub",
        metavar="N",
        type=_track,
    )
    visualize: Path | None = _option(
        None, "also write source, heatmap, crop and result side by side", "one dub", metavar="FILE.mp4", type=Path
    )
    crop_output: Path | None = _option(
        None, "also write the bare generated face", "one dub", metavar="FILE.mp4", type=Path
    )
    source_crop_output: Path | None = _option(
        None, "also write the source's face in the same crop", "one dub", metavar="FILE.mp4", type=Path
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
        "left (0, 1, ...) in the first frame that shows most faces, everyone, or whoever speaks: the one "
        "whose mouth follows the video's own sound, by a sync expert",
        "faces",
        "--face",
        "--faces",
        metavar="largest|left|right|INDEX|all|speaking",
        type=parse_face,
    )
    face_at: tuple[int, int] | None = _option(
        None,
        "dub the person whose face is at this pixel when first seen there; overrides --face",
        "faces",
        metavar="X,Y",
        type=parse_point,
    )
    expert: Path | None = _option(
        None,
        "for --face speaking: checkpoint folder of train_sync.py (default: --checkpoint, where it has a sync expert)",
        "faces",
        metavar="DIR",
        type=Path,
    )
    missing_face: str = _option(
        "pass", "frames without a face: leave them (default), or refuse the video", "faces", choices=("pass", "error")
    )
    references: Path | None = _option(
        None, "take the reference frames from this video of the same person", "faces", metavar="VIDEO", type=Path
    )
    reference_choice: str = _option(
        "cover",
        "which of its frames: those nearest to all others (default), or at equal steps of lip opening; truncated cuts "
        "the steps to whole frames, as in STSA's released code",
        "faces",
        choices=("cover", "opening", "truncated"),
    )
    protocol: str = _option(
        "best",
        "authors: as STSA's authors evaluate. The whole generated crop is pasted inside the face's contour, without "
        "matching colours or adding detail; landmarks are not smoothed, references are truncated; crops (.mkv) are "
        "written without loss",
        "output",
        choices=("best", "authors"),
    )
    smooth: bool = _option(
        True, "use the tracked landmarks without smoothing over time", "faces", "--no-smoothing", action="store_false"
    )
    detail: bool = _option(
        True,
        "paste the generated face without the fine detail of the frame's face and of the references",
        "faces",
        "--no-detail",
        action="store_false",
    )
    occlusion: str = _option(
        "keep",
        "what is before a mouth (a hand, a microphone): keep it, and leave the frames in which the mouth is hidden "
        "(default), or ignore it and paste the generated face over it",
        "output",
        choices=("keep", "ignore"),
    )
    keep_fps: bool = _option(
        False, "keep the video's average frame rate (1 to 240) instead of 25", "output", action="store_true"
    )
    start: float = _option(
        0.0, "use the video from this time on (default: 0)", "output", metavar="SECONDS", type=_seconds
    )
    end: float | None = _option(
        None, "use the video up to this time (default: its end)", "output", metavar="SECONDS", type=_seconds
    )
    audio_start: float = _option(
        0.0, "use the sound, and --voice, from this time on (default: 0)", "output", metavar="SECONDS", type=_seconds
    )
    audio_end: float | None = _option(
        None,
        "use the sound, and --voice, up to this time (default: its end)",
        "output",
        metavar="SECONDS",
        type=_seconds,
    )
    length: str = _option(
        "sound",
        "length of the output where video and sound differ: the sound's (default; see --when-short, --when-long), "
        "the video's (the mouth rests after the sound, or the sound is cut) or the shorter one's",
        "output",
        choices=LENGTHS,
    )
    when_short: str = _option(
        "bounce",
        "a video that is shorter than the sound plays forward and back (default), from its start again, or holds its "
        "last frame",
        "output",
        choices=WHEN_SHORT,
    )
    when_long: str = _option(
        "cut",
        "a video that is longer than the sound is cut (default), or its rest is kept as it is, with its own sound",
        "output",
        choices=("cut", "keep"),
    )
    encoder: str = _option(
        "cpu",
        "what encodes the output: x264 on the CPU (default), or NVENC on an NVIDIA GPU that has it, else x264",
        "output",
        choices=("cpu", "gpu"),
    )
    workers: int = _option(
        1,
        "face trackers at once (default: the number of CPU cores, 8 at most)",
        "output",
        metavar="N",
        type=positive,
        default=None,
    )
    progress: Callable[..., Iterable] | None = _option(
        tqdm, "no progress bars", "output", "--quiet", action="store_const", const=None
    )


def add_options(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Add an option for each field of `DubOptions`, or for those in `names`, to `parser`, in the field's group."""
    groups = {group.title: group for group in parser._action_groups}
    for each in dataclasses.fields(DubOptions):
        if names is not None and each.name not in names:
            continue
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
    given: dict[str, Any] = {
        each.name: getattr(arguments, each.name)
        for each in dataclasses.fields(DubOptions)
        if hasattr(arguments, each.name)
    }
    usual = usual_load(arguments.device.type)
    return DubOptions(**{**given, **{name: value for name, value in usual.items() if given.get(name) is None}})


def usual_load(device: str) -> dict[str, Any]:
    """The default `batch_size` and `workers` on a machine that computes on `device`, "cpu" or "cuda"."""
    return {"batch_size": 32 if device == "cuda" else 4, "workers": min(8, os.cpu_count() or 1)}
