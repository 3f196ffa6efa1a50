"""Checks, opens and writes the output and the optional videos that show its making."""

import contextlib
import functools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from dubbing.options import DubOptions
from dubbing.pictures import grey, panel, panel_size
from dubbing.second_pass import DubbedFrame
from media.crop import CropForm
from media.errors import InputError
from media.files import check_output_folder, existing_file, remove_abandoned
from media.lossless import lossless_writer
from media.sound import SoundPart
from media.video import VideoInfo, VideoWriter, check_suffix
from media.video_writer import CRF


def check_outputs(outputs: list[Path], inputs: list[str | os.PathLike]) -> None:
    """InputError if an input does not exist, or an output cannot be written there.

    Removes what a crashed run left beside an output.
    """
    for path in inputs:
        existing_file(path, "input")
    taken = {Path(path).resolve(): path for path in inputs}
    for path in outputs:
        remove_abandoned(path)
        if path.is_dir():
            raise InputError(f"output {path} is a folder; name a file in it, such as {path / 'dubbed.mp4'}")
        check_suffix(path)
        if path.resolve() in taken:
            raise InputError(f"output {path} is also the input or another output; give another name")
        taken[path.resolve()] = path
        check_output_folder(path.parent)


def open_writers(
    stack: contextlib.ExitStack,
    info: VideoInfo,
    fps: Fraction,
    sound: list[SoundPart],
    output: str | os.PathLike,
    form: CropForm,
    options: DubOptions,
    length: int,
) -> Callable[[DubbedFrame], None]:
    """Open the output and the optional videos; the function returned writes a frame to each, `length` in all.

    The output is opened last and so closed first: if closing it fails, the others are not left behind.
    """
    seconds = None if options.length == "sound" and len(sound) == 1 else float(length / fps)
    exact = options.protocol == "authors"
    opening = functools.partial(VideoWriter, fps=fps, sound=sound, duration=seconds, crf=0 if exact else CRF)
    main = functools.partial(opening, encoder=options.encoder)
    writes = []
    if options.visualize is not None:
        width, height = panel_size(info.width, info.height, form.shape)
        panels = stack.enter_context(opening(options.visualize, width, height))
        writes.append(lambda frame: panels.write(panel(frame.picture, *_shown(frame, form), frame.result)))
    opening_crops: Callable = functools.partial(lossless_writer, fps=fps) if exact else opening
    if options.crop_output is not None:
        crops = stack.enter_context(opening_crops(options.crop_output, form.width, form.height))
        black = np.zeros((*form.shape, 3), np.uint8)
        writes.append(lambda frame: crops.write(frame.faces[0].made if frame.faces else black))
    if options.source_crop_output is not None:
        sources = stack.enter_context(opening_crops(options.source_crop_output, form.width, form.height))
        black = np.zeros((*form.shape, 3), np.uint8)
        writes.append(lambda frame: sources.write(frame.faces[0].crop if frame.faces else black))
    if options.heatmap_output is not None:
        heatmaps = stack.enter_context(opening(options.heatmap_output, form.guidance, form.guidance))
        writes.append(lambda frame: heatmaps.write(grey(_shown(frame, form)[0])))
    opened = stack.enter_context(
        main(output, info.width, info.height, pixel_aspect=info.pixel_aspect, colour=info.colour)
    )
    writes.append(lambda frame: opened.write(frame.result))

    def write(frame: DubbedFrame) -> None:
        for each in writes:
            each(frame)

    return write


def _shown(frame: DubbedFrame, form: CropForm) -> tuple[np.ndarray, np.ndarray]:
    """The heatmap and the generated crop of a frame's first face; both black if there is none."""
    if frame.faces:
        return frame.faces[0].heatmap, frame.faces[0].made
    return np.zeros((form.guidance, form.guidance), np.float32), np.zeros((*form.shape, 3), np.uint8)
