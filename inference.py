"""Dub a video: generate the mouth of the person in it to match a recording of speech.

    python inference.py --video person.mp4 --audio speech.wav --output dubbed.mp4

The video may be any video, animation or image that can be decoded. It is played forward and back for as long as the
sound lasts. The output has the video's size and 25 frames per second. Frames without a face stay unchanged.
"""

import argparse
import signal
import sys
from pathlib import Path

from dubbing.options import add_options, options_of
from media.errors import InputError, Parser, command, interrupt_on, quick_help
from media.files import DEMO, existing_file
from models.devices import add_device

STOPS = (signal.SIGINT, signal.SIGTERM)


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    one = parser.add_argument_group("one dub")
    one.add_argument("--video", type=Path, metavar="V", help="video, animation or image of the person")
    one.add_argument(
        "--prepared",
        type=Path,
        metavar="PERSON",
        help="file of dubbing.prepare in place of --video, or with it if the video has moved: does not track again",
    )
    one.add_argument("--audio", type=Path, metavar="A", help="speech: a sound file, or a video with sound")
    one.add_argument("--output", type=Path, metavar="OUT.mp4", help="the dubbed video to write")
    many = parser.add_argument_group("many dubs")
    many.add_argument(
        "--list",
        type=Path,
        metavar="CSV",
        help="lines of video,audio,output or video,audio,output,crops,source_crops, or a first line that names the "
        "columns in any order, also voice; relative paths start from its folder; finished lines are skipped",
    )
    networks = parser.add_argument_group("networks")
    networks.add_argument("--checkpoint", type=Path, default=DEMO, metavar="DIR", help="default: the bundled one")
    add_device(networks)
    networks.add_argument(
        "--audio-features",
        choices=("mel", "wav2vec2", "hama", "whisper"),
        help="refuse a checkpoint that was trained on other sound features",
    )
    networks.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16"),
        help="of the networks' matrix products; default fp16 on cuda, float32 on the CPU",
    )
    add_options(parser)
    return parser.parse_args()


from dataclasses import replace

from dubbing import DubOptions, dub, load_speaker
from dubbing.load import share_cores
from dubbing.pairs import Pair, dub_pairs, read_pairs, tracked_once
from dubbing.prepared import Prepared


def check_audio(arguments: argparse.Namespace, features: str) -> None:
    if arguments.audio_features not in (None, features):
        raise InputError(
            f"--audio-features {arguments.audio_features}: checkpoint {arguments.checkpoint} was trained on {features};"
            f" leave the option out or give another --checkpoint"
        )


def pairs_of(arguments: argparse.Namespace) -> list[Pair]:
    single = (arguments.video, arguments.audio, arguments.output)
    if arguments.list is not None:
        further = (
            arguments.voice,
            arguments.visualize,
            arguments.crop_output,
            arguments.source_crop_output,
            arguments.heatmap_output,
        )
        if any(path is not None for path in (*single, arguments.prepared, *further)):
            raise InputError(
                "--list excludes --video, --prepared, --audio, --voice, --output and the files for crops, heatmaps and "
                "panels; leave them out, or give crops and voices as columns of the list (docs/dubbing.md)"
            )
        return read_pairs(arguments.list)
    if arguments.audio is None or arguments.output is None or (arguments.video or arguments.prepared) is None:
        raise InputError("give --video or --prepared, --audio and --output, or --list; see --help")
    existing_file(arguments.audio, "sound")  # report a wrong path before the networks are loaded
    existing_file(arguments.video or arguments.prepared, "video")
    if arguments.voice is not None:
        existing_file(arguments.voice, "voice")
    return [Pair(arguments.video or arguments.prepared, arguments.audio, arguments.output)]


def of_pair(options: DubOptions, pair: Pair) -> DubOptions:
    """The options of one line of a list."""
    return replace(options, crop_output=pair.crops, source_crop_output=pair.source_crops, voice=pair.voice)


@command
def main() -> int:
    interrupt_on(STOPS)  # a shell script that starts this with & ignores SIGINT; handle it there too
    arguments = parse()
    options = options_of(arguments)
    pairs = pairs_of(arguments)
    prepared = Prepared.load(arguments.prepared, arguments.video) if arguments.prepared is not None else None
    share_cores(arguments.device)
    speaker = load_speaker(arguments.checkpoint, arguments.device, arguments.precision, options.batch_size)
    check_audio(arguments, speaker.audio)
    if arguments.list is not None:
        videos = tracked_once(pairs, options)
        return dub_pairs(
            pairs, lambda pair: dub(videos(pair), pair.audio, pair.output, speaker, of_pair(options, pair))
        )
    print(dub(prepared or pairs[0].video, pairs[0].audio, pairs[0].output, speaker, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
