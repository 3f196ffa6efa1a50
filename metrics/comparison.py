"""Draw the figure that compares methods: the true frames in the first row, each method's below, all cut in one place.

    python -m metrics.comparison --reference TRUTH --generated Mine=DUBS --generated IP-LAP=OTHERS --output out/all.png

One column is one frame of one clip. The crop is that of the true face, with a margin, in every row. Writes a PNG and a
PDF of the same name.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.files import named_paths, output_folder, replacing


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="folder of the true videos")
    parser.add_argument(
        "--generated", action="append", required=True, metavar="[NAME=]DIR", help="a method's videos, one row each"
    )
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="clips to show (default: the first two by name)")
    parser.add_argument(
        "--frames", nargs="+", type=int, metavar="N", help="frames of each clip, 25 a second (default: at equal steps)"
    )
    parser.add_argument("--count", type=positive, default=3, help="frames of each clip without --frames (default: 3)")
    parser.add_argument("--whole", action="store_true", help="show whole frames, not the face")
    parser.add_argument("--output", type=Path, default=Path("out/methods.png"), help="the figure; .png and .pdf")
    return parser.parse_args(arguments)


import numpy as np

from media.crop import CropForm
from media.face import FaceTracker
from media.place import crop_face
from media.timeline import FPS
from media.video import probe, read_frames
from metrics.pairs import find_videos
from metrics.plots import plain_text
from metrics.tables import GROUND_TRUTH

FORM = CropForm(height=256, width=256, framing="upright", margin=0.1)
INCHES = 1.1  # side of a picture
DOTS = 300  # an inch, of the PNG

Column = tuple[str, list[np.ndarray]]  # a heading, and the pictures from the first row to the last


def chosen_clips(methods: dict[str, dict[str, Path]], wanted: list[str] | None) -> list[str]:
    """The clips to show: `wanted`, or the first two that every method has.

    Raises:
        InputError: a method lacks one, or there is none that all have.
    """
    shared = sorted(set.intersection(*(set(videos) for videos in methods.values())))
    for clip in wanted or []:
        lacking = next((name for name, videos in methods.items() if clip not in videos), None)
        if lacking is not None:
            raise InputError(f"--clips {clip} is not among the videos of {lacking}; give a clip that all have")
    if not shared:
        raise InputError("no clip has the same name in every folder; give the videos the names of the true ones")
    return wanted or shared[:2]


def frame_numbers(videos: list[Path], wanted: list[int] | None, count: int) -> list[int]:
    """Frames that all videos of a clip have: `wanted`, or `count` at equal steps; InputError where one is too short."""
    shortest = min(videos, key=lambda path: probe(path).duration)
    length = max(1, round(probe(shortest).duration * FPS))
    for number in wanted or []:
        if not 0 <= number < length:
            raise InputError(f"--frames {number} is not in {shortest}, which has {length} frames; give a smaller one")
    return wanted or np.linspace(0, length - 1, count + 2)[1:-1].astype(int).tolist()


def columns(
    methods: dict[str, dict[str, Path]], clips: list[str], frames: list[int] | None, count: int, whole: bool
) -> Iterator[Column]:
    """Each frame's pictures, the true one first.

    Raises:
        InputError: a true frame shows no face.
    """
    with FaceTracker(3) as tracker:
        for clip in clips:
            videos = [each[clip] for each in methods.values()]
            for number in frame_numbers(videos, frames, count):
                pictures = [next(read_frames(path, start=number)) for path in videos]
                if whole:
                    pictures = _common_part(pictures)
                else:
                    face = tracker.track(pictures[0])
                    if face is None:
                        raise InputError(f"{videos[0]} shows no face in frame {number}; give other --frames or --whole")
                    place = FORM.place(face.landmarks)
                    pictures = [crop_face(picture, place, FORM.shape) for picture in pictures]
                yield f"{clip}, frame {number}", pictures


def _common_part(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The pictures without the row and the column that videos of odd sizes gain by encoding, if only these differ."""
    shapes = np.array([picture.shape[:2] for picture in pictures])
    height, width = shapes.min(axis=0)
    if (np.ptp(shapes, axis=0) > 1).any():
        return pictures
    return [picture[:height, :width] for picture in pictures]


def draw(shown: list[Column], rows: list[str], path: Path) -> list[Path]:
    """Write the figure as PNG and PDF; returns the two paths."""
    from matplotlib.figure import Figure

    height, width = shown[0][1][0].shape[:2]
    with plain_text(pdf__fonttype=42, font__family="serif"):
        figure = Figure(figsize=(INCHES * len(shown) * width / height + 0.25, INCHES * len(rows)))
        grid = figure.subplots(
            len(rows), len(shown), squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02, "left": 0.06, "top": 1}
        )
        for column, (heading, pictures) in enumerate(shown):
            for row, (name, picture) in enumerate(zip(rows, pictures, strict=True)):
                axes = grid[row][column]
                axes.imshow(picture, interpolation="none", aspect="auto")
                axes.set(xticks=[], yticks=[])
                for side in axes.spines.values():
                    side.set_visible(False)
                if column == 0:
                    axes.set_ylabel(name, fontsize=8)
                if row == len(rows) - 1:
                    axes.set_xlabel(heading, fontsize=5)
        written = [path.with_suffix(suffix) for suffix in (".png", ".pdf")]
        for each in written:
            with replacing(each) as temporary:
                metadata = {"CreationDate": None} if each.suffix == ".pdf" else {}
                figure.savefig(temporary, dpi=DOTS, bbox_inches="tight", pad_inches=0.02, metadata=metadata)
    return written


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.output.suffix.lower() not in (".png", ".pdf"):
        raise InputError(f"--output {args.output} must end in .png or .pdf; rename it")
    folders = named_paths("--generated", args.generated)
    if GROUND_TRUTH in folders:
        raise InputError(f"--generated {GROUND_TRUTH} is the name of the true row; give another name")
    methods = {GROUND_TRUTH: find_videos(args.reference, "--reference")}
    methods |= {name: find_videos(folder, "--generated") for name, folder in folders.items()}
    clips = chosen_clips(methods, args.clips)
    output_folder(args.output.parent)
    shown = list(columns(methods, clips, args.frames, args.count, args.whole))
    shapes = {picture.shape[:2] for _, pictures in shown for picture in pictures}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width}x{height}" for height, width in sorted(shapes)[:2])
        raise InputError(f"the frames differ in size ({sizes}); leave --whole out")
    written = draw(shown, list(methods), args.output)
    print(f"{len(methods)} rows of {len(shown)} frames; {written[0]} and {written[1]} written")


if __name__ == "__main__":
    sys.exit(main())
