"""What a dub says of itself: its result, and the notes on its inputs."""

import os
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from dubbing.occlusion import Cover
from dubbing.options import DubOptions
from dubbing.people import Person, Scene, unlike
from dubbing.source import Source, source_index
from dubbing.speaker import Speaker
from media.sound import track_with_sound
from media.video import VideoInfo
from media.video_writer import gpu_encodes

_STRANGER = 0.45  # difference of looks, above which references are of somebody else; `benchmarks.looks`


@dataclass
class Summary:
    """Result of a dub.

    `untouched` lists the spans, in seconds of the output, whose frames have no dubbed face. `unkept_rate` is the
    source's frame rate if `keep_fps` is set but the rate is not `watchable`. `unprepared` is the file of a prepared
    person that has no references for these networks, so that the dub encoded them. `notes` are clauses that the line
    says of the inputs, such as `VideoInfo.changes`. `kept` are the seconds of the source's own pictures after the dub,
    which are not `untouched` ones. `covered` counts the frames in which something is before a dubbed mouth, `passed`
    those of them that were left as they were.
    """

    output: Path
    frames: int
    fps: Fraction
    width: int
    height: int
    untouched: list[tuple[float, float]]
    unkept_rate: Fraction | None = None
    unprepared: Path | None = None
    notes: tuple[str, ...] = ()
    kept: float = 0.0
    covered: int = 0
    passed: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.output}: {float(self.frames / self.fps):.2f} s, {self.frames} frames of {self.width}x{self.height}"
        )
        if self.unkept_rate is not None:
            text += f" ({self.fps} a second, as the video's own {float(self.unkept_rate):.4g} cannot be kept)"
        if self.unprepared is not None:
            text += f" ({self.unprepared} was prepared for another checkpoint: references encoded again)"
        if self.notes:
            text += f" ({'; '.join(self.notes)})"
        if self.kept:
            text += f" (the last {self.kept:.2f} s are the source's own)"
        if not self.untouched:
            return f"{text}, a face in every {'dubbed ' if self.kept else ''}one"
        count = round(sum(end - start for start, end in self.untouched) * self.fps)
        spans = [f"{start:.2f}-{end:.2f} s" for start, end in self.untouched[:6]]
        more = f" and {len(self.untouched) - 6} more" if len(self.untouched) > 6 else ""
        return f"{text}, {count} of them without a face to dub and left as they were ({', '.join(spans)}{more})"


def halved_batches(before: int | None, speaker: Speaker) -> list[str]:
    """What the summary says of a GPU whose memory became full during the dub."""
    if speaker.most == before:
        return []
    return [f"the GPU's memory was full: batches of {speaker.most}; give --batch-size {speaker.most} or less"]


def encoded_elsewhere(options: DubOptions) -> list[str]:
    """What the summary says of a machine without the encoder that the options name."""
    return ["no GPU with NVENC: encoded on the CPU"] if options.encoder == "gpu" and not gpu_encodes() else []


def filled_up(info: VideoInfo) -> list[str]:
    """What the summary says of a video of odd width or height."""
    odd = [name for name, side in (("column", info.width), ("row", info.height)) if side % 2]
    if not odd:
        return []
    repeats = "repeats" if len(odd) == 1 else "repeat"
    return [f"{info.width}x{info.height} filled up to even sides: the last {' and '.join(odd)} {repeats}"]


def mouths_beyond(
    scene: Scene, chosen: list[list[Person]], dubbed: list[list[Person]], spoken: int, options: DubOptions
) -> list[str]:
    """What the summary says of frames in which a chosen person's mouth lies beyond the border of the picture."""
    beyond = np.array([len(everyone) > len(row) for everyone, row in zip(chosen, dubbed, strict=True)])
    count = int(beyond[source_index(np.arange(spoken), scene.frames, options.when_short)].sum())
    return [f"{count} frames show a face whose mouth is outside the picture, and leave it"] if count else []


def strangers(people: list[Person], known: tuple[Source, list[Person]] | None, options: DubOptions) -> list[str]:
    """What the summary says of reference frames that seem to show somebody else."""
    if known is None:
        return []
    strangers = [person for person in people if min(unlike(person, other) for other in known[1]) > _STRANGER]
    if not strangers:
        return []
    whom = "the person who is dubbed" if len(people) == 1 else f"{len(strangers)} of the {len(people)} people"
    return [f"warning: nobody in references {options.references} looks like {whom}; give frames of the same person"]


def silent_track(audio: str | os.PathLike, wav: np.ndarray, options: DubOptions) -> list[str]:
    """What the summary says of a silent sound track beside another with sound."""
    other = track_with_sound(audio, wav, options.audio_track)
    if other is None:
        return []
    return [f"the sound track taken of {audio} is silent, its track {other} is not: --audio-track {other}"]


def before_mouths(count: Counter[str], covers: list[Cover | None], options: DubOptions) -> tuple[str, ...]:
    """What the summary says of frames in which something is before a dubbed mouth."""
    if not count["covered"]:
        return ()
    found = [f"something before the mouth in {count['covered']} frames, {count['passed']} of them left as they were"]
    if options.references is None and not all(cover is None or cover.bare.any() for cover in covers):
        found.append("no frame shows the bare mouth: give --references")
    return tuple(found)


def spans_of(flags: list[bool]) -> list[tuple[int, int]]:
    """The stretches [start, stop) of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
