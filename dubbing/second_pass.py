"""The stages of the second pass: crops, generated faces, pasted frames."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from dubbing.blur import blurred
from dubbing.detail import Candidate, add_detail, own_candidate
from dubbing.light import brightened, brightening, shade
from dubbing.motion import Motion
from dubbing.occlusion import Cover, Covered
from dubbing.options import DubOptions
from dubbing.paste import match_colour, paste_face, paste_whole
from dubbing.reference_frames import ReferenceFrames
from dubbing.speaker import FaceJob, Speaker
from media.crop import CropForm
from media.heatmap import LIP_POINTS
from media.landmarks import select131
from media.place import Place, crop_face
from media.stages import Clock
from media.timeline import FPS


@dataclass
class DubbedFace:
    """A face to generate in a frame, and the networks' output for it, which `with_faces` sets.

    weight: share of the generated face in the paste. light: grey level of the face in the frame.
    brightening: factor of `job.crop` to the frame, blur: of the face in the frame; `with_faces` sets them.
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
class DubbedFrame:
    """A frame on its way through the stages; `pasted` sets its result."""

    picture: np.ndarray
    faces: list[DubbedFace] = field(default_factory=list)
    result: np.ndarray = field(init=False, repr=False)


def with_jobs(
    frames: Iterator[tuple[int, np.ndarray]],
    motions: list[Motion],
    covers: list[Cover | None],
    fps: Fraction,
    speaker: Speaker,
    clock: Clock,
    start: int = 0,
    count: Counter[str] | None = None,
) -> Generator[DubbedFrame, None, None]:
    """Yield each frame of the output, from `start` on, with the faces to generate in it.

    `count` receives the number of frames with a "covered" face, and of those whose covered faces "passed".
    """
    offsets = np.arange(speaker.window) - speaker.window // 2
    for k, (index, picture) in enumerate(frames, start):
        frame, before = DubbedFrame(picture), []
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
) -> DubbedFace:
    row = m.rows[k]
    # The window's frames are 1/25 s apart whatever the output's rate; it ends where the run of frames does.
    window = np.clip(k + np.rint(offsets * float(fps / FPS)).astype(int), m.first[k], m.last[k])
    places = _places(window, fps)
    if fps != FPS:
        first, centre, last = _places(np.array([m.first[k], k, m.last[k]]), fps)
        places = np.clip(centre + offsets, first, last)
    poses = m.poses[m.rows[window]]
    crop = crop_face(picture, m.places[row], form.shape)
    job = FaceJob(crop, window, places, poses)
    return DubbedFace(number, job, m.places[row], m.landmarks[row], crop, m.lights[row], m.weights[k])


def _places(frames: np.ndarray, fps: Fraction) -> np.ndarray:
    """Positions of the output frames' midpoints on the 25 fps timeline, in frames of that timeline."""
    return frames if fps == FPS else (frames + 0.5) * float(FPS / fps) - 0.5


def with_faces(
    frames: Generator[DubbedFrame, None, None],
    speaker: Speaker,
    references: list[ReferenceFrames],
    features: np.ndarray,
    batch_size: int,
    clock: Clock,
    known: list[dict] | None = None,
) -> Generator[DubbedFrame, None, None]:
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


def lenders(candidates: list[Candidate], job: FaceJob) -> list[Candidate]:
    """The candidates of the references that the job's flow is of."""
    return candidates if job.chosen is None else [candidates[which] for which in job.chosen]


def pasted(
    frames: Generator[DubbedFrame, None, None],
    references: list[ReferenceFrames],
    form: CropForm,
    options: DubOptions,
    clock: Clock,
) -> Iterator[DubbedFrame]:
    with contextlib.closing(frames):
        for frame in frames:
            frame.result = frame.picture
            for face in frame.faces:
                if options.protocol == "authors":
                    with clock.time("paste"):
                        frame.result = paste_whole(frame.result, face.made, face.place, face.landmarks)
                else:
                    frame.result = _with_face(frame, face, references[face.person].candidates, form, clock)
            yield frame


def _with_face(
    frame: DubbedFrame, face: DubbedFace, candidates: list[Candidate] | None, form: CropForm, clock: Clock
) -> np.ndarray:
    """`frame.result` with `face` in the frame's light and colours; detail comes from `candidates`, unless None."""
    strength, visible = (face.covered.strength, face.covered.visible) if face.covered else (1.0, None)
    points, crop = face.place.to_crop(select131(face.landmarks)), face.job.crop
    gain: float | np.ndarray = face.brightening
    with clock.time("colour"):
        made = match_colour(face.made, crop, form)
        if visible is None:  # else what covers the cheeks would count as their light
            shaded = shade(made, face.crop, face.brightening, points, form.hidden_pixels[0].start)
            if shaded is not None:
                gain = face.brightening / shaded
                crop = brightened(face.crop, gain)
    if candidates is not None:
        with clock.time("detail"):
            own = own_candidate(frame.picture, face.place, crop, form, gain)
            made = add_detail(made, own, points[LIP_POINTS], lenders(candidates, face.job), face.job.flow, form)
    with clock.time("paste"):
        made = brightened(blurred(made, face.blur), 1 / gain)
        share = strength * face.weight
        return paste_face(frame.result, made, face.place, face.landmarks, form, share, visible)
