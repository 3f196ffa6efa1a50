"""Finds who speaks: the person whose mouth follows the video's own sound, stretch by stretch, by a lip-sync expert."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from dubbing.options import DubOptions
from dubbing.people import Person, Scene
from dubbing.source import Source
from dubbing.speaker import Speaker
from media.audio import SAMPLE_RATE
from media.errors import InputError
from media.sound import read_audio
from media.timeline import FPS
from metrics.sync import ExpertEmbeddings
from models.checkpoint import load_sync_expert
from models.sync_expert import FRAMES, SyncExpert

# A person with a lower mean score does not speak. A score is a similarity minus its median over shifts of the sound.
# The median score of two-second stretches of people outside the training is 0.56, with another sound 0.04.
_NOBODY = 0.15
_CHANGE = 1.0  # s of `_NOBODY`: what a change of the speaker costs; pauses of up to twice as long are bridged


def expert_for(speaker: Speaker, options: DubOptions) -> SyncExpert | None:
    """The sync expert of `options.expert`, or of the speaker's checkpoint; None if the options need none.

    Raises:
        InputError: there is no such expert.
    """
    if options.face != "speaking" or options.face_at is not None:
        return None
    folder = options.expert or speaker.folder
    if options.expert is None and not (folder and Path(folder, "sync_expert.safetensors").is_file()):
        raise InputError(
            f"--face speaking needs a sync expert, which checkpoint {folder} lacks; give --expert DIR (train_sync.py), "
            f"or another --face"
        )
    assert folder is not None
    return load_sync_expert(folder).to(speaker.device)


def speaking(
    source: Source, scene: Scene, expert: SyncExpert, options: DubOptions, frames: Iterable[tuple[int, np.ndarray]]
) -> list[list[Person]]:
    """For each frame of the scene, the person who speaks, or nobody.

    Args:
        source: the video.
        frames: the scene's, each with its index.

    Raises:
        InputError: the video has no sound, or no mouth follows it.
    """
    try:
        wav = read_audio(source.path)
    except InputError as error:
        raise InputError(
            f"--face speaking: {source.path} has no sound that a mouth could follow; choose with --face or --face-at"
        ) from error
    wav = wav[round(options.start * SAMPLE_RATE) :]
    found = evidence(frames, scene, expert, wav, Fraction(source.fps))
    owners = most_likely(found, scene.cuts, Fraction(source.fps))
    if (owners < 0).all():
        raise InputError(
            f"--face speaking: no mouth in {source.path} follows its sound; choose a person with --face or --face-at"
        )
    return [[scene.people[owner]] if owner >= 0 else [] for owner in owners]


def evidence(
    frames: Iterable[tuple[int, np.ndarray]], scene: Scene, expert: SyncExpert, wav: np.ndarray, fps: Fraction
) -> np.ndarray:
    """How much each person's mouth follows the sound in each frame: (people, frames) float64.

    The similarity of lips and sound minus its median over shifts of the sound, of the window around the frame; 0 where
    fewer than five frames in a row show the person, -inf in frames without them.
    """
    moments = _moments(scene.frames, fps)
    found = np.full((len(scene.people), scene.frames), -np.inf)
    seen = [dict(zip(person.frames, person.points, strict=True)) for person in scene.people]
    for person, points in zip(found, seen, strict=True):
        person[list(points)] = 0.0
    judges: list[ExpertEmbeddings | None] = [None] * len(seen)
    judged: list[tuple[int, ExpertEmbeddings]] = []
    for index, frame in frames:
        for i, points in enumerate(seen):
            if index not in points:
                judges[i] = None
                continue
            judge = judges[i]
            for moment in moments[index]:
                if judge is None:
                    judge = judges[i] = ExpertEmbeddings(expert, str(next(expert.parameters()).device))
                    judged.append((i, judge))
                judge.add(moment, frame, points[index])
    middles = np.concatenate([np.full(len(each), index) for index, each in enumerate(moments)])
    features = judged[0][1].features_of(wav) if judged else None
    for i, judge in judged:
        first, curves = judge.curves(wav, features)
        if not len(curves):
            continue
        own = curves[:, curves.shape[1] // 2] - np.median(curves, axis=1)
        # The windows' middles; both ends of a run have those of the windows nearest to them.
        spread = np.pad(own, FRAMES // 2, mode="edge")
        found[i, middles[first : first + len(spread)]] = spread
    return found


def _moments(frames: int, fps: Fraction) -> list[list[int]]:
    """The frames of a 25 fps timeline that each of `frames` frames is shown in: its own, if the video has 25 fps."""
    count = max(1, int(frames * FPS / fps))
    shown: list[list[int]] = [[] for _ in range(frames)]
    for moment in range(count):
        shown[min(int(moment * fps / FPS), frames - 1)].append(moment)
    return shown


def most_likely(found: np.ndarray, cuts: list[int], fps: Fraction) -> np.ndarray:
    """Who speaks in each frame, (frames,) index of a person or -1, by dynamic programming over `evidence`.

    The path has the largest sum of evidence, of which nobody has `_NOBODY` in each frame, minus a cost for each change
    that lies at no cut.
    """
    people, frames = found.shape
    gains = np.concatenate([np.full((1, frames), _NOBODY), found])
    cost = _CHANGE * float(fps) * _NOBODY
    best, before = gains[:, 0], np.zeros((frames, people + 1), int)
    for frame in range(1, frames):
        change = 0.0 if frame in cuts else cost
        top = int(best.argmax())
        moved = best[top] - change > best
        before[frame] = np.where(moved, top, np.arange(people + 1))
        best = np.where(moved, best[top] - change, best) + gains[:, frame]
    path = [int(best.argmax())]
    for frame in range(frames - 1, 0, -1):
        path.append(int(before[frame, path[-1]]))
    return np.array(path[::-1]) - 1
