"""Chooses the reference frames of the people to dub and encodes them; finds what covers the people's faces."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dubbing.blur import Sharpness, sharpness
from dubbing.detail import Candidate, candidate
from dubbing.first_pass import SCANNED, observed
from dubbing.light import brightened, brightening, usual, well_lit
from dubbing.occlusion import Cover, examine
from dubbing.options import DubOptions
from dubbing.people import Person, Scene, recognise
from dubbing.prepared import Prepared, reference_key
from dubbing.source import Source
from dubbing.speaker import Speaker
from media.errors import InputError
from media.heatmap import ORDER
from media.place import crop_face
from media.references import choose_references, covering_references, lip_opening
from media.stages import Clock
from media.timeline import FPS
from media.video import probe

_WHOLE = 0.97  # share of the landmarks that a reference shows within the picture


@dataclass
class ReferenceFrames:
    """A person's reference frames: `Speaker.encode`'s result, and where the dub adds detail, the frames' own.

    light: grey level to which the references and the faces to dub are brought. sharpness: None if it is not known.
    """

    encoded: Any
    candidates: list[Candidate] | None
    light: float
    sharpness: Sharpness | None = None


def people_of_references(options: DubOptions, clock: Clock) -> tuple[Source, list[Person]] | None:
    """The video to take reference frames from, and the people in it; None if that is the source itself."""
    if options.references is None:
        return None
    info = probe(options.references)
    source = Source(options.references, FPS)
    scene = observed(source, SCANNED * FPS, info.duration, options, clock, "references")
    if not scene.people:
        raise InputError(f"references video {options.references} shows no face; give one of the person to dub")
    return source, scene.people


def covers_of(
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

    A prepared person keeps what is found, for all frames.
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


def references_of(
    source: Source,
    people: list[Person],
    covers: list[Cover | None],
    known: tuple[Source, list[Person]] | None,
    speaker: Speaker,
    options: DubOptions,
    prepared: Prepared | None,
) -> list[ReferenceFrames]:
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
) -> ReferenceFrames:
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
            return ReferenceFrames(speaker.restored(kept[key]), None, target)
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
    return ReferenceFrames(encoded, [candidates[i] for i in chosen] if options.detail else None, target, known)


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
