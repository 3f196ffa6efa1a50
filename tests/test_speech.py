"""The pretraining of an audio encoder: synthetic speech, and the visemes in it."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from extensions import lessons, speech_windows, synthetic_speech
from extensions.lessons import VisemeTraining, learn_visemes
from extensions.speech_windows import VISEMES, SpeechWindows
from extensions.synthetic_speech import Utterance, labels, viseme
from media.audio import mel_spectrogram
from media.errors import InputError
from models.sync_expert import SyncExpert, SyncExpertConfig


@pytest.mark.parametrize(
    ("phonemes", "group"),
    [
        ("pau _: _| (en)", "silence"),
        ("p b m p' b#", "pbm"),
        ("f v", "fv"),
        ("t d n l dh th T D t2", "tdnl"),
        ("s z s;", "sz"),
        ("sh zh ch jh S Z tS dZ ts.h", "sh"),
        ("k g ng hh h N", "kgh"),
        ("r er 3: r-", "r"),
        ("aa ae ah ay aw a A: V aI", "a"),
        ("eh ey ax E e@ @ eI", "e"),
        ("iy ih y i: I j", "i"),
        ("ow ao oy oU O: 0", "o"),
        ("uw uh u: U", "u"),
        ("w", "w"),
    ],
)
def test_phonemes_of_both_synthesizers_fall_into_their_groups(phonemes, group):
    assert {VISEMES[viseme(phoneme)] for phoneme in phonemes.split()} == {group}


def test_a_frame_has_the_viseme_that_is_said_in_it():
    spoken = Utterance(np.zeros(16000, np.float32), 16000, [(0.1, "m"), (0.5, "aa"), (0.75, "pau")])
    found = [VISEMES[label] for label in labels(spoken, 81)]
    expected = ["silence"] * 8 + ["pbm"] * 32 + ["a"] * 20 + ["silence"] * 21
    assert found == expected


def write_noises(path, seconds: float = 20) -> None:
    """Half a second of noise after the other, dull ones labelled "a", bright ones "i"."""
    random = np.random.default_rng(0)
    high = np.repeat(random.integers(0, 2, int(seconds * 2)), 8000)
    noise = random.normal(0, 0.1, len(high) + 8)
    dull = np.convolve(noise, np.full(9, 1 / 3), mode="valid")
    wav = np.where(high, np.diff(noise, 2)[: len(high)], dull)
    mel = mel_spectrogram(wav.astype(np.float32)).astype(np.float16)
    visemes = np.where(
        high[np.minimum(np.arange(len(mel)) * 200, len(high) - 1)], VISEMES.index("i"), VISEMES.index("a")
    )
    save_file({"mel": mel, "visemes": visemes.astype(np.uint8), "starts": np.array([0])}, path)


@pytest.mark.slow
def test_the_encoder_learns_to_tell_sounds_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(speech_windows, "disguised", lambda mel, generator: mel)  # in few steps, of one voice
    write_noises(tmp_path / "noises.safetensors")
    torch.manual_seed(0)
    encoder = SyncExpert(SyncExpertConfig(width=0.06)).audio_encoder
    speech = VisemeTraining(data=str(tmp_path / "noises.safetensors"), steps=100, batch_size=64, learning_rate=5e-3)
    learn_visemes(encoder, lambda mel: encoder(mel[:, None]).flatten(1), speech, 0, tmp_path)
    mel, visemes = SpeechWindows(speech.data, seed=1).batch(256, 0)
    visemes = visemes[:, 0]
    with torch.no_grad():
        embeddings = encoder(mel[:, None]).flatten(1)
    centres = torch.stack([embeddings[visemes == VISEMES.index(name)].mean(dim=0) for name in "ai"])
    nearest = torch.cdist(embeddings, centres).argmin(dim=1)
    assert (nearest == (visemes == VISEMES.index("i"))).float().mean() > 0.8


def test_a_lesson_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "_SAVE_EVERY", 4)
    write_noises(tmp_path / "noises.safetensors", seconds=4)
    speech = VisemeTraining(data=str(tmp_path / "noises.safetensors"), steps=10, batch_size=8, learning_rate=5e-3)
    drawn = []

    def learned(output: str, killed_at: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        def disguised(mel, generator):
            drawn.append(len(mel))
            if len(drawn) == killed_at:
                raise KeyboardInterrupt
            return mel + 0.1 * torch.randn(mel.shape, generator=generator)

        monkeypatch.setattr(speech_windows, "disguised", disguised)
        drawn.clear()
        torch.manual_seed(0)
        encoder = SyncExpert(SyncExpertConfig(width=0.03)).audio_encoder
        learn_visemes(encoder, lambda mel: encoder(mel[:, None]).flatten(1), speech, seed, tmp_path / output)
        return encoder.state_dict()

    expected = learned("uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        learned("killed", killed_at=7)
    again = learned("killed")
    assert len(drawn) == 6  # 4 of 10 steps had been saved
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    learned("killed")
    assert not drawn  # what is learned is not learned again
    others = learned("killed", seed=1)
    assert len(drawn) == 10  # with other settings it is
    assert not all(torch.equal(others[name], value) for name, value in expected.items())
    (tmp_path / "killed" / "pretraining" / "visemes.pt").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"visemes.pt is not a state of this config's network .*; delete it"):
        learned("killed")


@pytest.mark.parametrize("damage", ["no safetensors", "a tensor missing", "an unknown viseme", "far", "none", "floats"])
def test_another_file_is_refused(tmp_path, damage):
    path = tmp_path / "speech.safetensors"
    write_noises(path, seconds=1)
    content = load_file(path)
    starts = {"far": np.array([0, 10**13]), "none": np.zeros(0, np.int64), "floats": np.zeros(1)}
    content["starts"] = starts.get(damage, content["starts"])
    if damage == "a tensor missing":
        del content["starts"]
    content["visemes"][0] = 200 if damage == "an unknown viseme" else 0
    path.write_bytes(b"speech") if damage == "no safetensors" else save_file(content, path)
    with pytest.raises(InputError, match=r"speech.safetensors is not of extensions.synthetic_speech"):
        SpeechWindows(path)


@pytest.mark.skipif(not shutil.which("flite") or not shutil.which("espeak-ng"), reason="needs flite and eSpeak NG")
def test_the_synthesizers_speak_and_say_what(tmp_path):
    path = tmp_path / "speech.safetensors"
    assert synthetic_speech.main([str(path), "--minutes", "0.5"]) == 0
    content = load_file(path)
    assert 2400 <= len(content["mel"]) < 4000 and content["mel"].shape[1] == 80
    loud = content["mel"].astype(np.float32).mean(axis=1)
    silence = content["visemes"] == VISEMES.index("silence")
    assert loud[silence].mean() < loud[~silence].mean() - 1  # labels and sound are in step
    assert len(np.unique(content["visemes"])) > 10
    mel, visemes = SpeechWindows(path).batch(8, 0)
    assert mel.shape == (8, 80, 16) and visemes.shape == (8, 1) and mel.abs().max() <= 4


def test_a_missing_synthesizer_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic_speech, "_Espeak", lambda: None)
    monkeypatch.setattr(synthetic_speech.random.Random, "random", lambda self: 0.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert synthetic_speech.main([str(tmp_path / "speech.safetensors"), "--minutes", "0.1"]) == 2
    assert "flite is not installed; install it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
