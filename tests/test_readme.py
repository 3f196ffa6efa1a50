"""The walkthroughs of README.md and docs/, run as written in a copy of the repository, trainings cut to two steps."""

import itertools
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT, section_commands

from media.video import VideoWriter, read_frames

pytestmark = pytest.mark.slow
TRAINING = ("docs/training.md", "From videos to your own model")
TINY = {
    "train_sync.py": ["model.width=0.125", "train.batch_size=4"],
    "train_heatmap.py": ["model.width=0.125", "train.batch_size=2"],
    "train_face.py": ["model.width=0.125", "train.batch_size=2"],
    "finetune_e2e.py": ["train.batch_size=2"],
}
SHORT = ["train.steps=2", "train.validate_every=2", "train.warmup=0", "data.workers=0"]
GIVEN = {"VIDEO": "videos/val/person.mp4", "SOUND": "videos/train/a.mp4"}  # for what the pages leave to their reader


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository's own files, with 2.4 s of the bundled portrait as training and validation video."""
    folder = tmp_path_factory.mktemp("readme")
    skip = {"tests", "docs", "runs", "out", "scripts"}
    for place in ROOT.iterdir():
        if place.is_dir() and place.name not in skip and not place.name.startswith("."):
            shutil.copytree(place, folder / place.name, ignore=shutil.ignore_patterns("__pycache__", "downloads"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    for video_file in ("videos/train/a.mp4", "videos/val/person.mp4"):
        with VideoWriter(folder / video_file, 448, 448, sound=ROOT / "assets/speech.wav", duration=2.4) as video:
            for frame in itertools.islice(read_frames(ROOT / "assets/portrait.mp4"), 60):
                video.write(frame)
    return folder


def run_as_written(page: str, section: str, copy: Path) -> None:
    for program, *words in section_commands(page, section):
        if program == "source":  # the virtual environment, in which this runs
            continue
        assert program == "python"
        words = [GIVEN.get(word, word) for word in words]
        settings = TINY[words[0]] + SHORT if words[0] in TINY else []
        result = subprocess.run([sys.executable, *words, *settings], cwd=copy, capture_output=True, text=True)
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, shlex.join(words)


@pytest.mark.slow
def test_the_first_dub_runs_as_written(copy):
    run_as_written("README.md", "Dub your video", copy)
    assert (copy / "out/mine.mp4").stat().st_size > 10_000


def test_the_first_table_prints_as_written(copy):
    run_as_written("README.md", "Reproduce a table", copy)


@pytest.mark.slow
def test_the_training_walkthrough_runs_as_written(copy):
    assert len(section_commands(*TRAINING)) >= 10
    run_as_written(*TRAINING, copy)
    assert (copy / "out/person.mp4").stat().st_size > 10_000
    assert (copy / "out/fitted.mp4").stat().st_size > 10_000
    assert (copy / "out/report/report.html").is_file()


@pytest.mark.slow
def test_g4g_runs_as_written(copy):
    for command in section_commands(*TRAINING)[:2]:  # which makes the clips, where they are not yet
        assert command[1:3] == ["-m", "data_prep.preprocess"]
        subprocess.run([sys.executable, *command[1:]], cwd=copy, check=True, capture_output=True)
    run_as_written("docs/g4g.md", "Train, dub and score", copy)
    assert (copy / "out/g4g.mp4").stat().st_size > 10_000
    assert "G4G" in (copy / "out/g4g/results/table.md").read_text()
