"""The first pass over a video: finds and links its faces, and chooses whom to dub."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from dubbing.lengths import check_lengths
from dubbing.options import DubOptions
from dubbing.people import Person, Scene, choose, observe, without_mouth
from dubbing.prepared import Prepared
from dubbing.source import Source, check_start
from dubbing.speaking import speaking
from media.errors import InputError
from media.stages import Clock, background
from media.video import VideoInfo
from models.sync_expert import SyncExpert

SCANNED = 60  # seconds of the source, at least, that are searched for references


def tracked_scene(
    video: str | os.PathLike,
    info: VideoInfo,
    fps: Fraction,
    limit: int,
    options: DubOptions,
    clock: Clock,
    prepared: Prepared | None,
) -> tuple[Source, Scene]:
    """The source, and the scene of the first `limit` frames of the part of it that the options name."""
    first, part = _part(info, fps, options)
    limit = min(limit | 1, part)  # an odd number, so that the last frame is searched (`dubbing.tracking`)
    source = Source(video, fps, start=first)
    scene = prepared.known(limit) if prepared else None
    if scene is not None:
        source.skip_scan(scene.frames, 3 * info.width * info.height)
        return source, scene
    scene = observed(source, limit, info.duration - options.start, options, clock, "tracking")
    if prepared:
        prepared.scene, prepared.limit, prepared.covers = scene, limit, {}
    return source, scene


def _part(info: VideoInfo, fps: Fraction, options: DubOptions) -> tuple[int, int]:
    """The part of the video between `start` and `end`: its first frame, and the most frames that it can have."""
    check_lengths(options)
    check_start(info, options.start)
    first = round(options.start * fps)
    return first, sys.maxsize if options.end is None else max(1, round(options.end * fps) - first)


def observed(source: Source, limit: int, seconds: float, options: DubOptions, clock: Clock, title: str) -> Scene:
    """The scene of the first `limit` frames of `source`, which lasts `seconds`; `title` names the progress bar."""
    total = min(limit, round(seconds * source.fps)) or None
    frames = background(clock.iterate("decode, first pass", source.scan(limit)), 4)
    with contextlib.closing(frames):
        shown = with_progress(frames, total, title, options)
        return observe(shown, options.workers, clock, options.protocol == "authors")


def with_progress(frames: Iterator, total: int | None, title: str, options: DubOptions) -> Iterable:
    """`frames`, with the progress bar of the options if they have one."""
    return (
        frames if options.progress is None else options.progress(frames, title, total, unit="frame", dynamic_ncols=True)
    )


def chosen_people(source: Source, scene: Scene, expert: SyncExpert | None, options: DubOptions) -> list[list[Person]]:
    """The people whom the options name in each frame of `scene`.

    Args:
        expert: of `--face speaking`; None for another choice.

    Raises:
        InputError: there is no face, or not the one that the options name.
    """
    if not scene.people:
        raise InputError(
            f"video {source.path} shows no face that can be dubbed; give one with a face turned to the camera"
        )
    if expert is None:
        return choose(scene, options.face, options.face_at)
    frames = with_progress(source.play(scene.frames), scene.frames, "who speaks", options)
    return speaking(source, scene, expert, options, frames)


def dubbed_people(chosen: list[list[Person]]) -> list[list[Person]]:
    """Those of the `chosen` people of each frame whose mouth lies in the picture."""
    dubbed = [list(row) for row in chosen]
    for person in {id(person): person for row in dubbed for person in row}.values():
        for position in np.flatnonzero(without_mouth(person)):
            frame = person.frames[position]
            dubbed[frame] = [other for other in dubbed[frame] if other is not person]
    return dubbed
