"""What a command says of arguments that it does not know: one line on stderr, not its whole usage, and exit code 2."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from media.errors import InputError, Parser, command
from models.devices import add_device

TRAINING = ["train_heatmap", "train_face", "train_sync", "finetune_e2e"]
CASES = {
    "inference": {"--bogus": "--bogus", "--batch-size abc": "'abc'", "--device meta": "'meta'"},
    "data_prep.preprocess": {"": "input", "in out --workers abc": "'abc'", "in out --bogus": "--bogus"},
    "data_prep.offsets": {"": "--expert", "clips --expert e --device tpu": "'tpu'", "c --expert e --bogus": "--bogus"},
    "checkpoints.combine": {"": "--output", "a --output b --networks c": "'c'", "a --output b --bogus": "--bogus"},
    "checkpoints.import_released": {"": "HEATMAP.pth", "a b c --bogus": "--bogus"},
    "benchmarks.dubbing": {"--workers 0": "0 must be 1 or more", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    "benchmarks.flicker": {"": "VIDEO", "a.mp4 --seconds abc": "'abc'", "a.mp4 --bogus": "--bogus"},
    "benchmarks.sharpness": {"": "VIDEO", "a.mp4 --width 0": "0 must be 1 or more", "a.mp4 --bogus": "--bogus"},
    "benchmarks.inference": {"--batch 0": "0 must be 1 or more", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    "metrics.quality": {"": "--clips", "--clips c --bogus": "--bogus", "--every 0 --clips c": "0 must be"},
    "benchmarks.scripts": {"--windows 0": "0 must be 1 or more", "--device tpu": "'tpu'", "--bogus": "--bogus"},
    "benchmarks.stages": {"--width 0": "0 must be 1 or more", "--crop square": "'square'", "--bogus": "--bogus"},
    "benchmarks.training_memory": {"--device tpu": "'tpu'", "--bogus": "--bogus"},
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


def test_help_needs_no_pytorch(tmp_path):
    """A process of its own, as a user starts it, in which PyTorch cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "inference.py", "--help"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("usage: inference.py"), result.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[pair.cc:144] Timed out waiting 7200000ms for recv"), "process 0 waited for another one"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB"), "the GPU's memory is full; set"),
        (ModuleNotFoundError("No module named 'mediapipe'"), "No module named 'mediapipe'; install what is missing"),
        (InputError("clip a\nis  empty"), "clip a; is  empty"),
        (OSError(36, "File name too long", "/a/aaa"), "/a/aaa: File name too long; check the path"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, words, capsys):
    @command
    def main() -> None:
        raise error

    assert main() == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {words}") and err.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    @command
    def main() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        main()


def test_every_option_of_a_dub_is_a_field_and_a_flag(monkeypatch):
    from dubbing.options import DubOptions, add_options, options_of

    parser = Parser()
    add_device(parser)
    add_options(parser)
    assert options_of(parser.parse_args(["--device", "cpu", "--workers", "1"])) == DubOptions()
    given = parser.parse_args(["--device", "cpu", "--face-at", "3,4", "--no-smoothing", "--quiet", "--batch-size", "7"])
    options = options_of(given)
    assert (options.face_at, options.smooth, options.progress, options.batch_size) == ((3, 4), False, None, 7)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert all(action.help for action in parser._actions) and {"--missing-face", "--keep-fps"} < flags


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_of_the_output_that_leaves_is_no_traceback(lines):
    program = "import sys; from media.errors import command\n"
    program += f"main = command(lambda: print('line\\n' * {lines}))\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
