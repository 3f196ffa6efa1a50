"""Pictures of which FFmpeg decodes nothing or a part, read with Pillow.

They are HEIC, animated WebP, and AVIF of several streams: in tiles or with transparency.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from media.container import REMEDY, check_size
from media.errors import InputError, first_line
from media.fields import Timed
from media.timeline import FPS

HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
ANIMATED = 2  # a bit of a WebP file's byte 20
LEAST, USUAL = 11, 100  # ms; browsers show a frame of less for the usual time
# Pillow raises these for damaged files.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, MemoryError, Image.DecompressionBombError)


def pillow_format(path: Path) -> str | None:
    """Pillow's name of the format of a HEIC or an animated WebP; None for any other file."""
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:21] and head[20] & ANIMATED:
        return "WEBP"
    if head[4:8] != b"ftyp":
        return None
    brands = re.findall(b"....", head[8 : int.from_bytes(head[:4], "big")], re.DOTALL)
    return "HEIF" if brands and brands[0] in HEIC_BRANDS and b"avif" not in brands else None


def pillow_frames(path: Path, form: str) -> Iterator[Timed]:
    """Yield the frames of a picture in Pillow's format `form`, upright.

    Each comes with the time [start, end) in seconds in which it is displayed.

    Raises:
        InputError: the file cannot be read, or pillow-heif is not installed.
    """
    if form == "HEIF":
        _register_heif(path)
    try:
        with Image.open(path, formats=[form]) as image:
            check_size(path, *image.size)
            start = Fraction(0)
            count = 1 if form == "HEIF" else getattr(image, "n_frames", 1)  # of a HEIC, the primary image alone
            for number in range(count):
                if count > 1:
                    image.seek(number)
                image.load()
                duration = image.info.get("duration", 0) if count > 1 else 1000 // FPS
                end = start + Fraction(round(duration if duration >= LEAST else USUAL), 1000)
                yield _frame(image), start, end
                start = end
    except UNREADABLE as error:
        raise InputError(f"video {path} cannot be read ({first_line(error)}); {REMEDY}") from error


def _register_heif(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError as error:
        raise InputError(
            f"video {path} is a HEIC picture; install pillow-heif (pip install -r requirements.txt), or convert it to "
            "JPEG or PNG"
        ) from error
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def _frame(image: Image.Image) -> av.VideoFrame:
    mode = "RGBA" if image.has_transparency_data else "RGB"
    frame = av.VideoFrame.from_ndarray(np.array(image.convert(mode)), {"RGB": "rgb24", "RGBA": "rgba"}[mode])
    colours = image.info.get("nclx_profile")  # of a HEIC
    if isinstance(colours, dict):
        frame.color_primaries = int(colours.get("color_primaries", 2))
        frame.color_trc = int(colours.get("transfer_characteristics", 2))
    return frame
