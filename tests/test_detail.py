"""dubbing.detail: the detail that a generated face gets, of synthetic faces whose detail is known and of a real one."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from faces import portraits, write_frames
from media_files import write_sound
from networks import built
from test_fast_inference import predictor

import dubbing.detail
from benchmarks.sharpness import COLUMNS, sharpness
from dubbing import DubOptions, StsaSpeaker, dub, load_speaker, reference_frames, second_pass
from dubbing.detail import add_detail, candidate, own_candidate
from dubbing.speaker import FaceJob
from media.crop import CROPS, STSA
from media.files import DEMO
from media.place import Place, crop_face, resize
from media.video import read_frames

SIDE = 256
PLACE = Place(0, 0, SIDE, SIDE)
HIDDEN = slice(SIDE // 2 + 16, SIDE - 16), slice(16, SIDE - 16)  # without the border, where the flow leaves the picture
LIPS = np.array([[0.4, 0.7], [0.6, 0.7], [0.6, 0.8], [0.4, 0.8]])


def textured(seed: int) -> np.ndarray:
    """A face (SIDE, SIDE, 3): shading that is the same for every `seed`, and texture of its own."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE
    shading = 90 + 50 * across + 30 * np.sin(3 * down)
    texture = cv2.GaussianBlur(random.normal(0, 40, (SIDE, SIDE)), (0, 0), 1.5)
    return np.repeat((shading + texture).clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def soft(picture: np.ndarray) -> np.ndarray:
    """What a network might generate for `picture`: its crop without detail."""
    return resize(resize(picture, STSA.width // 4, STSA.height // 4), STSA.width, STSA.height)


def of(picture: np.ndarray):
    return candidate(picture, PLACE, crop_face(picture, PLACE, STSA.shape), STSA)


def own(picture: np.ndarray):
    return own_candidate(picture, PLACE, crop_face(picture, PLACE, STSA.shape), STSA)


def flow(*shifts: float) -> np.ndarray:
    """The flow (N, 2, 64, 128) that reads reference n `shifts[n]` crop pixels to the right."""
    across = (np.arange(128) + 0.5) / 64 - 1
    down = (np.arange(64, 128) + 0.5) / 64 - 1
    grids = [np.stack(np.meshgrid(across + shift / 64, down)) for shift in shifts]
    return np.stack(grids).astype(np.float32)


def detail_of(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(float) - resize(resize(picture, 32, 32), SIDE, SIDE)[..., 0]


@pytest.fixture
def exact(monkeypatch):
    """No compensation for the encoder."""
    monkeypatch.setattr(dubbing.detail, "_STRENGTHS", {0: 1.0})


def test_the_frame_lends_its_own_detail_where_it_agrees(exact):
    picture = textured(0)
    made = add_detail(soft(picture), own(picture), np.zeros((4, 2)), [], None, STSA)
    assert made.shape == picture.shape
    np.testing.assert_allclose(made[HIDDEN].astype(int), picture[HIDDEN], atol=12)
    assert np.corrcoef(detail_of(made)[HIDDEN].ravel(), detail_of(picture)[HIDDEN].ravel())[0, 1] > 0.99
    above = slice(0, SIDE // 2 - 4)  # cubic resizing reads pixels of the hidden part below them
    np.testing.assert_array_equal(made[above], resize(soft(picture), SIDE, SIDE)[above])


@pytest.mark.parametrize("shift", [0, 5])
def test_a_reference_lends_its_detail_through_the_flow(exact, monkeypatch, shift):
    monkeypatch.setattr(dubbing.detail, "_OWN", 1e-3)
    reference = textured(1)
    shown = np.roll(reference, -2 * shift, axis=1)
    made = add_detail(soft(shown), own(textured(2)), LIPS, [of(reference)], flow(shift), STSA)
    restored, true = detail_of(made)[HIDDEN], detail_of(shown)[HIDDEN]
    assert np.corrcoef(restored.ravel(), true.ravel())[0, 1] > 0.97
    assert restored.std() == pytest.approx(true.std(), rel=0.1)


def test_the_reference_that_agrees_is_taken(exact, monkeypatch):
    monkeypatch.setattr(dubbing.detail, "_OWN", 1e-3)
    right, wrong = textured(3), 255 - np.roll(textured(4), 60, axis=1)
    made = add_detail(soft(right), own(wrong), LIPS, [of(wrong), of(right)], flow(0, 0), STSA)
    assert np.corrcoef(detail_of(made)[HIDDEN].ravel(), detail_of(right)[HIDDEN].ravel())[0, 1] > 0.9


def test_a_mouth_of_another_shape_lends_nothing():
    """The frame's open mouth must not show through where the generated one is closed."""
    closed = textured(5)
    opened = closed.copy()
    cv2.ellipse(opened, (128, 192), (40, 18), 0, 0, 360, (20, 20, 20), -1)
    lips = np.array([[88, 192], [128, 174], [168, 192], [128, 210]]) / SIDE
    made = add_detail(soft(closed), own(opened), lips, [], None, STSA)
    mouth = slice(186, 198), slice(110, 146)
    plain = resize(soft(closed), SIDE, SIDE)
    assert np.abs(made[mouth].astype(int) - plain[mouth]).max() <= 2
    assert np.abs(made[150:160, 30:60].astype(int) - plain[150:160, 30:60]).max() > 10


@pytest.mark.parametrize("form", [STSA, CROPS["g4g"]])
@pytest.mark.parametrize("width", [20, 101, 700])
def test_a_face_of_any_size_and_form_keeps_what_is_not_hidden(form, width):
    frame = resize(textured(6), width, width)
    place = Place(0, 0, width, width)
    face = crop_face(frame, place, form.shape)
    lender, shown = candidate(frame, place, face, form), own_candidate(frame, place, face, form)
    random = np.random.default_rng(0).uniform(-2, 2, (1, 2, *form.hidden_mask()[form.hidden_pixels].shape))
    made = add_detail(face, shown, LIPS, [lender], random.astype(np.float32), form)
    plain = resize(face, *made.shape[1::-1])
    rows = round(form.hidden[1] * len(made)) - max(2, width // 16)  # cubic resizing reads pixels beyond the edge
    np.testing.assert_array_equal(made[: max(rows, 0)], plain[: max(rows, 0)])


@pytest.mark.parametrize("width", [90, 700])
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_the_frames_own_detail_is_that_of_the_hidden_part(width, angle):
    frame, form = resize(textured(7), 900, 900), CROPS["upright"]
    place = Place(100.3, 80.6, 100.3 + width, 80.6 + width, angle)
    crop = crop_face(frame, place, form.shape)
    whole, part = candidate(frame, place, crop, form), own_candidate(frame, place, crop, form)
    assert part.size == whole.size == (min(width, 480),) * 2
    rows = slice(part.size[1] - part.detail.shape[0], None)
    inner = slice(part.size[1] // 16, None), slice(None)  # the mean's grid ends at the part's edge
    difference = part.detail[inner] - (whole.detail[rows].astype(np.float32) - dubbing.detail._ZERO)[inner]
    assert np.sqrt(np.square(difference).mean()) < 0.6  # levels are rounded


def test_a_face_that_no_candidate_agrees_with_keeps_its_own_detail_and_is_as_sharp(exact):
    shown, coarse = (
        textured(8),
        resize(np.random.default_rng(9).integers(0, 255, (64, 64, 3)).astype(np.uint8), SIDE, SIDE),
    )
    everywhere = np.array([[0.0, 0.5], [1, 0.5], [1, 1], [0, 1]])
    face = cv2.GaussianBlur(crop_face(shown, PLACE, STSA.shape), (0, 0), 1)
    made = add_detail(face, own(coarse), everywhere, [of(coarse)], flow(0), STSA)
    before, after = detail_of(resize(face, SIDE, SIDE))[HIDDEN], detail_of(made)[HIDDEN]
    assert after.std() > 1.2 * before.std()
    assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > 0.9


def test_the_speaker_hands_out_the_flow_of_the_hidden_part():
    random = np.random.default_rng(0)
    crops = random.integers(0, 255, (5, 128, 128, 3)).astype(np.uint8)
    points = random.uniform(0.2, 0.8, (5, 131, 2)).astype(np.float32)
    sound = random.normal(0, 1, (40, 80)).astype(np.float32)
    for temporal in (True, False):
        synthesizer = built("face_synthesizer", width=0.06, temporal=temporal).eval()
        speaker = StsaSpeaker(predictor(), synthesizer, torch.device("cpu"))
        jobs = [FaceJob(crops[i], np.arange(5), np.arange(5.0), points) for i in range(2)]
        speaker.speak(jobs, speaker.encode(crops, points), sound, {})
        for job in jobs:
            assert (job.flow is not None) == temporal
            if job.flow is not None:  # a fresh network's flow moves nothing
                np.testing.assert_allclose(job.flow, flow(0, 0, 0, 0, 0), atol=1e-6)


@pytest.mark.slow
def test_without_detail_none_is_computed(tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError("detail was computed")

    monkeypatch.setattr(second_pass, "add_detail", never)
    monkeypatch.setattr(second_pass, "own_candidate", never)
    monkeypatch.setattr(reference_frames, "candidate", never)
    video = write_frames(tmp_path / "video.mp4", portraits(3))
    speech = write_sound(tmp_path / "speech.wav", "pcm_s16le", 16000, sound=np.zeros((1, 1280), np.float32))
    speaker = load_speaker(DEMO, torch.device("cpu"))
    options = DubOptions(detail=False, progress=None)
    assert dub(video, speech, tmp_path / "out.mp4", speaker, options).frames == 2
    with pytest.raises(AssertionError, match="detail was computed"):
        dub(video, speech, tmp_path / "out.mp4", speaker, dataclasses.replace(options, detail=True))


@pytest.mark.slow
def test_a_real_face_becomes_sharper(tmp_path):
    frames = [cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in portraits(6)]
    sharpened = [cv2.addWeighted(frame, 2, cv2.GaussianBlur(frame, (0, 0), 2), -1, 0) for frame in frames]
    video = write_frames(tmp_path / "video.mp4", sharpened)
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3200)).astype(np.float32)
    speech = write_sound(tmp_path / "speech.wav", "pcm_s16le", 16000, sound=noise)
    speaker = load_speaker(DEMO, torch.device("cpu"))
    scores = []
    for detail in (False, True):
        dub(video, speech, tmp_path / "out.mp4", speaker, DubOptions(detail=detail, progress=None))
        scores.append(sharpness(video, tmp_path / "out.mp4", speaker.crop))
    without, with_detail = scores
    assert set(COLUMNS) >= set(without)
    assert with_detail["dub / source"] > without["dub / source"] + 0.05
    assert with_detail["PSNR"] > without["PSNR"] - 0.5
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 5
