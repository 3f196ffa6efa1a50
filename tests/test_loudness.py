"""Networks hear speech at one loudness, whatever the level of its recording."""

import numpy as np
import pytest
from faces import portraits, small_checkpoint, write_frames
from media_files import write_sound

from data_prep.preprocess import features
from dubbing import Dubber, pipeline
from dubbing.speaker import Speaker
from media.audio import SILENCE, mel_spectrogram
from media.loudness import GATE, STEP, TARGET, Leveller, gain_at, heard, loudness

RATE = 16000


def tone(amplitude: float, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(round(RATE * seconds)) / RATE
    return (amplitude * np.sin(2 * np.pi * 997 * time)).astype(np.float32)


def syllables(seconds: float = 3.0) -> np.ndarray:
    """Noise in bursts, four a second, with a pause of digital silence in the middle second."""
    time = np.arange(round(RATE * seconds)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    pause = (time >= 1) & (time < 2)
    return (0.1 * np.sin(4 * np.pi * time) ** 2 * noise * ~pause).astype(np.float32)


@pytest.mark.parametrize("seconds", [2.0, 0.4, 0.05])
def test_a_full_tone_of_997_hz_has_the_loudness_that_bs_1770_gives(seconds):
    assert loudness(tone(0.1, seconds)) == pytest.approx(-23.01, abs=0.1)


def test_pauses_do_not_count():
    assert loudness(np.concatenate([tone(0.1), np.zeros(10 * RATE, np.float32)])) == pytest.approx(-23.01, abs=0.5)


@pytest.mark.parametrize("level", [12, 0, -12, -24, -36, -40])
def test_features_do_not_depend_on_the_level(level):
    wav = syllables()
    wav = wav * np.float32(10 ** ((TARGET + 3 - loudness(wav)) / 20))
    changed = wav * np.float32(10 ** (level / 20))
    assert loudness(heard(changed)) == pytest.approx(TARGET, abs=0.01)
    np.testing.assert_allclose(features(changed, ["mel"])["mel"], features(wav, ["mel"])["mel"], atol=2e-3)


def test_silence_stays_silence():
    wav = syllables()
    assert not heard(np.zeros(RATE, np.float32)).any() and not len(heard(np.zeros(0, np.float32)))
    pause = mel_spectrogram(heard(0.01 * wav))[90:150]
    assert (pause == SILENCE["mel"]).all()


@pytest.mark.parametrize(("lufs", "gain"), [(-10, TARGET + 10), (-60, 40), (-65, 20), (GATE, 0), (-90, 0)])
def test_the_gain_is_limited_and_falls_to_nothing_at_the_gate(lufs, gain):
    assert gain_at(lufs) == pytest.approx(gain)


def test_the_noise_of_a_silent_room_stays_soft():
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    noise *= np.float32(10 ** ((-68 - loudness(noise)) / 20))
    assert loudness(10 ** (40 / 20) * heard(noise)) - 40 < -55


def test_a_level_that_follows_does_not_depend_on_the_pieces():
    wav = 0.05 * syllables()
    whole = Leveller().level(wav)
    for cuts in (np.arange(0, len(wav), 317), np.sort(np.random.default_rng(1).integers(0, len(wav), 5))):
        leveller = Leveller()
        parts = [leveller.level(part) for part in np.split(wav, cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_level_that_follows_reaches_that_of_the_whole_without_a_step():
    wav = tone(0.002)
    level = Leveller().level(wav)
    np.testing.assert_array_equal(level[: 4 * STEP], wav[: 4 * STEP])  # nothing is known yet
    np.testing.assert_allclose(level[6 * STEP :], heard(wav)[6 * STEP :], rtol=0.02, atol=1e-6)
    loud = np.abs(wav) > 0.001
    gain = 20 * np.log10(level[loud] / wav[loud])
    assert np.abs(np.diff(gain)).max() < 0.3  # dB from one sample of the tone to the next that is not small
    np.testing.assert_array_equal(Leveller(loudness(wav)).level(wav), heard(wav))


def test_a_dub_and_its_authors_protocol(tmp_path, monkeypatch):
    dubber = Dubber(small_checkpoint(tmp_path / "checkpoint"), "cpu")
    prepared = dubber.prepare(write_frames(tmp_path / "person.mp4", portraits(4)), workers=1)
    given: list[np.ndarray] = []
    original = pipeline._sound_features

    def features_of(wav: np.ndarray, speaker: Speaker) -> np.ndarray:
        given.append(wav)
        return original(wav, speaker)

    monkeypatch.setattr(pipeline, "_sound_features", features_of)
    sound = write_sound(tmp_path / "soft.wav", "pcm_f32le", RATE, sound=tone(0.003, 0.2)[None])
    dubber.dub(prepared, sound, tmp_path / "out.mp4")
    assert loudness(given[0]) == pytest.approx(TARGET, abs=0.1)
    dubber.dub(prepared, sound, tmp_path / "out.mp4", protocol="authors")
    np.testing.assert_allclose(given[1], tone(0.003, 0.2), atol=1e-6)
