"""A live voice: its pictures are the offline dub's, soon enough, and late sound is silence."""

import numpy as np
import pytest
from faces import portraits, small_checkpoint, write_frames

from dubbing import Dubber, lengths, pipeline
from dubbing.live import PATIENCE, _Ear
from media.audio import mel_spectrogram
from media.loudness import heard, loudness

RATE = 16000


@pytest.fixture(scope="module")
def dubber(tmp_path_factory):
    return Dubber(small_checkpoint(tmp_path_factory.mktemp("checkpoint")), "cpu")


@pytest.fixture(scope="module")
def prepared(dubber, tmp_path_factory):
    video = write_frames(tmp_path_factory.mktemp("video") / "person.mp4", portraits(8))
    return dubber.prepare(video, workers=1)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def pieces(wav: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(wav), 9))
    return np.split(wav, cuts)


def still() -> float:
    """A clock by which no sound is late."""
    return 0.0


def spoken(live, parts) -> list[np.ndarray]:
    return [picture for part in parts for picture in live.hear(part)] + list(live.end())


@pytest.mark.parametrize("seconds", [0.03, 0.2, 0.79])
def test_features_of_pieces_are_those_of_the_whole_sound(dubber, seconds):
    wav = noise(seconds)
    ear = _Ear(dubber.speaker, loudness(wav))
    for part in pieces(wav):
        ear.hear(part)
        assert len(ear.features) == max(0, (ear.samples - 400) // 200 + 1)
    ear.end()
    np.testing.assert_array_equal(ear.features, mel_spectrogram(heard(wav)))


def test_its_pictures_are_those_of_the_dub(dubber, prepared, tmp_path, monkeypatch):
    wav = noise(0.79)
    written = []
    monkeypatch.setattr(lengths, "read_audio", lambda path, track: wav)
    monkeypatch.setattr(pipeline, "open_writers", lambda *_: lambda frame: written.append(frame.result))
    (tmp_path / "sound.wav").write_bytes(b"sound")
    dubber.dub(prepared, tmp_path / "sound.wav", tmp_path / "out.mp4")
    pictures = spoken(dubber.live(prepared, still, loudness(wav)), pieces(wav))
    assert len(pictures) == len(written) == 20
    for live, offline in zip(pictures, written, strict=True):
        assert np.abs(live.astype(int) - offline).max() <= 1  # batches of another size


def test_the_mouth_answers_a_click_within_300_ms(dubber, prepared):
    at = 0.4
    click = np.zeros(round(0.7 * RATE), np.float32)
    without, silent = [], dubber.live(prepared, still)
    for part in np.split(click, 35):  # 20 ms each
        without += silent.hear(part)
    click[round(at * RATE) : round(at * RATE) + 80] = 0.9
    live, heard, k = dubber.live(prepared, still), 0.0, 0
    assert live.latency <= 0.3
    answers = {}
    for part in np.split(click, 35):
        heard += len(part) / RATE
        for picture in live.hear(part):
            assert heard - k / 25 <= live.latency + 0.02  # as soon as the piece with its last sound has come
            if (picture != without[k]).any():
                answers[k] = heard
            k += 1
    assert answers[round(at * 25)] - at <= 0.3  # the picture of that time shows it
    assert min(answers.values()) - at > 0


def test_late_sound_is_silence(dubber, prepared):
    now = [0.0]
    live = dubber.live(prepared, lambda: now[0])
    first, second = noise(0.4), noise(0.4, seed=1)
    pictures = list(live.hear(first))
    now[0] += 0.4 + PATIENCE / 2
    pictures += live.hear(second[:0])
    assert live._ear.samples == len(first)  # not late enough
    for _ in range(10):  # no sound for 0.4 s more
        now[0] += 0.04
        pictures += live.hear(second[:0])
    silent = live._ear.samples / RATE - 0.4
    assert 0.3 < silent < 0.5
    pictures += spoken(live, [second])
    wav = np.concatenate([first, np.zeros(round(silent * RATE), np.float32), second])
    expected = spoken(dubber.live(prepared, still), [wav])
    assert len(pictures) == len(expected)
    # Batches of another size differ by a rounding, which the light's gain may double.
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(pictures, expected, strict=True))


def test_time_that_the_networks_take_is_not_waited(dubber, prepared):
    now = [0.0]

    def clock() -> float:
        return now[0]

    live = dubber.live(prepared, clock)
    for part in np.split(noise(0.4), 10):
        for _ in live.hear(part):
            now[0] += 0.5
    assert live._ear.samples == round(0.4 * RATE)


def test_a_long_speech_goes_on(dubber, prepared, monkeypatch):
    monkeypatch.setattr("dubbing.live.HORIZON", 8)
    wav = noise(0.7)
    short = spoken(dubber.live(prepared, still), [wav])
    monkeypatch.undo()
    assert all((a == b).all() for a, b in zip(short, spoken(dubber.live(prepared, still), [wav]), strict=True))
