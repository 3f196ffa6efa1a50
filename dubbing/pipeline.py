"""Dubs one video: a first pass finds faces and chooses references, a second decodes, generates and encodes."""

import contextlib
import dataclasses
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dubbing.first_pass import SCANNED, chosen_people, dubbed_people, tracked_scene, with_progress
from dubbing.lengths import check_lengths, output_length, read_voice, sound_parts
from dubbing.motion import Motion, motion
from dubbing.occlusion import Cover
from dubbing.options import DubOptions
from dubbing.outputs import check_outputs, open_writers
from dubbing.people import Person, Scene
from dubbing.prepared import Prepared, frame_rate
from dubbing.reference_frames import ReferenceFrames, covers_of, people_of_references, references_of
from dubbing.second_pass import DubbedFrame, pasted, with_faces, with_jobs
from dubbing.source import Source
from dubbing.speaker import Speaker
from dubbing.speaking import expert_for
from dubbing.summary import (
    Summary,
    before_mouths,
    encoded_elsewhere,
    filled_up,
    halved_batches,
    mouths_beyond,
    silent_track,
    spans_of,
    strangers,
)
from media.audio import SAMPLE_RATE, sound_features
from media.crop import CropForm
from media.errors import InputError
from media.lossless import check_lossless
from media.loudness import heard
from media.stages import Clock, background
from media.timeline import FPS
from media.video import VideoInfo, probe, watchable
from media.video_writer import stored_size

# How the protocol `authors` dubs.
_AUTHORS: dict[str, Any] = {"smooth": False, "reference_choice": "truncated", "detail": False, "occlusion": "ignore"}
_QUEUED = 48 * 2**20  # bytes of frames queued between two stages


def dub(
    video: str | os.PathLike | Prepared,
    audio: str | os.PathLike,
    output: str | os.PathLike,
    speaker: Speaker,
    options: DubOptions | None = None,
    clock: Clock | None = None,
) -> Summary:
    """Dub `video` with the speech in `audio` and write the result to `output`.

    Args:
        video: any video, animation or image; played for as long as the sound lasts (`options.when_short`). A `Prepared`
            one is tracked only as far as it is not yet, and keeps what is found.
        audio: a sound file, or a video with sound, that the output has. The mouth follows `options.voice` if given.
        output: an MP4 file.
        clock: collects the seconds that each stage works.

    Raises:
        InputError: an input cannot be used, no frame shows a face to dub or every one with something before its mouth,
            or the output cannot be written; no file is left behind.
    """
    options, clock = options or DubOptions(), clock or Clock()
    if options.protocol == "authors":
        options = dataclasses.replace(options, **_AUTHORS)
    prepared, video = (video, video.video) if isinstance(video, Prepared) else (None, video)
    _check_options(video, audio, output, speaker, options)
    info, most, expert = _probed(video, options), speaker.most, expert_for(speaker, options)
    with clock.time("sound"):
        wav, own = read_voice(audio, options)
        features = _sound_features(wav if options.protocol == "authors" else heard(wav), speaker)
    unprepared = None
    if prepared:
        options = prepared.check(info, options)
        unprepared = prepared.file if speaker.fingerprint not in prepared.encoded else None
    fps = frame_rate(info, options.keep_fps)
    spoken = max(1, math.ceil(len(own) * fps / SAMPLE_RATE))
    whole = options.length == "video" or options.when_long == "keep"
    limit = sys.maxsize if whole else max(spoken, SCANNED * math.ceil(fps))
    known = people_of_references(options, clock)
    source, scene = tracked_scene(video, info, fps, limit, options, clock, prepared)
    length, spoken = output_length(spoken, scene.frames, options)
    chosen = chosen_people(source, scene, expert, options)
    dubbed = [row if k < spoken else [] for k, row in enumerate(dubbed_people(chosen))]
    if options.missing_face == "error":
        _refuse_gaps(scene, dubbed, min(spoken, scene.frames), video, fps)
    people = list({id(person): person for row in dubbed for person in row}.values())
    motions = _motions(people, dubbed, scene, length, options, speaker.crop)
    faceless = _faceless(motions, spoken, fps, video)
    covers = covers_of(source, scene, people, spoken, speaker, options, clock, prepared)
    _refuse_hidden(covers, video)
    with clock.time("references"):
        references = references_of(source, people, covers, known, speaker, options, prepared)

    depth = int(np.clip(_QUEUED // (3 * info.width * info.height), 1, 32))
    decoded = clock.iterate("decode", source.play(length, options.when_short))
    count = Counter(covered=0, passed=0)
    frames = background(with_jobs(decoded, motions, covers, fps, speaker, clock, count=count), depth)
    frames = background(with_faces(frames, speaker, references, features, options.batch_size, clock), depth)
    frames = background(pasted(frames, references, speaker.crop, options, clock), depth)
    sound = sound_parts(audio, video, length, spoken, fps, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(frames))
        write = open_writers(stack, info, fps, sound, output, speaker.crop, options, length)
        for frame in with_progress(frames, length, "dubbing", options):
            with clock.time("encode"):
                write(frame)
    spans = [(start / fps, end / fps) for start, end in spans_of(faceless)]
    untouched = [(float(start), float(end)) for start, end in spans]
    unkept = info.frame_rate if options.keep_fps and watchable(info.frame_rate) != info.frame_rate else None
    notes = (*sorted(source.changes), *filled_up(info), *encoded_elsewhere(options), *silent_track(audio, own, options))
    notes += (*halved_batches(most, speaker), *before_mouths(count, covers, options))
    notes += (*mouths_beyond(scene, chosen, dubbed, spoken, options), *strangers(people, known, options))
    kept = float((length - spoken) / fps)
    size = stored_size(info.width, info.height)
    return Summary(Path(output), length, fps, *size, untouched, unkept, unprepared, notes, kept, *count.values())


def _faceless(motions: list[Motion], spoken: int, fps: Fraction, video: str | os.PathLike) -> list[bool]:
    """Which of the `spoken` first frames show no face to dub; InputError if none does."""
    faceless = [all(m.first[k] < 0 for m in motions) for k in range(spoken)]
    if all(faceless):
        seconds = float(spoken / fps)
        raise InputError(f"video {video} shows no face to dub in {seconds:.2f} s; choose another part or person")
    return faceless


def _refuse_hidden(covers: list[Cover | None], video: str | os.PathLike) -> None:
    """InputError where nobody would be dubbed, because every frame passes with something before the mouth."""
    if all(cover is not None and not cover.strength.any() for cover in covers):
        raise InputError(
            f"video {video}: something is before the mouth in every frame; give --references with the bare mouth, or "
            f"--occlusion ignore"
        )


def _probed(video: str | os.PathLike, options: DubOptions) -> VideoInfo:
    check_lengths(options)
    info = probe(video)
    if options.face_at is not None and not (options.face_at[0] < info.width and options.face_at[1] < info.height):
        point = ",".join(map(str, options.face_at))
        raise InputError(f"--face-at {point} lies outside of {video}, {info.width}x{info.height}; give a point in it")
    return info


def prepare(
    video: str | os.PathLike, speakers: Sequence[Speaker], options: DubOptions | None = None, clock: Clock | None = None
) -> Prepared:
    """Track the faces of the whole video, or of the options' part of it, and encode references for several dubs.

    The references of the people that the options choose are encoded for each of `speakers`. A dub encodes those of
    others, and, where its own frames are a part of these, references that it chooses from that part.

    Raises:
        InputError: the video cannot be read, or shows no face.
    """
    options, clock = options or DubOptions(), clock or Clock()
    info, expert = _probed(video, options), expert_for(speakers[0], options) if speakers else None
    prepared = Prepared.of(video, info, options)
    source, scene = tracked_scene(video, info, prepared.fps, sys.maxsize, options, clock, prepared)
    chosen = chosen_people(source, scene, expert, options)
    people = list({id(person): person for row in dubbed_people(chosen) for person in row}.values())
    for speaker in speakers:
        covers = covers_of(source, scene, people, scene.frames, speaker, options, clock, prepared)
        references_of(source, people, covers, None, speaker, dataclasses.replace(options, detail=False), prepared)
    return prepared


@dataclass
class Cast:
    """A video's people, ready to be dubbed; `dubbed` lists them for each frame of the scene."""

    source: Source
    scene: Scene
    dubbed: list[list[Person]]
    people: list[Person]
    covers: list[Cover | None]
    references: list[ReferenceFrames]

    def motions(self, length: int, options: DubOptions, form: CropForm) -> list[Motion]:
        """The people's motions in an output of `length` frames."""
        return _motions(self.people, self.dubbed, self.scene, length, options, form)


def cast(prepared: Prepared, speaker: Speaker, options: DubOptions) -> Cast:
    """The people that the options choose, with their references; InputError where the video shows no face."""
    clock = Clock()
    info = _probed(prepared.video, options)
    source, scene = tracked_scene(prepared.video, info, prepared.fps, sys.maxsize, options, clock, prepared)
    dubbed = dubbed_people(chosen_people(source, scene, expert_for(speaker, options), options))
    people = list({id(person): person for row in dubbed for person in row}.values())
    covers = covers_of(source, scene, people, scene.frames, speaker, options, clock, prepared)
    references = references_of(source, people, covers, None, speaker, options, prepared)
    return Cast(source, scene, dubbed, people, covers, references)


def generated(
    frames: Iterator[tuple[int, np.ndarray]],
    start: int,
    of: Cast,
    motions: list[Motion],
    speaker: Speaker,
    features: np.ndarray,
    options: DubOptions,
    known: list[dict],
) -> Iterator[DubbedFrame]:
    """Yield `frames` of the source, the output's from `start` on at 25 frames a second, with their `result`.

    `known` holds, for each person, what the speaker keeps between batches.
    """
    clock = Clock()
    jobs = with_jobs(frames, motions, of.covers, Fraction(FPS), speaker, clock, start)
    spoken = with_faces(jobs, speaker, of.references, features, options.batch_size, clock, known)
    return pasted(spoken, of.references, speaker.crop, options, clock)


def _sound_features(wav: np.ndarray, speaker: Speaker) -> np.ndarray:
    return sound_features(wav, speaker.audio, str(speaker.device), speaker.ear)


def _check_options(
    video: str | os.PathLike, audio: str | os.PathLike, output: str | os.PathLike, speaker: Speaker, options: DubOptions
) -> None:
    wanted = (output, options.visualize, options.crop_output, options.source_crop_output, options.heatmap_output)
    inputs = (video, audio, options.voice, options.references)
    if options.protocol == "authors":
        check_lossless([options.crop_output, options.source_crop_output])
    check_outputs([Path(path) for path in wanted if path is not None], [path for path in inputs if path is not None])
    if options.heatmap_output is not None and not speaker.predicts_heatmaps:
        raise InputError(
            f"--heatmap-output {options.heatmap_output}: the checkpoint's network predicts none (G4G); leave it out"
        )


def _refuse_gaps(scene: Scene, dubbed: list[list[Person]], shown: int, video: str | os.PathLike, fps: Fraction) -> None:
    gaps = spans_of([not row for row in dubbed[:shown]])
    if gaps:
        start, end = gaps[0]
        raise InputError(
            f"video {video} shows no face to dub from {float(start / fps):.2f} to {float(end / fps):.2f} s; "
            f"cut that out, or let such frames through with --missing-face pass"
        )


def _motions(
    people: list[Person],
    dubbed: list[list[Person]],
    scene: Scene,
    length: int,
    options: DubOptions,
    form: CropForm,
) -> list[Motion]:
    shown = [np.array([any(person is other for other in row) for row in dubbed]) for person in people]
    return [
        motion(
            person, where, scene.cuts, length, options.smooth, form, options.when_short, options.protocol != "authors"
        )
        for person, where in zip(people, shown, strict=True)
    ]
