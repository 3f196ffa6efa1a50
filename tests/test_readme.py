"""The README's walkthrough, run as written in a copy of the repository, with every training cut to two steps."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from media.video import VideoWriter, read_frames

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "train_sync.py": ["model.width=0.125", "train.batch_size=4"],
    "train_heatmap.py": ["model.width=0.125", "model.layers=1", "train.batch_size=2", "reading.steps=2"],
    "train_face.py": ["model.width=0.125", "train.batch_size=2"],
    "finetune_e2e.py": ["train.batch_size=2"],
}
SHORT = ["train.steps=2", "train.validate_every=2", "train.warmup=0", "data.workers=0"]


def walkthrough(section: str) -> list[list[str]]:
    """The commands of a section's first block, one list of words each."""
    section = (ROOT / "README.md").read_text().split(f"## {section}\n")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def every_command() -> list[str]:
    """All scripts and modules that the README starts with Python."""
    text = (ROOT / "README.md").read_text()
    return sorted(set(re.findall(r"(?:python|accelerate launch)(?: --\S+ \S+)* (-m [\w.]+|\w+\.py)", text)))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository's own files, with 1.6 s of the bundled portrait as training and validation video."""
    folder = tmp_path_factory.mktemp("readme")
    for name in (
        "assets",
        "benchmarks",
        "checkpoints",
        "configs",
        "data_prep",
        "dubbing",
        "losses",
        "media",
        "metrics",
        "models",
        "training",
    ):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "downloads"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    for place in ("videos/train/a.mp4", "videos/val/person.mp4"):
        with VideoWriter(folder / place, 448, 448, sound=ROOT / "assets/speech.wav", duration=1.6) as video:
            for frame in itertools.islice(read_frames(ROOT / "assets/portrait.mp4"), 40):
                video.write(frame)
    return folder


def run_as_written(section: str, copy: Path) -> None:
    for program, *words in walkthrough(section):
        assert program == "python"
        settings = TINY[words[0]] + SHORT if words[0] in TINY else []
        result = subprocess.run([sys.executable, *words, *settings], cwd=copy, capture_output=True, text=True)
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, shlex.join(words)


def test_the_walkthrough_runs_as_written(copy):
    assert len(walkthrough("From videos to your own model")) >= 10
    run_as_written("From videos to your own model", copy)
    assert (copy / "out/person.mp4").stat().st_size > 10_000
    assert (copy / "out/report/report.html").is_file()


def test_g4g_runs_as_written(copy):
    for command in walkthrough("From videos to your own model")[:2]:  # which makes the clips, where they are not yet
        assert command[1:3] == ["-m", "data_prep.preprocess"]
        subprocess.run([sys.executable, *command[1:]], cwd=copy, check=True, capture_output=True)
    run_as_written("G4G", copy)
    assert (copy / "out/g4g.mp4").stat().st_size > 10_000
    assert "G4G" in (copy / "out/g4g/results/table.md").read_text()


def test_the_launch_commands_processes_share_their_configs_batch():
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"accelerate launch .*--num_processes (\d+) .*--config (configs/stsa_\w+\.yaml)", text)
    assert len(commands) >= 2
    for processes, config in commands:
        batch_size = OmegaConf.load(ROOT / config).train.batch_size
        assert batch_size % int(processes) == 0, f"{processes} processes cannot share {config}'s {batch_size} windows"


@pytest.mark.parametrize("name", every_command())
def test_every_command_that_the_readme_names_has_help(name):
    if name == "-m venv":
        pytest.skip("Python's own")
    result = subprocess.run([sys.executable, *name.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "usage" in result.stdout.lower(), result.stderr
