"""The layers of the house: imports run one way, and the papers' systems work without extensions/."""

import ast
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import write_clips

from media.video import VideoWriter, read_frames

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# A package imports those of its own rank or of a lower one.
RANKS = {
    "media": 0,
    "models": 1,
    "data_prep": 2,
    "losses": 2,
    "metrics": 2,
    "training": 3,
    "dubbing": 3,
    "extensions": 4,
}


def imports(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


FILES = [path for package in RANKS for path in sorted((ROOT / package).glob("**/*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    used = imports(path)
    assert not used & SCRIPTS, "a package imports no script"
    assert {name for name in used if RANKS.get(name, 0) > RANKS[package]} == set()


def test_only_extensions_and_scripts_import_extensions():
    packages = {path.parent for path in ROOT.glob("[a-z]*/*.py")} - {ROOT / "extensions", ROOT / "tests"}
    files = [path for package in packages for path in package.glob("**/*.py")]
    users = {path.relative_to(ROOT).as_posix() for path in files if "extensions" in imports(path)}
    assert users == set()


LONGEST = 77  # lines of a function, with its docstring


def test_no_function_is_too_long_to_read_at_once():
    found = [
        (path.relative_to(ROOT).as_posix(), node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(found) > 1000
    assert [(path, name, lines) for path, name, lines in found if lines > LONGEST] == []


# The tiny runs of every script, in a copy without extensions/, one after the other: (script, config, settings).
STEPS = [
    "train.steps=1",
    "train.gradient_norms_every=0",
    "train.batch_size=2",
    "train.precision=no",
    "train.validation_windows=2",
    "data.workers=0",
]
SMALL = [*STEPS, "model.width=0.03"]
NETWORK = ["model.audio=mel", "train.warp_steps=0", "train.best_by=", "losses.perceptual=0", "losses.sync=0"]
NETWORK += ["losses.mutual_information=0", "losses.warp=0", "discriminator.width=0.05", "sync_expert="]
RUNS = [
    ("train_sync.py", "stsa_sync", [*SMALL, "furthest=15"], "sync"),
    *(
        (script, config, [*SMALL, *settings, f"model.form={form}"], f"{kind}_{form}")
        for form in ("paper", "released")
        for script, config, settings, kind in (
            ("train_heatmap.py", "stsa_heatmap", ["model.audio=mel", "model.layers=1"], "heatmap"),
            ("train_face.py", "stsa_face", NETWORK, "face"),
        )
    ),
    *(
        (
            "finetune_e2e.py",
            "stsa_e2e",
            [*STEPS, *NETWORK[2:], f"heatmap_predictor=runs/heatmap_{form}", f"face_synthesizer=runs/face_{form}"],
            f"e2e_{form}",
        )
        for form in ("paper", "released")
    ),
    (
        "train_face.py",
        "g4g",
        [*SMALL, "model.audio=mel", "losses.perceptual=0", "sync_expert=", "train.best_by="],
        "g4g",
    ),
]
REFUSED = [
    (
        "train_heatmap.py --config configs/demo_speech.yaml data.train=clips data.val=clips output=runs/no",
        "extensions/",
    ),
    ("inference.py --video v.mp4 --audio v.mp4 --output o.mp4 --checkpoint checkpoints/demo", "restore the folder"),
]


def run_all(commands: list[list[str]], folder: Path) -> subprocess.CompletedProcess:
    """Run scripts one after the other in one process, whose imports they share, until one fails."""
    program = (
        "import json, runpy, sys\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = words\n"
        "    try:\n"
        "        runpy.run_path(words[0], run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        if end.code: raise\n"
    )
    command = [sys.executable, "-c", program, json.dumps(commands)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_without_extensions_the_papers_systems_train_dub_and_evaluate(tmp_path):
    skip = {"tests", "docs", "runs", "out", "scripts", "extensions"}
    for place in ROOT.iterdir():
        if place.is_dir() and place.name not in skip and not place.name.startswith("."):
            shutil.copytree(place, tmp_path / place.name, ignore=shutil.ignore_patterns("__pycache__", "downloads"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tmp_path)
    write_clips(tmp_path / "clips")
    with VideoWriter(tmp_path / "videos/v.mp4", 448, 448, sound=ROOT / "assets/speech.wav", duration=0.4) as video:
        for frame in itertools.islice(read_frames(ROOT / "assets/portrait.mp4"), 10):
            video.write(frame)

    clips = ["data.train=clips", "data.val=clips"]
    trainings = [
        [script, "--config", f"configs/{config}.yaml", *clips, *settings, f"output=runs/{name}"]
        for script, config, settings, name in RUNS
    ]
    dub = ["inference.py", "--video", "videos/v.mp4", "--audio", "videos/v.mp4"]
    dubs = [
        [*dub, "--output", f"dubbed/{name}/v.mp4", "--checkpoint", f"runs/{name}"]
        for name in ("e2e_paper", "e2e_released", "g4g")
    ]
    scores = ["evaluate.py", "--generated", "dubbed/g4g", "--reference", "videos", "--metrics", "psnr", "ssim"]
    ended = run_all([*trainings, *dubs, [*scores, "--output", "scores"]], tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "dubbed/e2e_paper/v.mp4").stat().st_size > 10_000
    assert (tmp_path / "scores/results.json").is_file()
    for line, word in REFUSED:
        refused = run_all([line.replace("v.mp4", "videos/v.mp4").split()], tmp_path)
        assert refused.returncode == 2 and word in refused.stderr.splitlines()[-1], refused.stderr[-2000:]
        assert "Traceback" not in refused.stderr
