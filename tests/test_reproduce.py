"""metrics.reproduce: the same clips each time, dubbed once, evaluated beside the paper's rows."""

import json
from pathlib import Path

import pytest
from faces import portraits, small_checkpoint
from media_files import write_video

from data_prep.layout import Source
from media.errors import InputError
from media.video import VideoWriter
from metrics import reproduce
from metrics.reproduce import choose_clips


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

    assert reproduce.main([*arguments, "--seed", "1"]) == 2
    assert "is of a run with seed 0, not 1" in capfd.readouterr().err
