"""What is before a mouth: found, kept pixel for pixel, not taken as a reference; a hidden mouth's frame passes."""

import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from faces import portraits, write_frames
from media_files import write_sound
from safetensors.torch import load_file

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, Prepared, dub
from dubbing.occlusion import FORM, PACKED, Cover, OcclusionNetwork, examine, judge, load_network, network_input
from dubbing.people import observe
from dubbing.pipeline import cast, generated, prepare
from dubbing.source import Source
from extensions import train_occlusion
from extensions.covered_faces import DRAWN, OBJECTS, clip_of, example
from media.errors import InputError
from media.landmarks import ORDER, select131
from media.place import Place, crop_face
from media.stages import Clock

COUNT = 24
QUIET: dict[str, Any] = {"progress": None, "workers": 1}
PLACE = FORM.place(np.random.default_rng(0).uniform(0, 100, (478, 2)))


class GreenMouths(SourcesOwnFaces):
    """Returns each face with its hidden part green; keeps the pictures that it encoded."""

    def __init__(self):
        super().__init__()
        self.encoded: list[np.ndarray] = []

    @property
    def fingerprint(self) -> str:
        return "green"

    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> None:
        self.encoded.append(images)

    def speak(self, jobs, references, features, known):
        made, heatmaps = super().speak(jobs, references, features, known)
        made = made.copy()
        made[(slice(None), *self.crop.hidden_pixels)] = (30, 200, 40)
        return made, heatmaps


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(131, 2): the landmarks of the portraits' first face."""
    scene = observe(iter(portraits(1)), 1)
    return select131(scene.people[0].points[0])


def lips(face: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of the lips, and the face's width."""
    return face[[ORDER.index(0), ORDER.index(17)]].mean(axis=0), float(np.ptp(face[:, 0]))


def with_disc(frames: list[np.ndarray], centres: dict[int, tuple[float, float]], radius: float):
    """The frames with a dark disc at a place in some of them, and where it is."""
    results, masks = [], []
    for i, frame in enumerate(frames):
        mask = np.zeros(frame.shape[:2], np.uint8)
        if i in centres:
            cv2.circle(mask, tuple(round(x) for x in centres[i]), round(radius), (1,), -1)
        results.append(np.where(mask[..., None] > 0, np.array([25, 25, 30], np.uint8), frame))
        masks.append(mask > 0)
    return results, masks


def covers_of(frames: list[np.ndarray], tmp_path) -> Cover:
    source = Source(write_frames(tmp_path / "video.mp4", frames), 25)
    scene = observe(source.scan(), 1)
    return examine(source, scene.people[:1], scene.cuts, source.frames, torch.device("cpu"), Clock())[0]


def judged(marked: dict[int, np.ndarray], landmarks: np.ndarray, count: int = 30, cuts=(0,)) -> Cover:
    """`judge` on `count` frames of which some are marked by (H, W) bool masks."""
    marks = [marked[i].astype(np.uint8) * 255 if i in marked else None for i in range(count)]
    return judge(np.arange(count), marks, [landmarks] * count, [PLACE] * count, np.full(count, 8.0), cuts)


def square(x: float, y: float, half: float) -> np.ndarray:
    """A mask with a square, in units of the crop."""
    height, width = FORM.shape
    mask = np.zeros(FORM.shape, bool)
    mask[
        round((y - half) * height) : round((y + half) * height), round((x - half) * width) : round((x + half) * width)
    ] = 1
    return mask


@pytest.fixture(scope="module")
def upright(face: np.ndarray) -> np.ndarray:
    """The face's landmarks in units of `FORM`."""
    scene = observe(iter(portraits(1)), 1)
    points = scene.people[0].points[0]
    return FORM.place(points).to_crop(select131(points))


def test_marks_in_one_frame_or_of_a_few_pixels_are_noise(upright):
    x, y = lips(upright)[0]
    cover = judged({10: square(x, y + 0.1, 0.08)}, upright)
    assert not cover.shares.any() and cover.bare.all() and cover.at(10) is None
    cover = judged({i: square(x, y + 0.1, 0.016) for i in range(30)}, upright)
    assert not cover.shares.any() and not cover.masks


def test_marks_last_while_a_little_of_the_face_is_marked(upright):
    x, y = lips(upright)[0]
    large, small = square(x, y + 0.1, 0.06), square(x, y + 0.1, 0.03)
    cover = judged({**{i: small for i in range(4, 10)}, **{i: large for i in range(10, 14)}}, upright)
    assert np.flatnonzero(cover.shares).tolist() == list(range(4, 14)) and (cover.strength == 1).all()
    assert np.flatnonzero(~cover.bare).tolist() == list(range(2, 16))
    assert not judged({i: small for i in range(30)}, upright).shares.any()  # never more than a little


def test_a_hand_in_the_skin_s_colour_is_kept_though_the_network_is_not_confident(upright):
    """Marked with a probability of 0.6, for a while; not where it lasts for all frames."""
    x, y = lips(upright)[0]
    low = np.where(square(x, y + 0.14, 0.1), 150, 0).astype(np.uint8)
    for count, kept in ((8, list(range(11, 17))), (30, [])):
        marks = [low if 10 <= i < 10 + count or count == 30 else None for i in range(30)]
        cover = judge(np.arange(30), marks, [upright] * 30, [PLACE] * 30, np.full(30, 8.0), [0])
        assert np.flatnonzero(cover.shares).tolist() == kept


def test_what_is_covered_is_kept_and_the_rest_is_pasted(upright):
    x, y = lips(upright)[0]
    mask = square(x, y + 0.1, 0.06)
    covered = judged({i: mask for i in range(30)}, upright).at(10)
    assert covered is not None and covered.strength == 1 and covered.visible is not None
    place, visible = covered.visible
    assert (
        place == PLACE
        and (visible[mask] == 0).all()
        and visible[~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)].all()
    )


def test_a_hidden_mouth_passes_with_a_fade_within_its_shot(upright):
    x, y = lips(upright)[0]
    hidden = {i: square(x, y, 0.12) for i in range(10, 15)}
    cover = judged(hidden, upright)
    assert cover.strength[5:11].tolist() == [1, 1, 0.75, 0.5, 0.25, 0] and cover.strength[14:19].tolist() == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    fading = cover.at(7)
    assert fading is not None and fading.strength == 0.75 and fading.visible is None
    cover = judged(hidden, upright, cuts=(0, 10, 15))
    assert np.flatnonzero(cover.strength < 1).tolist() == list(range(10, 15))


def test_two_hidden_stretches_with_a_few_frames_between_are_one(upright):
    x, y = lips(upright)[0]
    hidden = {i: square(x, y, 0.12) for i in (*range(5, 10), *range(14, 20))}
    assert np.flatnonzero(judged(hidden, upright).strength == 0).tolist() == list(range(5, 20))


def test_references_are_bare_and_like_the_others(upright):
    x, y = lips(upright)[0]
    unlike = np.full(30, 8.0)
    unlike[20] = 40
    mark = (square(x, y, 0.12) * 255).astype(np.uint8)
    marks = [mark if 5 <= i < 9 else None for i in range(30)]
    cover = judge(np.arange(30), marks, [upright] * 30, [PLACE] * 30, unlike, [0])
    left = [i for i in range(30) if not 3 <= i < 11 and i != 20]
    assert cover.usable(range(30)).tolist() == left
    always = judged({i: square(x, y + 0.1, 0.06 if i < 20 else 0.05) for i in range(30)}, upright)
    assert set(always.usable(range(30))) <= set(range(20, 30))
    assert always.without_references() is always  # there is little of it
    much = judged({i: square(x, y + 0.12, 0.1) for i in range(30)}, upright)
    assert (much.strength == 1).all() and not much.without_references().strength.any()


@torch.inference_mode()
def test_the_network_runs_on_faces_of_the_form():
    assert load_network("cpu")(torch.zeros(2, 7, *FORM.shape)).shape == (2, *FORM.shape)
    assert sum(weights.numel() for weights in OcclusionNetwork().parameters()) < 100_000


@pytest.mark.slow
def test_a_bare_face_is_covered_by_nothing(tmp_path):
    cover = covers_of(portraits(COUNT), tmp_path)
    assert not cover.shares.any() and cover.bare.all() and (cover.strength == 1).all()


@pytest.mark.slow
def test_the_bundled_portrait_is_covered_by_nothing():
    source = Source(ROOT / "assets" / "portrait.mp4", 25)
    scene = observe(source.scan(8), 1)
    (cover,) = examine(source, scene.people, scene.cuts, source.frames, torch.device("cpu"), Clock())
    assert not cover.shares.any() and cover.bare.all()


@pytest.fixture(scope="module")
def microphone(face):
    """Frames of which some have a disc over the chin: the frames, the disc's masks, and in which it is."""
    (x, y), width = lips(face)
    there = range(8, 16)
    frames, masks = with_disc(portraits(COUNT), {i: (x, y + 0.2 * width) for i in there}, 0.12 * width)
    return frames, masks, there


@pytest.mark.slow
def test_what_is_before_the_mouth_stays_pixel_for_pixel(microphone, tmp_path):
    frames, masks, there = microphone
    video, speaker, options = write_frames(tmp_path / "video.mp4", frames), GreenMouths(), DubOptions(**QUIET)
    prepared = prepare(video, [speaker], options)
    of = cast(prepared, speaker, options)
    motions = of.motions(COUNT, options, speaker.crop)
    shown = list(of.source.play(COUNT))
    features = np.zeros((200, 80), np.float32)
    results = [frame.result for frame in generated(iter(shown), 0, of, motions, speaker, features, options, [{}])]
    for i, ((_, before), after) in enumerate(zip(shown, results, strict=True)):
        np.testing.assert_array_equal(after[masks[i]], before[masks[i]])
        changed = (after != before).any(axis=2)
        assert (i not in there and changed.sum() > 500) or i in there
    (images,) = {id(images): images for images in speaker.encoded}.values()
    assert images.mean(axis=(1, 2, 3)).min() > 0.9 * images.mean()  # none with the disc


@pytest.mark.slow
def test_the_summary_counts_what_is_before_the_mouth(microphone, tmp_path):
    frames, _, there = microphone
    video = write_frames(tmp_path / "video.mp4", frames)
    noise = np.random.default_rng(0).normal(0, 0.1, (1, COUNT * 640)).astype(np.float32)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, sound=noise)
    summary = dub(video, sound, tmp_path / "out.mp4", GreenMouths(), DubOptions(**QUIET))
    assert len(there) <= summary.covered <= len(there) + 4 and summary.passed == 0
    assert f"something before the mouth in {summary.covered} frames" in str(summary)
    ignored = dub(video, sound, tmp_path / "out.mp4", GreenMouths(), DubOptions(**QUIET, occlusion="ignore"))
    assert ignored.covered == 0 and "before the mouth" not in str(ignored)


@pytest.mark.slow
def test_a_video_whose_mouth_is_always_hidden_is_refused(face, tmp_path):
    (x, y), width = lips(face)
    frames, _ = with_disc(portraits(COUNT), {i: (x, y + 0.05 * width) for i in range(COUNT)}, 0.3 * width)
    video = write_frames(tmp_path / "video.mp4", frames)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, sound=np.zeros((1, 6400), np.float32))
    with pytest.raises(InputError, match="before the mouth in every frame; give --references"):
        dub(video, sound, tmp_path / "out.mp4", GreenMouths(), DubOptions(**QUIET))
    assert not (tmp_path / "out.mp4").exists()
    assert dub(video, sound, tmp_path / "out.mp4", GreenMouths(), DubOptions(**QUIET, occlusion="ignore")).passed == 0


@pytest.mark.slow
def test_a_prepared_person_keeps_what_covers_the_face(microphone, tmp_path):
    frames, _, _ = microphone
    prepared = prepare(write_frames(tmp_path / "video.mp4", frames), [GreenMouths()], DubOptions(**QUIET))
    prepared.save(tmp_path / "person")
    ours, theirs = prepared.covers[0], Prepared.load(tmp_path / "person").covers[0]
    for name in ("frames", "shares", "strength", "bare"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    assert theirs.places == ours.places and list(theirs.masks) == list(ours.masks) != []
    assert all((theirs.masks[frame] == mask).all() and len(mask) == PACKED for frame, mask in ours.masks.items())
    assert isinstance(next(iter(theirs.places.values())), Place)


@pytest.mark.slow
def test_the_network_is_trained_on_a_folder_of_videos(tmp_path, monkeypatch, capsys):
    (tmp_path / "videos").mkdir()
    write_frames(tmp_path / "videos" / "a.mp4", portraits(6))
    write_frames(tmp_path / "videos" / "b.mp4", portraits(6))
    arguments = [str(tmp_path / "videos"), "--steps", "2", "--batch-size", "2", "--output", str(tmp_path / "weights")]
    monkeypatch.setattr(sys, "argv", ["train_occlusion", *arguments])
    assert train_occlusion.main() == 0
    assert "bare pixels marked" in capsys.readouterr().out
    OcclusionNetwork().load_state_dict(load_file(tmp_path / "weights"))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sys, "argv", ["train_occlusion", str(empty)])
    assert train_occlusion.main() == 2
    assert "no video with a face" in capsys.readouterr().err


@pytest.mark.slow
def test_drawn_objects_lie_on_the_face_and_are_marked(upright):
    rng = np.random.default_rng(0)
    frame = portraits(1)[0]
    points = observe(iter([frame]), 1).people[0].points[0]
    crop = crop_face(frame, DRAWN.place(points), DRAWN.shape)
    clip = clip_of(np.stack([crop] * 6), np.stack([upright] * 6))
    small = cv2.resize(crop, FORM.shape[::-1], interpolation=cv2.INTER_AREA)
    bare = network_input(small, small, upright)
    assert bare.shape == (7, *FORM.shape) and np.abs(bare).max() <= 1.5
    seen = 0
    for _ in range(40):
        inputs, alpha, weight = example(rng, [clip])
        assert inputs.shape == bare.shape and alpha.min() >= 0 and alpha.max() <= 1.001 and weight.any()
        seen += bool((alpha * weight).max() > 0.9)
    assert 5 < seen < 35
    for _, draw in OBJECTS:
        colour, opacity = draw(rng, clip, 0, np.array([0.5, 0.6]), crop)
        assert colour.shape == crop.shape and opacity.shape == DRAWN.shape and opacity.max() == 1
