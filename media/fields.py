"""Makes whole frames of interlaced ones, whose two fields show different instants."""

import contextlib
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

Timed = tuple[av.VideoFrame, Fraction, Fraction]  # a frame, and when it is displayed: [start, end) in seconds

DEINTERLACED = "deinterlaced"
CONTEXT = 2  # frames before one that its deinterlacing may depend on


def progressive(frames: Iterator[Timed], changes: set[str] | None = None) -> Iterator[Timed]:
    """Yield each frame with its times; those marked as interlaced are deinterlaced by FFmpeg's bwdif.

    `changes` then receives the clause `DEINTERLACED`.

    bwdif takes the fields of the frames before and after one. A reader that seeks must decode the frame before too.
    """
    bwdif: _Bwdif | None = None
    before: av.VideoFrame | None = None
    for frame, start, end in frames:
        if bwdif is None and not frame.interlaced_frame:
            before = frame
            yield frame, start, end
            continue
        if changes is not None:
            changes.add(DEINTERLACED)
        if bwdif is None or bwdif.form != _form(frame):
            if bwdif is not None:
                yield from bwdif.rest()
            bwdif, before = _Bwdif(frame, before), None
        yield from bwdif.put(frame, (start, end))
    if bwdif is not None:
        yield from bwdif.rest()


def _form(frame: av.VideoFrame) -> tuple[str, int, int]:
    return frame.format.name, frame.width, frame.height


class _Bwdif:
    """FFmpeg's filter for frames like `first`; `before` is the frame before that, yielded already."""

    def __init__(self, first: av.VideoFrame, before: av.VideoFrame | None):
        self.form = _form(first)
        self._graph = graph = Graph()
        name, width, height = self.form
        form = av.VideoFormat(name)
        source = graph.add_buffer(width=width, height=height, format=form, time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        self._count = 0
        self._waiting: deque[tuple[Fraction, Fraction] | None] = deque()
        if before is not None and _form(before) == self.form:
            deque(self.put(before, None), 0)

    def put(self, frame: av.VideoFrame, times: tuple[Fraction, Fraction] | None) -> Iterator[Timed]:
        """Add a frame and yield those that are ready."""
        # Numbered, as the filter orders frames by their time, which may be missing or wrong.
        frame.pts, frame.time_base = self._count, Fraction(1, 25)
        self._count += 1
        self._waiting.append(times)
        self._graph.push(frame)
        yield from self._ready()

    def rest(self) -> Iterator[Timed]:
        """Yield the frames that waited for a next one."""
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[Timed]:
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while self._waiting:
                frame, times = self._graph.vpull(), self._waiting.popleft()
                if times is not None:
                    yield frame, *times
