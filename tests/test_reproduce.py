"""metrics.reproduce: the same clips each time, dubbed once, evaluated beside the paper's rows."""

import json
import re
import shlex
from pathlib import Path

import pytest
from faces import portraits, small_checkpoint, write_frames
from media_files import write_video
from safetensors.torch import load_file, save_file

import evaluate
from data_prep.layout import Source
from media.errors import InputError
from media.video import VideoWriter
from metrics import reproduce, trajectories
from metrics.reproduce import choose_clips, shortfall

ROOT = Path(__file__).resolve().parent.parent


def source(id: str, problem: str = "") -> Source:
    return Source(id, Path(f"{id}.mp4"), Path(f"{id}.mp4"), problem)


def test_the_seed_chooses_the_same_test_clips_whatever_the_order():
    clips = [source(f"{split}/{number:05}") for split in ("train", "test") for number in range(100)]
    clips.append(source("test/absent", "is not there"))
    chosen = choose_clips(clips, 40, seed=0)
    assert len({clip.id for clip in chosen}) == 40
    assert all(clip.id.startswith("test/") and not clip.problem for clip in chosen)
    assert choose_clips(clips[::-1], 40, seed=0) == chosen
    assert choose_clips(clips, 40, seed=1) != chosen
    assert len(choose_clips([source("a"), source("b")], 40, seed=0)) == 2
    with pytest.raises(InputError, match="no test clip"):
        choose_clips([source("a", "broken")], 40, seed=0)
    with pytest.raises(InputError, match="no test clip"):  # and none of another split in its place
        choose_clips([source("test/a", "broken"), source("train/b")], 40, seed=0)


def test_a_dataset_with_splits_needs_a_test_split():
    sources = [Source(f"{split}/a", Path("a.mp4"), Path("a.mp4")) for split in ("train", "val")]
    with pytest.raises(InputError, match="add its test list"):
        reproduce.candidates(sources)
    assert reproduce.candidates([Source("a", Path("a.mp4"), Path("a.mp4"))])[0].id == "a"


def test_test_clips_that_are_missing_are_said():
    clips = [source("train/x", "is not there"), *(source(f"test/{number}") for number in range(3))]
    assert shortfall(clips, 3) == []
    clips += [source(f"test/absent{number}", "is not there") for number in range(7)]
    unusable, few = shortfall(clips, 4)
    assert unusable.startswith("7 of 10 test clips cannot be used: test/absent0 is not there, test/absent1 is not")
    assert unusable.endswith("test/absent4 is not there and 2 more")
    assert few == "only 3 test clips can be used, not the 4 asked for: all of them are taken"


def table_commands() -> list[list[str]]:
    """The commands of docs/reproduction.md on the papers' tables, one list of words each."""
    section = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8").split("\n## Departures")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "python"]


def test_the_readmes_table_commands_run(tmp_path, monkeypatch, capsys):
    """Published tables and evaluations as written; of a reproduction the steps that take long are left out."""
    monkeypatch.chdir(tmp_path)
    frames = portraits(3)
    folders = ("DUBS", "TRUTH", "videos/val", "LRS2/mvlrs_v1/main/1")
    for folder in (*folders, "out/no_cil/dubbed", "out/full/dubbed", "out/full/truth"):
        write_frames(tmp_path / folder / "one.mp4", frames)
    for place in ("heatmaps.mp4", "sketches.mp4"):
        write_frames(tmp_path / place, frames)
    (tmp_path / "out/full/clips.txt").write_text("one\n")
    (tmp_path / "LRS2/test.txt").write_text("1/one NF\n")
    monkeypatch.setattr(reproduce, "choose_clips", lambda sources, count, seed: [source("one")])
    monkeypatch.setattr(reproduce, "prepare", lambda clips, output, crops: None)
    monkeypatch.setattr(reproduce, "digest", lambda checkpoint: "0")
    monkeypatch.setattr(reproduce, "held_out", lambda sources, checkpoint: (sources, []))
    monkeypatch.setattr(reproduce, "step", lambda *arguments: 0)
    monkeypatch.setattr(reproduce, "LAYOUTS", {name: lambda folder: [source("one")] for name in reproduce.LAYOUTS})
    for dataset in ("CMLR", "HDTF"):
        (tmp_path / dataset).mkdir()
    mains = {
        "evaluate.py": evaluate.main,
        "metrics.reproduce": reproduce.main,
        "metrics.trajectories": trajectories.main,
    }
    tested_apart = ["train_face.py", "checkpoints.combine", "checkpoints.fetch", "inference.py", "metrics.unpaired"]
    tested_apart += ["metrics.comparison", "metrics.study", "metrics.opinions"]
    mains |= dict.fromkeys(tested_apart, lambda arguments: 0)
    commands = table_commands()
    assert len(commands) >= 9
    for python, *words in commands:
        assert python == "python"
        name, *arguments = words[1:] if words[0] == "-m" else words
        assert mains[name](arguments) == 0, shlex.join(words)
    out = capsys.readouterr().out
    assert "no CIL" in out
    assert (tmp_path / "out/stsa-ablation/report.html").is_file()
    assert (tmp_path / "out/g4g-user-study/table.tex").is_file()


@pytest.mark.slow
def test_a_folder_is_dubbed_and_evaluated_and_a_second_run_dubs_nothing_again(tmp_path, capfd):
    sound = write_video(tmp_path / "sound.mp4", beats=(0, 1))
    clips = tmp_path / "clips"
    with VideoWriter(clips / "a.b" / "one.mp4", 240, 224, sound=sound, duration=0.4) as writer:
        for frame in portraits(10):
            writer.write(frame)
    arguments = [
        *(str(clips), "--dataset", "folder", "--table", "stsa-ablation", "--metrics", "psnr", "ssim"),
        *("--checkpoint", str(small_checkpoint(tmp_path / "checkpoint")), "--output", str(tmp_path / "out")),
    ]
    assert reproduce.main(arguments) == 0
    out = capfd.readouterr().out
    assert "only 1 test clips can be used, not the 40 asked for" in out
    assert "1 dubbed, 0 were there already, 0 failed" in out
    assert "Ours (w/ FT)" in out
    assert "Reproduction" in out
    dubbed = tmp_path / "out" / "dubbed" / "a.b" / "one.mp4"
    written = dubbed.stat().st_mtime_ns
    results = json.loads((tmp_path / "out" / "results" / "results.json").read_text(encoding="utf-8"))
    assert results["methods"][0]["clips"][0]["name"] == "a.b/one"
    assert results["methods"][0]["metrics"]["psnr"]["mean"] > 5

    assert reproduce.main(arguments) == 0
    assert "0 dubbed, 1 were there already, 0 failed" in capfd.readouterr().out
    assert dubbed.stat().st_mtime_ns == written

    settings = json.loads((tmp_path / "out" / "settings.json").read_text(encoding="utf-8"))
    assert (settings["protocol"], settings["reference choice"], settings["precision"]) == (
        "authors", "truncated", "float32",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "results" / "results.json").read_text(encoding="utf-8"))
    assert found["options"]["protocol"] == "authors" and found["options"]["bare"]
    assert found["options"]["crop"]["height"] == 128
    assert (tmp_path / "out/crops/true/a.b/one.mkv").is_file() and (tmp_path / "evaluation_cache").is_dir()
    assert "Protocol authors: the whole generated crop" in out and "names no training data" in out
    assert reproduce.main([*arguments, "--seed", "1"]) == 2
    assert "is of a run with seed 0, not 1" in capfd.readouterr().err

    weights = tmp_path / "checkpoint" / "face_synthesizer.safetensors"
    trained = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in trained.items()}, weights)  # trained anew into the same folder
    assert reproduce.main(arguments) == 2
    assert "is of a run with checkpoint digest" in capfd.readouterr().err
    assert reproduce.main([*arguments, "--checkpoint", str(tmp_path)]) == 2
    assert "config.yaml cannot be read" in capfd.readouterr().err
