"""Dubs one video: a first pass finds faces and chooses references, a second decodes, generates and encodes."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dubbing.blur import Sharpness, blurred, sharpness
from dubbing.detail import Candidate, add_detail, candidate
from dubbing.lengths import check_lengths, output_length, read_voice, sound_parts
from dubbing.light import brightened, brightening, usual, well_lit
from dubbing.motion import Motion, motion
from dubbing.occlusion import Cover, Covered, examine
from dubbing.options import DubOptions
from dubbing.paste import match_colour, paste_face, paste_whole
from dubbing.people import Person, Scene, choose, observe, recognise, unlike, without_mouth
from dubbing.pictures import grey, panel, panel_size
from dubbing.prepared import Prepared, frame_rate, reference_key
from dubbing.source import Source, check_start, source_index
from dubbing.speaker import FaceJob, Speaker
from media.audio import SAMPLE_RATE, sound_features
from media.crop import CropForm
from media.errors import InputError
from media.files import check_output_folder, existing_file, remove_abandoned
from media.heatmap import LIP_POINTS, ORDER
from media.lossless import check_lossless, lossless_writer
from media.loudness import heard
from media.place import Place, crop_face
from media.references import choose_references, covering_references, lip_opening
from media.sound import SoundPart, track_with_sound
from media.stages import Clock, background
from media.timeline import FPS
from media.video import VideoInfo, VideoWriter, check_suffix, probe, watchable
from media.video_writer import CRF, stored_size

_STRANGER = 0.45  # difference of looks, above which references are of somebody else; `benchmarks.looks`
_WHOLE = 0.97  # share of the landmarks that a reference shows within the picture
SCANNED = 60  # seconds of the source, at least, that are searched for references
# How the protocol `authors` dubs.
_AUTHORS: dict[str, Any] = {"smooth": False, "reference_choice": "truncated", "detail": False, "occlusion": "ignore"}
_QUEUED = 48 * 2**20  # bytes of frames queued between two stages


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


@dataclass
class _References:
    """A person's reference frames: `Speaker.encode`'s result, and where the dub adds detail, the frames' own.

    light: grey level to which the references and the faces to dub are brought. sharpness: None if it is not known.
    """

    encoded: Any
    candidates: list[Candidate] | None
    light: float
    sharpness: Sharpness | None = None


@dataclass
class _Face:
    """A face to generate in a frame, and the networks' output for it, which `_spoken` sets.

    weight: share of the generated face in the paste. light: grey level of the face in the frame.
    brightening: factor of `job.crop` to the frame, blur: of the face in the frame; `_spoken` sets them.
    """

    person: int
    job: FaceJob
    place: Place
    landmarks: np.ndarray
    crop: np.ndarray
    light: float
    weight: float
    covered: Covered | None = None
    brightening: float = field(init=False, default=1.0)
    blur: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    made: np.ndarray = field(init=False, repr=False)
    heatmap: np.ndarray = field(init=False, repr=False)


@dataclass
class _Frame:
    """A frame on its way through the stages; `_pasted` sets its result."""

    picture: np.ndarray
    faces: list[_Face] = field(default_factory=list)
    result: np.ndarray = field(init=False, repr=False)


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
        InputError: an input cannot be used, no frame shows a face to dub, or the output cannot be written; no file is
            left behind.
    """
    options, clock = options or DubOptions(), clock or Clock()
    if options.protocol == "authors":
        options = dataclasses.replace(options, **_AUTHORS)
    prepared, video = (video, video.video) if isinstance(video, Prepared) else (None, video)
    _check_options(video, audio, output, speaker, options)
    info, most = _probed(video, options), speaker.most
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

    known = _people_of_references(options, clock)
    source, scene = _tracked(video, info, fps, limit, options, clock, prepared)
    length, spoken = output_length(spoken, scene.frames, options)
    dubbed = [row if k < spoken else [] for k, row in enumerate(_dubbed_people(scene, video, options))]
    if options.missing_face == "error":
        _refuse_gaps(scene, dubbed, min(spoken, scene.frames), video, fps)
    people = list({id(person): person for row in dubbed for person in row}.values())
    motions = _motions(people, dubbed, scene, length, options, speaker.crop)
    faceless = [all(m.first[k] < 0 for m in motions) for k in range(spoken)]
    if all(faceless):
        seconds = float(spoken / fps)
        raise InputError(f"video {video} shows no face to dub in {seconds:.2f} s; choose another part or person")
    covers = _covers(source, scene, people, spoken, speaker, options, clock, prepared)
    with clock.time("references"):
        references = _references(source, people, covers, known, speaker, options, prepared)

    depth = int(np.clip(_QUEUED // (3 * info.width * info.height), 1, 32))
    decoded = clock.iterate("decode", source.play(length, options.when_short))
    count = Counter(covered=0, passed=0)
    frames = background(_with_jobs(decoded, motions, covers, fps, speaker, clock, count=count), depth)
    frames = background(_spoken(frames, speaker, references, features, options.batch_size, clock), depth)
    frames = background(_pasted(frames, references, speaker.crop, options, clock), depth)
    sound = sound_parts(audio, video, length, spoken, fps, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(frames))
        write = _writers(stack, info, fps, sound, output, speaker.crop, options, length)
        for frame in _progress(frames, length, "dubbing", options):
            with clock.time("encode"):
                write(frame)
    spans = [(start / fps, end / fps) for start, end in _spans(faceless)]
    untouched = [(float(start), float(end)) for start, end in spans]
    unkept = info.frame_rate if options.keep_fps and watchable(info.frame_rate) != info.frame_rate else None
    notes = (*sorted(source.changes), *_filled(info), *_silence(audio, own, options), *_halved(most, speaker))
    notes += _before_mouths(count, covers, options)
    notes += (*_mouths_beyond(scene, dubbed, spoken, options), *_strangers(people, known, options))
    kept = float((length - spoken) / fps)
    size = stored_size(info.width, info.height)
    return Summary(Path(output), length, fps, *size, untouched, unkept, unprepared, notes, kept, *count.values())


def _probed(video: str | os.PathLike, options: DubOptions) -> VideoInfo:
    check_lengths(options)
    info = probe(video)
    if options.face_at is not None and not (options.face_at[0] < info.width and options.face_at[1] < info.height):
        point = ",".join(map(str, options.face_at))
        raise InputError(f"--face-at {point} lies outside of {video}, {info.width}x{info.height}; give a point in it")
    return info


def _halved(before: int | None, speaker: Speaker) -> list[str]:
    """What the summary says of a GPU whose memory became full during the dub."""
    if speaker.most == before:
        return []
    return [f"the GPU's memory was full: batches of {speaker.most}; give --batch-size {speaker.most} or less"]


def _filled(info: VideoInfo) -> list[str]:
    """What the summary says of a video of odd width or height."""
    odd = [name for name, side in (("column", info.width), ("row", info.height)) if side % 2]
    if not odd:
        return []
    repeats = "repeats" if len(odd) == 1 else "repeat"
    return [f"{info.width}x{info.height} filled up to even sides: the last {' and '.join(odd)} {repeats}"]


def _mouths_beyond(scene: Scene, dubbed: list[list[Person]], spoken: int, options: DubOptions) -> list[str]:
    """What the summary says of frames in which a mouth lies beyond the border of the picture."""
    chosen = choose(scene, options.face, options.face_at)
    beyond = np.array([len(everyone) > len(row) for everyone, row in zip(chosen, dubbed, strict=True)])
    count = int(beyond[source_index(np.arange(spoken), scene.frames, options.when_short)].sum())
    return [f"{count} frames show a face whose mouth is outside the picture, and leave it"] if count else []


def _strangers(people: list[Person], known: tuple[Source, list[Person]] | None, options: DubOptions) -> list[str]:
    """What the summary says of reference frames that seem to show somebody else."""
    if known is None:
        return []
    strangers = [person for person in people if min(unlike(person, other) for other in known[1]) > _STRANGER]
    if not strangers:
        return []
    whom = "the person who is dubbed" if len(people) == 1 else f"{len(strangers)} of the {len(people)} people"
    return [f"warning: nobody in references {options.references} looks like {whom}; give frames of the same person"]


def _silence(audio: str | os.PathLike, wav: np.ndarray, options: DubOptions) -> list[str]:
    """What the summary says of a silent sound track beside another with sound."""
    other = track_with_sound(audio, wav, options.audio_track)
    if other is None:
        return []
    return [f"the sound track taken of {audio} is silent, its track {other} is not: --audio-track {other}"]


def _before_mouths(count: Counter[str], covers: list[Cover | None], options: DubOptions) -> tuple[str, ...]:
    """What the summary says of frames in which something is before a dubbed mouth."""
    if not count["covered"]:
        return ()
    found = [f"something before the mouth in {count['covered']} frames, {count['passed']} of them left as they were"]
    if options.references is None and not all(cover is None or cover.bare.any() for cover in covers):
        found.append("no frame shows the bare mouth: give --references")
    return tuple(found)


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
    info = _probed(video, options)
    prepared = Prepared.of(video, info, options)
    source, scene = _tracked(video, info, prepared.fps, sys.maxsize, options, clock, prepared)
    people = list({id(person): person for row in _dubbed_people(scene, video, options) for person in row}.values())
    for speaker in speakers:
        covers = _covers(source, scene, people, scene.frames, speaker, options, clock, prepared)
        _references(source, people, covers, None, speaker, dataclasses.replace(options, detail=False), prepared)
    return prepared


@dataclass
class Cast:
    """A video's people, ready to be dubbed; `dubbed` lists them for each frame of the scene."""

    source: Source
    scene: Scene
    dubbed: list[list[Person]]
    people: list[Person]
    covers: list[Cover | None]
    references: list[_References]

    def motions(self, length: int, options: DubOptions, form: CropForm) -> list[Motion]:
        """The people's motions in an output of `length` frames."""
        return _motions(self.people, self.dubbed, self.scene, length, options, form)


def cast(prepared: Prepared, speaker: Speaker, options: DubOptions) -> Cast:
    """The people that the options choose, with their references; InputError where the video shows no face."""
    clock = Clock()
    info = _probed(prepared.video, options)
    source, scene = _tracked(prepared.video, info, prepared.fps, sys.maxsize, options, clock, prepared)
    dubbed = _dubbed_people(scene, prepared.video, options)
    people = list({id(person): person for row in dubbed for person in row}.values())
    covers = _covers(source, scene, people, scene.frames, speaker, options, clock, prepared)
    references = _references(source, people, covers, None, speaker, options, prepared)
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
) -> Iterator[_Frame]:
    """Yield `frames` of the source, the output's from `start` on at 25 frames a second, with their `result`.

    `known` holds, for each person, what the speaker keeps between batches.
    """
    clock = Clock()
    jobs = _with_jobs(frames, motions, of.covers, Fraction(FPS), speaker, clock, start)
    spoken = _spoken(jobs, speaker, of.references, features, options.batch_size, clock, known)
    return _pasted(spoken, of.references, speaker.crop, options, clock)


def _tracked(
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
    limit = min(limit, part)
    source = Source(video, fps, start=first)
    scene = prepared.known(limit) if prepared else None
    if scene is not None:
        source.skip_scan(scene.frames, 3 * info.width * info.height)
        return source, scene
    scene = _observe(source, limit, info.duration - options.start, options, clock, "tracking")
    if prepared:
        prepared.scene, prepared.limit, prepared.covers = scene, limit, {}
    return source, scene


def _sound_features(wav: np.ndarray, speaker: Speaker) -> np.ndarray:
    return sound_features(wav, speaker.audio, str(speaker.device), speaker.ear)


def _part(info: VideoInfo, fps: Fraction, options: DubOptions) -> tuple[int, int]:
    """The part of the video between `start` and `end`: its first frame, and the most frames that it can have."""
    check_lengths(options)
    check_start(info, options.start)
    first = round(options.start * fps)
    return first, sys.maxsize if options.end is None else max(1, round(options.end * fps) - first)


def _check_options(
    video: str | os.PathLike, audio: str | os.PathLike, output: str | os.PathLike, speaker: Speaker, options: DubOptions
) -> None:
    wanted = (output, options.visualize, options.crop_output, options.source_crop_output, options.heatmap_output)
    inputs = (video, audio, options.voice, options.references)
    if options.protocol == "authors":
        check_lossless([options.crop_output, options.source_crop_output])
    _check_outputs([Path(path) for path in wanted if path is not None], [path for path in inputs if path is not None])
    if options.heatmap_output is not None and not speaker.predicts_heatmaps:
        raise InputError(
            f"--heatmap-output {options.heatmap_output}: the checkpoint's network predicts none (G4G); leave it out"
        )


def _check_outputs(outputs: list[Path], inputs: list[str | os.PathLike]) -> None:
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


def _observe(source: Source, limit: int, seconds: float, options: DubOptions, clock: Clock, title: str) -> Scene:
    total = min(limit, round(seconds * source.fps)) or None
    frames = background(clock.iterate("decode, first pass", source.scan(limit)), 4)
    with contextlib.closing(frames):
        return observe(_progress(frames, total, title, options), options.workers, clock)


def _progress(frames: Iterator, total: int | None, title: str, options: DubOptions) -> Iterable:
    return (
        frames if options.progress is None else options.progress(frames, title, total, unit="frame", dynamic_ncols=True)
    )


def _dubbed_people(scene: Scene, video: str | os.PathLike, options: DubOptions) -> list[list[Person]]:
    if not scene.people:
        raise InputError(f"video {video} shows no face that can be dubbed; give one with a face turned to the camera")
    dubbed = choose(scene, options.face, options.face_at)
    for person in {id(person): person for row in dubbed for person in row}.values():
        for position in np.flatnonzero(without_mouth(person)):
            frame = person.frames[position]
            dubbed[frame] = [other for other in dubbed[frame] if other is not person]
    return dubbed


def _refuse_gaps(scene: Scene, dubbed: list[list[Person]], shown: int, video: str | os.PathLike, fps: Fraction) -> None:
    gaps = _spans([not row for row in dubbed[:shown]])
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


def _people_of_references(options: DubOptions, clock: Clock) -> tuple[Source, list[Person]] | None:
    """The video to take reference frames from, and the people in it; None if that is the source itself."""
    if options.references is None:
        return None
    info = probe(options.references)
    source = Source(options.references, FPS)
    scene = _observe(source, SCANNED * FPS, info.duration, options, clock, "references")
    if not scene.people:
        raise InputError(f"references video {options.references} shows no face; give one of the person to dub")
    return source, scene.people


def _covers(
    source: Source,
    scene: Scene,
    people: list[Person],
    dubbed: int,
    speaker: Speaker,
    options: DubOptions,
    clock: Clock,
    prepared: Prepared | None,
) -> list[Cover | None]:
    """What covers each person's face in the first `dubbed` frames, and in some of the others; None if that is ignored.

    Of a prepared person it is kept, for all frames.
    """
    if options.occlusion == "ignore":
        return [None] * len(people)
    if prepared is None:
        return _with_references(examine(source, people, scene.cuts, dubbed, speaker.device, clock), options)
    whole = prepared.scene
    assert whole is not None
    numbers = [i for i, person in enumerate(whole.people) if person.frames[0] < scene.frames]  # as in `scene`
    numbers = [numbers[next(i for i, other in enumerate(scene.people) if other is person)] for person in people]
    new = [number for number in numbers if number not in prepared.covers]
    if new and scene.frames < whole.frames:
        source = Source(source.path, source.fps, start=source.start)
        source.skip_scan(whole.frames, 1)
    found = examine(source, [whole.people[i] for i in new], whole.cuts, whole.frames, speaker.device, clock)
    prepared.covers.update(zip(new, found, strict=True))
    return _with_references([prepared.covers[number] for number in numbers], options)


def _with_references(covers: list[Cover], options: DubOptions) -> list[Cover | None]:
    """`covers`, in which the frames of people without usable references pass."""
    return [cover if options.references else cover.without_references() for cover in covers]


def _references(
    source: Source,
    people: list[Person],
    covers: list[Cover | None],
    known: tuple[Source, list[Person]] | None,
    speaker: Speaker,
    options: DubOptions,
    prepared: Prepared | None,
) -> list[_References]:
    """Choose each person's reference frames by `options.reference_choice` and encode them.

    They come from the source, or from a video of references if `known` is one. There, a single person takes the face
    with the largest total area. Several people take the faces that look like theirs; those without a match take
    references from the source.
    """
    if known is None:
        pairs = zip(people, covers, strict=True)
        return [_encoded_references(source, person, cover, speaker, options, prepared) for person, cover in pairs]
    other, others = known
    found: list[Person | None]
    if len(people) == 1:
        found = [max(others, key=lambda person: sum(person.area(i) for i in range(len(person.frames))))]
    else:
        found = recognise(people, others)
    shown = []
    for person, cover, same in zip(people, covers, found, strict=True):
        if same is None:
            shown.append((source, person, cover))
        elif cover is None:
            shown.append((other, same, None))
        else:
            shown.append((other, same, examine(other, [same], [], 0, speaker.device, Clock())[0]))
    return [_encoded_references(*where, speaker, options, None) for where in shown]


def _encoded_references(
    source: Source,
    person: Person,
    cover: Cover | None,
    speaker: Speaker,
    options: DubOptions,
    prepared: Prepared | None,
) -> _References:
    level = options.protocol != "authors"
    faces, form, lights = person.in_crops(speaker.crop, level), speaker.crop, np.array(person.lights)
    if not level:
        lights[:] = np.nan
    bare = np.isin(np.arange(len(faces)), cover.usable(person.frames)) if cover else np.ones(len(faces), bool)
    sure = ~np.isin(person.frames, list(person.unsure))
    whole = person.inside(np.arange(len(ORDER))) > _WHOLE
    usable = _those_of(bare, well_lit(lights), sure, whole)
    chosen = usable[_chosen(faces[usable], speaker, options)]
    target = usual(lights[chosen])
    kept, key = {}, ""
    if prepared:
        kept, key = prepared.encoded.setdefault(speaker.fingerprint, {}), reference_key(person, chosen)
        if key in kept and not options.detail:
            return _References(speaker.restored(kept[key]), None, target)
    images, candidates = {}, {}
    for i in set(chosen.tolist()):
        frame, place = source.frame(person.frames[i]), form.place(person.points[i], level=level)
        factor = brightening(person.lights[i], target)
        images[i] = brightened(crop_face(frame, place, form.shape), factor)
        if options.detail:
            candidates[i] = candidate(frame, place, images[i], form, factor)
    if key in kept:
        encoded = speaker.restored(kept[key])
    else:
        encoded = speaker.encode(np.stack([images[i] for i in chosen]), faces[chosen])
        if prepared:
            kept[key] = speaker.state(encoded)
    known = sharpness([images[i] for i in chosen], form) if level else None
    return _References(encoded, [candidates[i] for i in chosen] if options.detail else None, target, known)


def _chosen(faces: np.ndarray, speaker: Speaker, options: DubOptions) -> np.ndarray:
    """The reference frames among `faces` (F, 131, 2)."""
    if options.reference_choice == "cover":
        return covering_references(faces, speaker.references)
    return choose_references(lip_opening(faces), speaker.references, options.reference_choice == "truncated")


def _those_of(*wishes: np.ndarray) -> np.ndarray:
    """Indices of the frames that meet all `wishes` (F,) bool; a wish that none of those left meets is dropped."""
    usable = np.ones(len(wishes[0]), bool)
    for wish in wishes:
        if (usable & wish).any():
            usable &= wish
    return np.flatnonzero(usable)


def _with_jobs(
    frames: Iterator[tuple[int, np.ndarray]],
    motions: list[Motion],
    covers: list[Cover | None],
    fps: Fraction,
    speaker: Speaker,
    clock: Clock,
    start: int = 0,
    count: Counter[str] | None = None,
) -> Generator[_Frame, None, None]:
    """Yield each frame of the output, from `start` on, with the faces to generate in it.

    `count` receives the number of frames with a "covered" face, and of those whose covered faces "passed".
    """
    offsets = np.arange(speaker.window) - speaker.window // 2
    for k, (index, picture) in enumerate(frames, start):
        frame, before = _Frame(picture), []
        with clock.time("crop"):
            for number, (m, cover) in enumerate(zip(motions, covers, strict=True)):
                if m.first[k] < 0:
                    continue
                covered = cover.at(index) if cover else None
                if covered:
                    before.append(covered)
                if covered is None or covered.strength:
                    frame.faces.append(_face(number, m, k, picture, offsets, fps, speaker.crop))
                    frame.faces[-1].covered = covered
        if count is not None and any(each.visible or not each.strength for each in before):
            count["covered"] += 1
            count["passed"] += any(not each.strength for each in before)
        yield frame


def _face(
    number: int,
    m: Motion,
    k: int,
    picture: np.ndarray,
    offsets: np.ndarray,
    fps: Fraction,
    form: CropForm,
) -> _Face:
    row = m.rows[k]
    # The window's frames are 1/25 s apart whatever the output's rate; it ends where the run of frames does.
    window = np.clip(k + np.rint(offsets * float(fps / FPS)).astype(int), m.first[k], m.last[k])
    places = _places(window, fps)
    if fps != FPS:
        first, centre, last = _places(np.array([m.first[k], k, m.last[k]]), fps)
        places = np.clip(centre + offsets, first, last)
    poses = np.stack([m.places[r].to_crop(m.landmarks[r]) for r in m.rows[window]])
    crop = crop_face(picture, m.places[row], form.shape)
    job = FaceJob(crop, window, places, poses)
    return _Face(number, job, m.places[row], m.landmarks[row], crop, m.lights[row], m.weights[k])


def _places(frames: np.ndarray, fps: Fraction) -> np.ndarray:
    """Positions of the output frames' midpoints on the 25 fps timeline, in frames of that timeline."""
    return frames if fps == FPS else (frames + 0.5) * float(FPS / fps) - 0.5


def _spoken(
    frames: Generator[_Frame, None, None],
    speaker: Speaker,
    references: list[_References],
    features: np.ndarray,
    batch_size: int,
    clock: Clock,
    known: list[dict] | None = None,
) -> Generator[_Frame, None, None]:
    """Yield the frames with their faces generated, in batches of `batch_size` frames."""
    known = [{} for _ in references] if known is None else known
    with contextlib.closing(frames):
        while batch := list(itertools.islice(frames, batch_size)):
            for number, person in enumerate(references):
                faces = [face for frame in batch for face in frame.faces if face.person == number]
                for face in faces:
                    face.brightening = brightening(face.light, person.light)
                    face.job.crop = brightened(face.crop, face.brightening)
                    if person.sharpness is not None:
                        face.blur = person.sharpness.blur(face.job.crop)
                if faces:
                    with clock.time("networks"):
                        jobs = [face.job for face in faces]
                        made, heatmaps = speaker.speak_in_memory(jobs, person.encoded, features, known[number])
                    for face, image, heatmap in zip(faces, made, heatmaps, strict=True):
                        face.made, face.heatmap = image, heatmap
            yield from batch


def _pasted(
    frames: Generator[_Frame, None, None],
    references: list[_References],
    form: CropForm,
    options: DubOptions,
    clock: Clock,
) -> Iterator[_Frame]:
    with contextlib.closing(frames):
        for frame in frames:
            frame.result = frame.picture
            for face in frame.faces:
                if options.protocol == "authors":
                    with clock.time("paste"):
                        frame.result = paste_whole(frame.result, face.made, face.place, face.landmarks)
                    continue
                with clock.time("paste"):
                    made = match_colour(face.made, face.job.crop, form)
                candidates = references[face.person].candidates
                if candidates is not None:
                    with clock.time("detail"):
                        own = candidate(frame.picture, face.place, face.job.crop, form, face.brightening)
                        lips = face.place.to_crop(face.landmarks[LIP_POINTS])
                        made = add_detail(made, own, lips, candidates, face.job.flow, form)
                with clock.time("paste"):
                    made = brightened(blurred(made, face.blur), 1 / face.brightening)
                    strength, visible = (face.covered.strength, face.covered.visible) if face.covered else (1.0, None)
                    share = strength * face.weight
                    frame.result = paste_face(frame.result, made, face.place, face.landmarks, form, share, visible)
            yield frame


def _writers(
    stack: contextlib.ExitStack,
    info: VideoInfo,
    fps: Fraction,
    sound: list[SoundPart],
    output: str | os.PathLike,
    form: CropForm,
    options: DubOptions,
    length: int,
) -> Callable[[_Frame], None]:
    """Open the output and the optional videos; the function returned writes a frame to each, `length` in all.

    The output is opened last and so closed first: if closing it fails, the others are not left behind.
    """
    seconds = None if options.length == "sound" and len(sound) == 1 else float(length / fps)
    exact = options.protocol == "authors"
    opening = functools.partial(VideoWriter, fps=fps, sound=sound, duration=seconds, crf=0 if exact else CRF)
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
        opening(output, info.width, info.height, pixel_aspect=info.pixel_aspect, colour=info.colour)
    )
    writes.append(lambda frame: opened.write(frame.result))

    def write(frame: _Frame) -> None:
        for each in writes:
            each(frame)

    return write


def _shown(frame: _Frame, form: CropForm) -> tuple[np.ndarray, np.ndarray]:
    """The heatmap and the generated crop of a frame's first face; both black if there is none."""
    if frame.faces:
        return frame.faces[0].heatmap, frame.faces[0].made
    return np.zeros((form.guidance, form.guidance), np.float32), np.zeros((*form.shape, 3), np.uint8)


def _spans(flags: list[bool]) -> list[tuple[int, int]]:
    """The stretches [start, stop) of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
