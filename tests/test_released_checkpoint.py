"""The authors' released files: imported as they are published, and anything else refused in one line."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_cases import parity_case, released_state_dict

import inference
from media.errors import InputError
from models import load_checkpoint, load_released
from models.checkpoint import read_foreign
from models.face_synthesizer import FaceSynthesizerConfig, released_state

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Stand-ins for heatmap_weight.pth and face_weight.pth: the published names and shapes, under "module."."""
    folder = tmp_path_factory.mktemp("released")
    paths = []
    for name, file in (("stsa_heatmap", "heatmap_weight.pth"), ("stsa_face", "face_weight.pth")):
        state = {f"module.{key}": value for key, value in released_state_dict(name).items()}
        torch.save({"state_dict": state}, folder / file)
        paths.append(folder / file)
    return tuple(paths)


def run_import(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "checkpoints.import_released", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@torch.inference_mode()
def test_the_imported_folder_computes_what_the_released_network_does(files, tmp_path):
    result = run_import(*files, tmp_path / "stsa")
    assert result.returncode == 0, result.stderr
    predictor, synthesizer = load_checkpoint(tmp_path / "stsa")
    assert predictor.config.audio == synthesizer.config.audio == "wav2vec2"
    _, inputs, expected = parity_case("stsa_heatmap")
    heatmaps, keypoints = predictor.double()(inputs["audio"], inputs["pose"], inputs["reference"])
    torch.testing.assert_close(heatmaps, expected["heatmaps"], atol=1e-5, rtol=0)
    torch.testing.assert_close(keypoints, expected["landmarks"].mT, atol=1e-5, rtol=0)
    # The faces of this form with these weights are tests/test_face_synthesizer.py's.
    assert synthesizer.config == FaceSynthesizerConfig.released(mutual_information=True)  # to train on, as published
    state, released = synthesizer.state_dict(), released_state(read_foreign(files[1]), synthesizer.config)
    assert state.keys() == released.keys() and all(torch.equal(state[name], released[name]) for name in state)


@pytest.mark.slow
def test_a_file_without_eq_7s_network_is_taken_without_it(files, tmp_path):
    state = torch.load(files[1], weights_only=True)["state_dict"]
    dubs = {
        name: value for name, value in state.items() if not name.startswith(("module.mine.", "module.align_layers."))
    }
    torch.save({"state_dict": dubs}, tmp_path / "face.pth")
    assert load_released(files[0], tmp_path / "face.pth")[1].config == FaceSynthesizerConfig.released()


@pytest.mark.parametrize("damage", ["lacks a tensor", "swapped", "truncated", "executes code", "text"])
def test_another_file_is_refused_with_what_is_wrong(files, tmp_path, damage):
    heatmap, face = files
    bad = tmp_path / "bad.pth"
    expected = "bad.pth"
    if damage == "lacks a tensor":
        state = torch.load(heatmap, weights_only=True)["state_dict"]
        del state["module.jaw_keypoint_map.bias"]
        torch.save({"state_dict": state}, bad)
        expected = "jaw_keypoint_map.bias"
    elif damage == "swapped":
        bad.write_bytes(face.read_bytes())
    elif damage == "truncated":
        bad.write_bytes(heatmap.read_bytes()[:100_000])
    elif damage == "executes code":
        bad.write_bytes(pickle.dumps(_Evil(tmp_path / "executed")))
    else:
        bad.write_text("not weights")
    with pytest.raises(InputError, match=expected) as refusal:
        load_released(bad, face)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_a_refusal_is_one_line_and_leaves_no_folder(files, tmp_path):
    result = run_import(files[1], files[1], tmp_path / "stsa")
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "stsa").exists()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_a_damaged_file_is_refused_in_one_line_wherever_the_damage_is(legacy, tmp_path):
    path, bad, random = tmp_path / "weights.pth", tmp_path / "bad.pth", np.random.default_rng(0)
    state = {"module.a.weight": torch.randn(8, 4), "b": torch.arange(5)}
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    whole, refused = path.read_bytes(), 0
    for trial in range(400):
        if trial % 4 == 0:
            damaged = whole[: random.integers(1, len(whole))]
        else:
            damaged = bytearray(whole)
            damaged[random.integers(min(len(whole), 900))] ^= 1 << random.integers(8)
        bad.write_bytes(damaged)
        try:
            read_foreign(bad)  # a bit of a weight, or of padding, may pass
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and str(bad) in str(error)
    assert refused > 100


def test_the_sound_features_are_the_checkpoints_own(monkeypatch):
    def given(*options: str):
        monkeypatch.setattr(sys, "argv", ["inference.py", *options])
        return inference.parse()

    inference.check_audio(given(), "wav2vec2")
    inference.check_audio(given("--audio-features", "wav2vec2"), "wav2vec2")
    with pytest.raises(InputError, match=r"--audio-features wav2vec2: checkpoint .*demo was trained on mel; leave"):
        inference.check_audio(given("--audio-features", "wav2vec2"), "mel")


class _Evil:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
