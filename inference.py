"""Dub a video: make the person in it say a recording.

    python inference.py --video person.mp4 --audio speech.wav --output dubbed.mp4

The video may be anything that can be decoded, an animation or a single image too; it is played forward and back for as
long as the sound lasts. The output has the video's size and 25 frames a second. Frames without a face stay as they are.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from dubbing import DubOptions, dub, load_speaker
from dubbing.pairs import Pair, dub_pairs, read_pairs
from media.errors import InputError, Parser, command
from media.files import existing_file
from models.devices import add_device

DEMO = Path(__file__).resolve().parent / "checkpoints" / "demo"
STOPS = (signal.SIGINT, signal.SIGTERM)


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    one = parser.add_argument_group("one dub")
    one.add_argument("--video", type=Path, metavar="V", help="video, animation or image of the person")
    one.add_argument("--audio", type=Path, metavar="A", help="speech: a sound file, or a video with sound")
    one.add_argument("--output", type=Path, metavar="OUT.mp4", help="the dubbed video to write")
    one.add_argument("--visualize", type=Path, metavar="FILE.mp4", help="also write source, heatmap, crop and result")
    one.add_argument("--crop-output", type=Path, metavar="FILE.mp4", help="also write the bare generated face")
    one.add_argument("--heatmap-output", type=Path, metavar="FILE.mp4", help="also write the predicted heatmaps")
    many = parser.add_argument_group("many dubs")
    many.add_argument("--list", type=Path, metavar="CSV", help="lines of video,audio,output; finished ones are skipped")
    networks = parser.add_argument_group("networks")
    networks.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR", help="default: the bundled one")
    add_device(networks)
    networks.add_argument("--batch-size", type=int, metavar="N", help="faces made at once; default 4, on cuda 32")
    networks.add_argument(
        "--audio-features", choices=("mel", "wav2vec2"), help="what the checkpoint hears; it knows, so this only checks"
    )
    networks.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16"),
        help="of the networks' products; default fp16 on cuda, float32 on the CPU",
    )
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--face",
        "--faces",
        default="largest",
        metavar="largest|left|right|INDEX|all",
        help="whom to dub: the largest face of each shot (default), the person on the left, on the right or INDEX from "
        "the left (0, 1, ...) in the first frame that shows most faces, or everyone",
    )
    faces.add_argument(
        "--face-at", metavar="X,Y", help="dub the person whose face is at this pixel when first seen there"
    )
    faces.add_argument(
        "--missing-face", choices=("pass", "error"), default="pass", help="frames without a face: leave them, or stop"
    )
    faces.add_argument("--references", type=Path, metavar="VIDEO", help="take the reference frames from this video")
    faces.add_argument(
        "--reference-choice",
        choices=("cover", "opening"),
        default=DubOptions.reference_choice,
        help="which of its frames: those that are most like all others (default), or at equal steps of lip opening, as "
        "STSA's authors choose them",
    )
    faces.add_argument("--no-smoothing", action="store_true", help="use the tracked landmarks as they are")
    parser.add_argument("--keep-fps", action="store_true", help="keep the video's own frame rate (1 to 240)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="face trackers at once; default: the CPU cores, 8 at most"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


def options_of(arguments: argparse.Namespace) -> DubOptions:
    """Check what argparse does not, and gather the options."""
    if arguments.face not in ("largest", "left", "right", "all") and not arguments.face.isdecimal():
        raise InputError(f"--face {arguments.face} is none of largest, left, right, all or a number from 0 on")
    at = None
    if arguments.face_at is not None:
        parts = arguments.face_at.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise InputError(f"--face-at {arguments.face_at} is not X,Y in pixels; give for example 320,180")
        at = int(parts[0]), int(parts[1])
    usual = 32 if arguments.device.type == "cuda" else 4
    batch_size = arguments.batch_size if arguments.batch_size is not None else usual
    workers = arguments.workers if arguments.workers is not None else min(8, os.cpu_count() or 1)
    for name, value in (("--batch-size", batch_size), ("--workers", workers)):
        if value < 1:
            raise InputError(f"{name} {value} is too small; give 1 or more")
    return DubOptions(
        batch_size=batch_size,
        missing_face=arguments.missing_face,
        face=arguments.face,
        face_at=at,
        references=arguments.references,
        reference_choice=arguments.reference_choice,
        keep_fps=arguments.keep_fps,
        smooth=not arguments.no_smoothing,
        visualize=arguments.visualize,
        crop_output=arguments.crop_output,
        heatmap_output=arguments.heatmap_output,
        workers=workers,
        progress=not arguments.quiet,
    )


def check_audio(arguments: argparse.Namespace, heard: str) -> None:
    if arguments.audio_features not in (None, heard):
        raise InputError(
            f"--audio-features {arguments.audio_features}: checkpoint {arguments.checkpoint} was trained on {heard}; "
            f"leave the option out or give another --checkpoint"
        )


def pairs_of(arguments: argparse.Namespace) -> list[Pair]:
    single = (arguments.video, arguments.audio, arguments.output)
    if arguments.list is not None:
        beside = (arguments.visualize, arguments.crop_output, arguments.heatmap_output)
        if any(path is not None for path in (*single, *beside)):
            raise InputError("--list goes without --video, --audio, --output and the videos beside the output")
        return read_pairs(arguments.list)
    if any(path is None for path in single):
        raise InputError("give --video, --audio and --output, or --list; see --help")
    existing_file(arguments.video, "video")  # a wrong path is said before the networks are loaded
    existing_file(arguments.audio, "sound")
    return [Pair(*single)]


def interrupt(signal_number, frame) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
    raise KeyboardInterrupt


@command
def main() -> int:
    for number in STOPS:  # also where a shell script, which has started this with &, has SIGINT ignored
        signal.signal(number, interrupt)
    arguments = parse()
    options = options_of(arguments)
    pairs = pairs_of(arguments)
    speaker = load_speaker(arguments.checkpoint, arguments.device, arguments.precision, options.batch_size)
    check_audio(arguments, speaker.audio)
    if arguments.list is not None:
        return dub_pairs(pairs, lambda pair: dub(pair.video, pair.audio, pair.output, speaker, options))
    print(dub(pairs[0].video, pairs[0].audio, pairs[0].output, speaker, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
