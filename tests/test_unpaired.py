"""Evaluation without true videos of the same words, and the pairs lists of Wav2Lip's evaluation."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from faces import empty, portraits, small_checkpoint, write_frames
from media_files import beat_sound, write_sound, write_video
from test_evaluate import results, run

from media.errors import InputError
from media.video import VideoWriter, probe
from metrics import unpaired
from metrics.pairs import FrameCount, Pair, read_pairs


@pytest.fixture(scope="module")
def dubbed(tmp_path_factory) -> Path:
    """Two generated videos with sound, one longer than its source."""
    folder = tmp_path_factory.mktemp("dubbed")
    sound = write_sound(folder / "sound.wav", "pcm_s16le", 16000, sound=beat_sound(16000, 0.4))
    for name, count in (("0", 7), ("1", 10)):
        with VideoWriter(folder / "made" / f"{name}.mp4", 240, 224, sound=sound, duration=count / 25) as writer:
            for frame in portraits(count):
                writer.write(frame)
        write_frames(folder / "source" / f"{name}.mp4", portraits(7)[::-1])
    sound.unlink()
    return folder


def test_generated_videos_alone_are_scored(dubbed, tmp_path, capsys):
    code, out, _ = run("--generated", dubbed / "made", "--output", tmp_path / "out", capsys=capsys)
    assert code == 0
    assert out.startswith("Evaluation, unpaired")
    assert "2 videos scored in 17 frames; 0 frames and 0 videos left out" in out
    found = results(tmp_path / "out")
    assert found["options"]["unpaired"] and not {"psnr", "fid", "dme"} & set(found["options"]["metrics"])
    clips = found["methods"][0]["clips"]
    assert [clip["frames"] for clip in clips] == [7, 10] and clips[0]["reference"] is None
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_a_video_without_a_face_is_left_out(tmp_path, capsys):
    write_frames(tmp_path / "made" / "a.mp4", [empty()] * 3)
    code, _, err = run("--generated", tmp_path / "made", capsys=capsys)
    assert code == 2 and "no face was found in the generated video" in err


def test_a_generated_video_may_be_longer_than_the_dubbed_one(dubbed):
    pair = Pair("1", dubbed / "made/1.mp4", dubbed / "source/1.mp4")
    count = FrameCount()
    frames = list(read_pairs(pair, count, False, False, unpaired=True))
    assert [frame.reference is None for frame in frames] == [False] * 7 + [True] * 3
    assert (count.shared, count.only_generated, count.only_reference) == (10, 0, 0)
    assert len(list(read_pairs(pair, FrameCount(), False, False))) == 7


def pairs_tree(root: Path) -> Path:
    """LRS2's shape: a short and a long clip, and a list that crosses their words."""
    for name, count in (("1/00001", 30), ("2/00001", 60)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", pictures=count, beats=(0, Fraction(count, 25)))
    (root / "list.txt").write_text("1/00001 2/00001\n\n2/00001 1/00001\n1/00001 1/00001\n")
    return root / "list.txt"


def test_a_pairs_list_is_prepared_as_wav2lips_script_does(tmp_path, monkeypatch, capsys):
    path = pairs_tree(tmp_path / "data")
    lines = unpaired.read_list(path, tmp_path / "data")
    assert [(line.number, line.sound.parent.name, line.video.parent.name) for line in lines] == [
        (0, "1", "2"), (1, "2", "1"), (2, "1", "1"),
    ]  # fmt: skip
    assert [unpaired.too_short(line) for line in lines] == [False, True, False]
    assert len(unpaired.read_list(path, tmp_path / "data", 1)) == 1
    steps: list[tuple] = []

    def step(*words) -> int:
        steps.append(words)
        return 0

    monkeypatch.setattr(unpaired, "step", step)
    out = tmp_path / "out"
    arguments = [str(path), "--data", str(tmp_path / "data"), "--output", str(out)]
    assert unpaired.main([*arguments, "--generated", f"Theirs={tmp_path}"]) == 0
    assert "2 pairs of" in capsys.readouterr().out
    assert [words[0] for words in steps] == ["evaluate.py"] and f"Theirs={tmp_path}" in steps[0]
    assert sorted(each.name for each in (out / "source").iterdir()) == ["0.mp4", "2.mp4"]
    assert (out / "clips.txt").read_text() == "0\n2\n"
    assert (out / "list.csv").read_text().splitlines()[1].startswith(str(tmp_path / "data/2/00001.mp4"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1/00001", "is not <sound> <video>"),
        ("../x 1/00001", "lies outside"),
        ("3/00001 1/00001", "is not in"),
        ("", "has no line"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, line, message):
    path = pairs_tree(tmp_path)
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        unpaired.read_list(path, tmp_path)


@pytest.mark.slow
def test_pairs_are_dubbed_and_scored(tmp_path, capfd):
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, sound=beat_sound(16000, 0.6))
    for name in ("a", "b"):
        with VideoWriter(tmp_path / "data" / f"{name}.mp4", 240, 224, sound=sound, duration=0.6) as writer:
            for frame in portraits(16):
                writer.write(frame)
    (tmp_path / "pairs.txt").write_text("a b\n")
    arguments = [
        *(str(tmp_path / "pairs.txt"), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")),
        *("--checkpoint", str(small_checkpoint(tmp_path / "checkpoint"))),
    ]
    assert unpaired.main(arguments) == 0
    assert "1 videos scored" in capfd.readouterr().out
    assert probe(tmp_path / "out/dubbed/0.mp4").has_sound
    found = json.loads((tmp_path / "out/results/results.json").read_text())
    assert found["methods"][0]["clips"][0]["reference"].endswith("source/0.mp4")
    assert any("pairs.txt" in note for note in found["notes"])
