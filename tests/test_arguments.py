"""What a command says of arguments that it does not know: one line on stderr, not its whole usage, and exit code 2."""

import importlib
import sys

import pytest

TRAINING = ["train_heatmap", "train_face", "train_sync", "finetune_e2e"]
CASES = {
    "inference": {"--bogus": "--bogus", "--batch-size abc": "'abc'", "--device tpu": "'tpu'"},
    "data_prep.preprocess": {"": "input", "in out --workers abc": "'abc'", "in out --bogus": "--bogus"},
    "data_prep.offsets": {"": "--expert", "clips --expert e --device tpu": "'tpu'", "c --expert e --bogus": "--bogus"},
    "checkpoints.combine": {"": "--output", "a --output b --networks c": "'c'", "a --output b --bogus": "--bogus"},
    "checkpoints.import_released": {"": "HEATMAP.pth", "a b c --bogus": "--bogus"},
    "benchmarks.dubbing": {"--seconds abc": "'abc'", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    "benchmarks.flicker": {"": "VIDEO", "a.mp4 --seconds abc": "'abc'", "a.mp4 --bogus": "--bogus"},
    "benchmarks.inference": {"--batch abc": "'abc'", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    "benchmarks.quality": {"": "--clips", "--clips c --bogus": "--bogus"},
    "benchmarks.training": {"--steps abc": "'abc'", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    **{script: {"": "--config", "train.steps=2": "--config", "--config c --bogus": "--bogus"} for script in TRAINING},
}


@pytest.mark.parametrize("module", CASES)
def test_a_wrong_argument_is_one_line_that_names_it(module, monkeypatch, capsys, tmp_path):
    main = importlib.import_module(module).main
    monkeypatch.chdir(tmp_path)
    for arguments, named in CASES[module].items():
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *arguments.split()])
        assert main() == 2, arguments
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (arguments, err)
        assert named in err and f"see {module}.py --help" in err, (arguments, err)
    assert list(tmp_path.iterdir()) == []
