"""Prepare a video for several dubs: track its faces and encode its references once.

python -m dubbing.prepare --video person.mp4 --output person.safetensors
python inference.py --prepared person.safetensors --audio speech.wav --output dubbed.mp4
"""

import argparse
import sys
from pathlib import Path

from dubbing.options import add_options, options_of
from media.errors import Parser, command, quick_help
from media.files import DEMO, check_output_folder, existing_file
from models.devices import add_device

OPTIONS = ("face", "face_at", "expert", "start", "end", "keep_fps", "reference_choice", "workers", "progress")


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--video", type=Path, required=True, metavar="V", help="video, animation or image of the person"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PERSON", help="the file to write")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[DEMO],
        metavar="DIR",
        help="networks to encode the references for",
    )
    add_device(parser)
    add_options(parser, OPTIONS)
    return parser.parse_args()


from dubbing.load import load_speaker, share_cores
from dubbing.pipeline import prepare


@command
def main() -> int:
    arguments = parse()
    existing_file(arguments.video, "video")  # report a wrong path before the networks are loaded
    check_output_folder(arguments.output.parent)
    options = options_of(arguments)
    share_cores(arguments.device)
    speakers = [load_speaker(folder, arguments.device) for folder in arguments.checkpoint]
    prepared = prepare(arguments.video, speakers, options)
    prepared.save(arguments.output)
    assert prepared.scene is not None
    print(f"{arguments.output}: {prepared.scene.frames} frames, {len(prepared.scene.people)} people")
    return 0


if __name__ == "__main__":
    sys.exit(main())
