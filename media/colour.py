"""The colour space that a frame's tags name, and the conversion of frames to RGB."""

import functools
import threading
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

# H.273 codes: of matrices, of which 1, 2 and 9 are primaries too, and of transfers
RGB_SPACE, BT709, UNSPECIFIED, BT601, BT2020, BT2020_CONSTANT = 0, 1, 2, 6, 9, 10
BT2020_10BIT, PQ, HLG = 14, 16, 18
PRIMARIES, TRANSFERS = {1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22}, {1, 4, 5, 6, 7, 8, 13, 14, 15}  # that FFmpeg converts
MATRICES = {1: "bt709", UNSPECIFIED: "bt601", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
SWS_BT601, SWS_BT709 = 5, 1  # swscale's names for the matrices 6 and 1

# swscale's default lowers the brightness by one level; these flags do not.
EXACT = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
EXACT_NAMES = "bilinear+accurate_rnd+full_chroma_int"

HD_WIDTH, HD_HEIGHT = 1280, 720  # px; untagged video from either on is read as BT.709, as players do
BACKGROUND = (0, 0, 0)  # RGB behind transparent parts
CUBE = 8  # the side of the table of colours is the square of this
# FFmpeg's haldclut confuses the channels of planar formats, and its scale filter confuses them from YUV to packed ones.
PACKED, PLANAR = "rgb48le", "gbrp16le"


class Colour(NamedTuple):
    """H.273 codes of a video's matrix, primaries and transfer; 2 means unspecified."""

    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


class Wide(NamedTuple):
    """H.273 codes of primaries and transfer that are converted to BT.709."""

    primaries: int
    transfer: int

    def __str__(self) -> str:
        return {PQ: "HDR (PQ)", HLG: "HDR (HLG)"}.get(self.transfer, "BT.2020")


def is_hd(width: int, height: int) -> bool:
    """Whether untagged video of this size is in BT.709; smaller video is in BT.601."""
    return width >= HD_WIDTH or height >= HD_HEIGHT


def wide(frame: av.VideoFrame) -> Wide | None:
    """What a frame of HDR or of BT.2020's gamut is in; None if it is in a standard gamut and range.

    A transfer of PQ or HLG is HDR whatever else is tagged. Missing and undefined tags are those that go with the
    others.
    """
    matrix, primaries, transfer = int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)
    if transfer in (PQ, HLG):
        return Wide(primaries if primaries in PRIMARIES else BT2020, transfer)
    if primaries == BT2020 or (primaries not in PRIMARIES and matrix in (BT2020, BT2020_CONSTANT)):
        return Wide(BT2020, transfer if transfer in TRANSFERS else BT2020_10BIT)
    return None


def output_colour(frame: av.VideoFrame) -> Colour:
    """The colour space to write this frame's `ToRGB` picture in: its own, or BT.709 where that is converted to."""
    if wide(frame):
        return Colour(BT709, BT709, BT709)
    colour = Colour(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))
    if colour.matrix == RGB_SPACE:
        return colour._replace(matrix=BT601)
    if colour.matrix == UNSPECIFIED and is_hd(frame.width, frame.height):
        return Colour(BT709, *(BT709 if code == UNSPECIFIED else code for code in colour[1:]))
    return colour


class ToRGB:
    """Converts frames to RGB arrays of one size.

    HDR and BT.2020 become SDR in BT.709 (`wide`); other colours stay in their own primaries. Transparent parts become
    BACKGROUND in proportion to their transparency.

    Args:
        width, height: of the arrays, in pixels.
        changes: receives a clause for each of these changes that a frame had.
    """

    def __init__(self, width: int, height: int, changes: set[str] | None = None):
        self.width, self.height, self.changes = width, height, set() if changes is None else changes
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._form: tuple | None = None  # of the frames that the graph takes
        self._count = 0

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""
        source = wide(frame)
        image = None
        if source:
            self.changes.add(f"{source} converted to SDR in BT.709")
            image = self._converted(frame, source)
        if not has_alpha(frame):
            return self._reformatted(frame, "rgb24") if image is None else image
        whole = self._reformatted(frame, "rgba")
        alpha = whole[..., 3:]
        image = whole[..., :3] if image is None else image
        if (alpha == 255).all():
            return np.ascontiguousarray(image)
        self.changes.add("transparent parts made black")
        weight = alpha.astype(np.uint16)
        return ((image * weight + np.array(BACKGROUND, np.uint16) * (255 - weight) + 127) // 255).astype(np.uint8)

    def _reformatted(self, frame: av.VideoFrame, pix_fmt: str) -> np.ndarray:
        convert = functools.partial(
            self._reformatter.reformat, frame, self.width, self.height, pix_fmt, interpolation=EXACT
        )
        untagged_hd = frame.colorspace == UNSPECIFIED and is_hd(frame.width, frame.height)
        try:
            return convert(src_colorspace=SWS_BT709 if untagged_hd else None).to_ndarray()
        except (OSError, av.error.FFmpegError):  # swscale refuses rare and undefined matrices
            return convert(src_colorspace=SWS_BT601).to_ndarray()

    def _converted(self, frame: av.VideoFrame, source: Wide) -> np.ndarray:
        form = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, source)
        if form != self._form:
            self._graph, self._form = self._to_bt709(frame, source), form
        assert self._graph is not None
        frame.pts, frame.time_base = self._count, Fraction(1, 25)  # the filter's own clock
        self._count += 1
        self._graph.push(frame, at=0)
        return self._graph.vpull().to_ndarray()

    def _to_bt709(self, frame: av.VideoFrame, source: Wide) -> Graph:
        """A graph that looks each colour up in `_table`."""
        table, graph = _table(source), Graph()
        frames = graph.add_buffer(
            width=frame.width, height=frame.height, format=av.VideoFormat(frame.format.name), time_base=Fraction(1, 25)
        )
        tables = graph.add_buffer(
            width=table.width, height=table.height, format=av.VideoFormat(PACKED), time_base=Fraction(1, 25)
        )
        known = frame.colorspace != UNSPECIFIED and frame.colorspace in (RGB_SPACE, *MATRICES)
        matrix = "auto" if known else "bt2020"
        scale = graph.add("scale", f"{self.width}:{self.height}:flags={EXACT_NAMES}:in_color_matrix={matrix}")
        deep, look = graph.add("format", PACKED), graph.add("haldclut", "clut=first:interp=tetrahedral")
        graph.link_nodes(frames, scale, graph.add("format", PLANAR), deep)
        deep.link_to(look, 0, 0)
        tables.link_to(look, 0, 1)
        graph.link_nodes(look, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        graph.push(table, at=1)
        graph.push(None, at=1)
        return graph


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the frame's format can hold transparency."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


_computing = threading.Lock()


def _table(source: Wide) -> av.VideoFrame:
    """The BT.709 colours of an even grid of `source`'s RGB: a picture as FFmpeg's filter haldclut takes it.

    FFmpeg's scale filter computes it, with its tone curve for HDR of up to 1,000 cd/m2. Set-up of that filter takes
    seconds for each size, format and mastering metadata; the table serves all of a process's videos. A file's own
    mastering metadata are not used, so that a frame has the same colours wherever the reading starts.
    """
    with _computing:  # two threads would compute it twice
        return _computed(source)


@functools.lru_cache(4)
def _computed(source: Wide) -> av.VideoFrame:
    level = np.linspace(0, 65535, CUBE**2).round().astype(np.uint16)
    blue, green, red = np.meshgrid(level, level, level, indexing="ij")
    grid = av.VideoFrame.from_ndarray(np.stack([red, green, blue], -1).reshape(CUBE**3, CUBE**3, 3), "rgb48le")
    grid.colorspace, grid.color_primaries, grid.color_trc = RGB_SPACE, source.primaries, source.transfer
    grid.pts, grid.time_base = 0, Fraction(1, 25)
    graph = Graph()
    side, form = CUBE**3, av.VideoFormat(PACKED)
    frames = graph.add_buffer(width=side, height=side, format=form, time_base=Fraction(1, 25))
    steps = ["out_primaries=bt709:out_transfer=bt709:intent=perceptual"]
    if source.transfer == PQ:  # the tone curve would leave room for 10,000 cd/m2; HLG ends at 1,000
        steps.insert(0, "out_transfer=arib-std-b67:intent=relative_colorimetric")
    nodes = []
    for step in steps:
        nodes += [graph.add("scale", f"flags=accurate_rnd:{step}"), graph.add("format", PACKED)]
    graph.link_nodes(frames, *nodes, graph.add("buffersink")).configure()
    graph.push(grid)
    return graph.vpull()
