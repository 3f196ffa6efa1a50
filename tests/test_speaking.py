"""`--face speaking`: who speaks, by drawn mouths and an expert that is right by construction, and by the bundled."""

import dataclasses
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from media_files import write_sound
from test_offsets import LoudMouth
from training_runs import write_clips

from data_prep.clips import Clip
from dubbing import DubOptions
from dubbing.first_pass import chosen_people, tracked_scene
from dubbing.people import Person, Scene
from dubbing.speaking import _NOBODY, evidence, expert_for, most_likely, speaking
from media.audio import SAMPLE_RATE
from media.errors import InputError
from media.heatmap import LIP_POINTS
from media.stages import Clock
from media.video import VideoWriter, probe, read_frames
from models.checkpoint import load_sync_expert, save_checkpoint
from models.sync_expert import SyncExpert, SyncExpertConfig

DEMO = Path(__file__).resolve().parent.parent / "checkpoints" / "demo"
RATE = Fraction(25)


def noisy(means: np.ndarray, seed: int = 0) -> np.ndarray:
    return means + np.random.default_rng(seed).normal(0, 0.2, means.shape)


def test_the_speaker_changes_between_sentences_and_keeps_pauses():
    means = np.zeros((2, 300))
    means[0, :60] = means[0, 90:150] = means[1, 150:280] = 0.4  # a pause of 1.2 s in the first one's speech
    owners = most_likely(noisy(means), [0], RATE)
    assert (owners[10:140] == 0).all() and (owners[160:270] == 1).all()
    assert set(owners[140:160]) == {0, 1} and np.count_nonzero(np.diff(owners)) <= 2


def test_a_listener_and_a_cut_away_are_nobodys():
    means = np.full((2, 300), -np.inf)
    means[0, :100] = means[0, 150:] = 0.4
    means[1, 100:150] = 0.0  # shown while the other one goes on
    owners = most_likely(noisy(means), [0, 100, 150], RATE)
    assert (owners[:100] == 0).all() and (owners[100:150] == -1).all() and (owners[150:] == 0).all()
    silent = most_likely(noisy(np.zeros((2, 300))), [0], RATE)
    assert (silent == -1).all()
    assert (most_likely(np.full((1, 60), _NOBODY + 0.1), [0], RATE) == 0).all()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Scene, list[np.ndarray], np.ndarray]:
    """Two drawn people side by side in 75 frames, and sound as loud as the right one's mouth is open."""
    clips = [Clip(path) for path in sorted(write_clips(tmp_path_factory.mktemp("two"), frames=75).glob("clip_*"))]
    faces = [clip.faces(range(len(clip))) for clip in clips]
    frames = [np.concatenate(pair, axis=1) for pair in zip(*faces, strict=True)]
    people = [
        Person(list(range(75)), [points - 10 + [128 * i, 0] for points in clip.points], [np.zeros(4)] * 75, [1.0] * 75)
        for i, clip in enumerate(clips)
    ]
    opening = np.array([np.ptp(points[:, 1]) for points in clips[1].landmarks[:, LIP_POINTS]])
    envelope = np.interp(np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE, (np.arange(75) + 0.5) / 25, opening)
    wav = (np.random.default_rng(0).normal(0, 1, 3 * SAMPLE_RATE) * 10 ** (envelope * 12 - 3)).astype(np.float32)
    return Scene(people, [0], 75), frames, wav


def test_the_mouth_that_follows_the_sound_has_the_evidence(drawn):
    scene, frames, wav = drawn
    found = evidence(enumerate(frames), scene, LoudMouth(), wav, RATE)
    assert found.shape == (2, 75) and np.isfinite(found).all()
    assert found[1].mean() > found[0].mean() + 0.2
    assert (most_likely(found, [0], RATE) == 1).mean() > 0.9


def test_frames_at_another_rate_and_gaps_have_evidence_of_their_moments(drawn):
    scene, frames, wav = drawn
    twice = [frame for frame in frames for _ in range(2)]
    people = [
        dataclasses.replace(
            person,
            frames=[2 * f + k for f in person.frames for k in range(2)],
            points=[points for points in person.points for _ in range(2)],
        )
        for person in scene.people
    ]
    found = evidence(enumerate(twice), Scene(people, [0], 150), LoudMouth(), wav, Fraction(50))
    plain = evidence(enumerate(frames), scene, LoudMouth(), wav, RATE)
    np.testing.assert_allclose(found[:, ::2], plain, atol=1e-5)
    short = dataclasses.replace(
        people[1], frames=[0, 1, 2, 40, 41, 42, 43, 44, 45], points=[people[1].points[i] for i in range(9)]
    )
    found = evidence(enumerate(frames), Scene([short], [0], 75), LoudMouth(), wav, RATE)[0]
    assert (found[:3] == 0).all() and np.isneginf(found[3:40]).all() and found[40:46].all()


def test_an_expert_is_taken_from_the_option_or_the_checkpoint(tmp_path):
    network = SyncExpert(SyncExpertConfig(width=0.03))
    save_checkpoint(tmp_path / "with", {"sync_expert": network}, {"sync_expert": network.config})
    (tmp_path / "without").mkdir()
    options = DubOptions(face="speaking")
    owner: Any = SimpleNamespace(folder=tmp_path / "with", device=torch.device("cpu"))
    assert isinstance(expert_for(owner, options), SyncExpert)
    owner.folder = tmp_path / "without"
    with pytest.raises(InputError, match="lacks; give --expert DIR") as error:
        expert_for(owner, options)
    assert "\n" not in str(error.value)
    assert isinstance(expert_for(owner, DubOptions(face="speaking", expert=tmp_path / "with")), SyncExpert)
    assert expert_for(owner, DubOptions(face="left")) is None
    assert expert_for(owner, DubOptions(face="speaking", face_at=(3, 4))) is None


def test_without_a_sound_or_a_mouth_that_follows_it_nobody_is_dubbed(drawn, tmp_path):
    scene, frames, _ = drawn
    path = tmp_path / "silent.mp4"
    with VideoWriter(path, 256, 128) as video:
        for frame in frames:
            video.write(frame)
    source: Any = SimpleNamespace(path=path, fps=RATE)
    with pytest.raises(InputError, match="has no sound that a mouth could follow; choose with --face"):
        speaking(source, scene, LoudMouth(), DubOptions(face="speaking"), enumerate(frames))
    noise = tmp_path / "noise.wav"
    hiss = np.random.default_rng(1).normal(0, 0.1, (1, 3 * SAMPLE_RATE)).astype(np.float32)
    write_sound(noise, "pcm_s16le", SAMPLE_RATE, sound=hiss)
    with VideoWriter(path, 256, 128, sound=noise) as video:
        for frame in frames:
            video.write(frame)
    with pytest.raises(InputError, match="follows its sound; choose a person"):
        speaking(source, scene, LoudMouth(), DubOptions(face="speaking"), enumerate(frames))


@pytest.mark.slow
@pytest.mark.parametrize("speaker", [0, 1])
def test_of_two_people_the_one_who_speaks_is_found(shared, tmp_path, speaker):
    if not (DEMO / "sync_expert.safetensors").is_file():
        pytest.skip("the bundled checkpoint has no sync expert")
    names = [shared / "clips/val" / f"{name}.mp4" for name in ("synthetic_13", "synthetic_l3")]
    video = tmp_path / "two.mp4"
    with VideoWriter(video, 1024, 512, sound=names[speaker], duration=4) as writer:
        for pair in zip(*(read_frames(name, 25) for name in names), range(100), strict=False):
            writer.write(np.concatenate([cv2.resize(picture, (512, 512)) for picture in pair[:2]], axis=1))
    options = DubOptions(face="speaking", progress=None)
    source, scene = tracked_scene(video, probe(video), RATE, 100, options, Clock(), None)
    rows = chosen_people(source, scene, load_sync_expert(DEMO), options)
    sides = [int(person.centre(0)[0] > 512) for row in rows for person in row]
    assert len(sides) > 60 and np.mean(np.array(sides) == speaker) > 0.95
