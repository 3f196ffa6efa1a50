"""Dataset layouts on miniature trees of the real shape, data_prep.split, HDTF's annotations, and held-out clips."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from faces import portraits, small_checkpoint
from media_files import beat_times, number_of, write_sound, write_video
from omegaconf import OmegaConf
from training_runs import write_clips

from data_prep import folder, hdtf, lrs2, lrs3, split, voxceleb2
from data_prep.cut import source_frames, source_sound, write_part
from data_prep.layout import Cut, Source
from media.errors import InputError
from media.sound import read_audio
from media.video import read_frames
from metrics.held_out import data_folders, held_out


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def lrs3_tree(root: Path) -> None:
    talks = {"pretrain": "0Fi83BHQsMA", "trainval": "0Fi83BHQsMA", "test": "0C5UQbWzwg8"}
    for part, talk in [*talks.items(), ("trainval", "0akiEFwtkyA"), ("pretrain", "0akiEFwtkyA")]:
        touch(root / part / talk / "00001.mp4", root / part / talk / "00001.txt")
    touch(root / "trainval" / "0akiEFwtkyA" / "00001.wav")


def test_lrs3_has_its_sound_apart_and_a_folder_an_identity(tmp_path):
    lrs3_tree(tmp_path)
    found = {source.id: source for source in lrs3.sources(tmp_path)}
    assert set(found) == {
        "pretrain/0Fi83BHQsMA/00001", "pretrain/0akiEFwtkyA/00001",
        "train/0Fi83BHQsMA/00001", "train/0akiEFwtkyA/00001", "test/0C5UQbWzwg8/00001",
    }  # fmt: skip
    apart = found["train/0akiEFwtkyA/00001"]
    assert apart.sound == tmp_path / "trainval/0akiEFwtkyA/00001.wav"
    assert (apart.speaker, apart.base) == ("0akiEFwtkyA", "0akiEFwtkyA/00001")
    assert found["train/0Fi83BHQsMA/00001"].sound == tmp_path / "trainval/0Fi83BHQsMA/00001.mp4"
    with pytest.raises(InputError, match="trainval"):
        lrs3.sources(tmp_path / "trainval")


def test_lrs3_s_validation_identities_leave_the_pretraining_clips_too(tmp_path, capsys):
    lrs3_tree(tmp_path)
    assert split.main([str(tmp_path), "--dataset", "lrs3", "--by-speaker", "--val", "1"]) == 0
    assert "val 1 clips of 1 speakers" in capsys.readouterr().out
    assert not (tmp_path / "train.txt").exists() and not (tmp_path / "test.txt").exists()
    found = [source.id for source in lrs3.sources(tmp_path)]
    (val,) = [id.split("/")[1] for id in found if id.startswith("val/")]
    assert sorted(found) == sorted(
        f"{part}/{talk}/00001"
        for part, talk in {
            ("test", "0C5UQbWzwg8"), ("val", val),
            *((part, talk) for part in ("train", "pretrain") for talk in {"0Fi83BHQsMA", "0akiEFwtkyA"} - {val}),
        }
    )  # fmt: skip
    assert split.main([str(tmp_path), "--dataset", "lrs3", "--test", "1"]) == 2
    assert "has lists of data_prep.split already" in capsys.readouterr().err


@pytest.mark.parametrize("tree", ["dev/{kind}", "vox2_dev_{kind}/dev/{kind}"])
def test_voxceleb2_joins_its_two_trees(tmp_path, tree):
    name = "id00012/21Uxsk56VDQ/00001"
    touch(tmp_path / tree.format(kind="mp4") / f"{name}.mp4", tmp_path / tree.format(kind="aac") / f"{name}.m4a")
    touch(tmp_path / "test/mp4/id00017/01dfn2spqyE/00001.mp4")
    first, other = sorted(voxceleb2.sources(tmp_path), key=lambda source: source.speaker)
    assert (first.id, first.speaker) == (f"train/{name}", "id00012")
    assert first.video == tmp_path / tree.format(kind="mp4") / f"{name}.mp4"
    assert first.sound == tmp_path / tree.format(kind="aac") / f"{name}.m4a"
    assert other.id == "test/id00017/01dfn2spqyE/00001" and other.sound == other.video
    (alone,) = voxceleb2.sources(tmp_path / "test/mp4")
    assert alone.id == "id00017/01dfn2spqyE/00001"
    with pytest.raises(InputError, match="VoxCeleb2"):
        voxceleb2.sources(tmp_path / "test/mp4/id00017")


def test_a_split_by_speaker_shares_nobody_and_the_layout_reads_it(tmp_path, capsys):
    for person in range(12):
        touch(*(tmp_path / f"person{person}" / f"{clip}.mp4" for clip in range(1 + person % 3)))
    touch(tmp_path / "alone.mp4")
    command = [str(tmp_path), "--by-speaker", "--test", "5", "--val", "2", "--seed", "3"]
    everything = [source.id for source in folder.sources(tmp_path)]
    assert split.main(command) == 0
    found = folder.sources(tmp_path)
    assert sorted(source.base for source in found) == sorted(everything)
    speakers = {
        part: {source.speaker for source in found if source.id.startswith(f"{part}/")}
        for part in ("train", "val", "test")
    }
    assert all(speakers.values())
    assert len(set.union(*speakers.values())) == sum(map(len, speakers.values())) == 13
    assert 5 <= sum(source.id.startswith("test/") for source in found) <= 7
    lists = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    assert split.main(command) == 0
    assert lists == {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert capsys.readouterr().err == ""

    (tmp_path / "alone.mp4").unlink()
    gone = next(source for source in folder.sources(tmp_path) if source.base == "alone.mp4" or source.problem)
    assert "is not there" in gone.problem


def test_a_share_of_the_clips_is_drawn(tmp_path, capsys):
    """G4G's 8:2 split of LRS2, whose folder then has no list of the dataset's own."""
    main = tmp_path / "mvlrs_v1/main"
    touch(*(main / str(video) / f"0000{clip}.mp4" for video in range(10) for clip in range(3)))
    command = [str(tmp_path), "--dataset", "lrs2", "--by-speaker", "--test", "20%", "--val", "1"]
    assert split.main(command) == 0
    assert "train 21 clips of 7 speakers, val 3 clips of 1 speakers, test 6 clips" in capsys.readouterr().out
    found = Counter(source.id.split("/")[0] for source in lrs2.sources(tmp_path))
    assert found == {"train": 21, "val": 3, "test": 6}
    for wrong in ("100%", "-1", "x", "%"):
        assert split.main([str(tmp_path), "--test", wrong]) == 2
        assert f"--test: invalid amount value: '{wrong}'" in capsys.readouterr().err


def test_a_text_file_that_the_command_did_not_write_is_no_list(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / "train.txt").write_text("my transcripts\n")
    assert [source.id for source in folder.sources(tmp_path)] == ["a"]


def test_splits_that_cannot_be_drawn_are_refused(tmp_path, capsys):
    def complaint(*arguments) -> str:
        assert split.main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    touch(*(tmp_path / f"{name}.mp4" for name in "ab"))
    assert "nothing to draw" in complaint(tmp_path)
    assert "too few for 2 test clips" in complaint(tmp_path, "--test", 2)
    assert "of 2 speakers" in complaint(tmp_path, "--test", 2, "--by-speaker")
    assert "does not exist" in complaint(tmp_path / "none", "--test", 1)
    main = tmp_path / "lrs2/mvlrs_v1/main"
    touch(main / "1/00001.mp4", main / "2/00001.mp4")
    (tmp_path / "lrs2/test.txt").write_text("1/00001\n")
    (tmp_path / "lrs2/train.txt").write_text("2/00001\n")
    assert "has a split of its own" in complaint(tmp_path / "lrs2", "--dataset", "lrs2", "--test", 1)
    (tmp_path / "lrs2/test.txt").unlink()
    (tmp_path / "lrs2/train.txt").unlink()
    assert split.main([str(tmp_path / "lrs2"), "--dataset", "lrs2", "--test", "1"]) == 0
    assert sorted(source.id.split("/")[0] for source in lrs2.sources(tmp_path / "lrs2")) == ["test", "train"]


def hdtf_annotations(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "RD_annotion_time.txt").write_text("Radio11.mp4 00:01-00:02 00:02-00:04 \nRadio54.mp4 00:02-01:20\n")
    (place / "RD_crop_wh.txt").write_text("Radio11_0.mp4 32 64 16 64\nRadio54_0.mp4 699 500 0 500\n")
    (place / "RD_resolution.txt").write_text("Radio11.mp4 128\nRadio54.mp4 0\n")
    (place / "WRA_annotion_time.txt").write_text("AdamKinzinger2.mp4 00:40-01:20 1:02:00-1:02:40\n")


def test_hdtf_is_cut_by_its_annotations(tmp_path):
    hdtf_annotations(tmp_path / "HDTF_dataset")
    touch(tmp_path / "videos/WRA_AdamKinzinger2_001.mp4")
    write_video(tmp_path / "videos/Radio11.mp4", pictures=100, beats=(0, 4))
    found = {source.id: source for source in hdtf.sources(tmp_path)}
    assert set(found) == {
        "RD_Radio11_0", "RD_Radio11_1", "RD_Radio54_0", "WRA_AdamKinzinger2_0", "WRA_AdamKinzinger2_1"
    }  # fmt: skip
    assert found["RD_Radio11_0"].cut == Cut(1, 2, (32, 16, 64, 64), 128, 512)
    assert "no window" in found["RD_Radio11_1"].problem
    assert "is not there" in found["RD_Radio54_0"].problem
    assert "is not there" in found["WRA_AdamKinzinger2_0"].problem
    ready = found["WRA_AdamKinzinger2_1"]
    assert (ready.cut, ready.problem, ready.speaker) == (None, "", "WRA_AdamKinzinger")
    assert ready.video.name == "WRA_AdamKinzinger2_001.mp4"
    assert found["RD_Radio11_0"].speaker == "RD_Radio11"  # Radio1 may be someone else

    source = found["RD_Radio11_0"]
    frames = list(source_frames(source))
    whole = list(read_frames(source.video))
    assert [frame.shape for frame in frames] == [(512, 512, 3)] * 25
    # The video is 64 pixels high and the window is measured at 128: it starts at (16, 8) and is 32 wide.
    small = [frame[8::16, 8::16] for frame in frames]
    assert all(np.abs(a.astype(int) - b[8:40, 16:48]).mean() < 8 for a, b in zip(small, whole[25:50], strict=True))
    assert len(source_sound(source)) == 16000
    assert np.allclose(beat_times(source_sound(source)), [0, 0.5], atol=0.05)
    write_part(source, tmp_path / "part.mp4")
    assert len(list(read_frames(tmp_path / "part.mp4"))) == 25
    assert np.allclose(beat_times(read_audio(tmp_path / "part.mp4")), [0, 0.5], atol=0.05)


@pytest.mark.slow
def test_hdtf_s_cut_clips_become_clip_files_and_test_clips(tmp_path, capsys):
    """Preprocess and reproduce read the same 512x512 part; its face and its sound are those of the part."""
    from data_prep import preprocess
    from data_prep.clips import Clip
    from metrics.reproduce import prepare

    place = tmp_path / "hdtf"
    place.mkdir()
    (place / "WRA_annotion_time.txt").write_text("Someone.mp4 00:01-00:03\n")
    (place / "WRA_crop_wh.txt").write_text("Someone_0.mp4 20 200 10 200\n")
    write_video(place / "Someone.mp4", pictures=portraits(90), beats=(0, Fraction(90, 25)))
    assert preprocess_run(preprocess, place, tmp_path / "out") == 0, capsys.readouterr().err
    clip = Clip(tmp_path / "out" / "WRA_Someone_0.safetensors")
    assert (len(clip), clip.seconds, clip.frames[0]) == (50, 2.0, 0)
    assert np.allclose(beat_times(clip.wav), [0, 0.5, 1, 1.5], atol=0.05)
    (source,) = hdtf.sources(place)
    prepare([source], tmp_path / "repro")
    (truth,) = (tmp_path / "repro" / "truth").iterdir()
    assert truth.name == "WRA_Someone_0.mp4" and next(read_frames(truth)).shape == (512, 512, 3)


def preprocess_run(preprocess, folder: Path, output: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["preprocess", str(folder), str(output), "--dataset", "hdtf", "--workers", "1"])
        return preprocess.main()


def test_a_part_without_a_window_keeps_frames_and_sound_together(tmp_path):
    video = write_video(tmp_path / "a.mp4", pictures=60)
    sound = write_sound(tmp_path / "a.wav", "pcm_s16le", 16000, seconds=2.4)
    source = Source("a", video, sound, cut=Cut(0.5, 1.3))
    assert [number_of(frame) for frame in source_frames(source)] == list(range(12, 32))
    assert len(source_sound(source)) == 20 * 640
    with pytest.raises(InputError, match="ends before 9 s"):
        next(source_frames(Source("a", video, sound, cut=Cut(9, 10))))
    with pytest.raises(InputError, match="no pixel in the window"):
        next(source_frames(Source("a", video, sound, cut=Cut(0, 1, (900, 0, 10, 10)))))


def test_annotations_that_cannot_be_read_are_refused(tmp_path):
    touch(tmp_path / "A.mp4")
    for line, message in (("A.mp4 0x-1", "cannot be read"), ("A.mp4 00:30-00:10", "no length")):
        (tmp_path / "WDA_annotion_time.txt").write_text(line + "\n")
        with pytest.raises(InputError, match=message):
            hdtf.sources(tmp_path)


def trained_on(checkpoint: Path, train: str) -> Path:
    config = OmegaConf.load(checkpoint / "config.yaml")
    config.training = {"face_synthesizer": {"data": {"train": train}}}
    OmegaConf.save(config, checkpoint / "config.yaml")
    return checkpoint


def test_training_clips_are_not_drawn_and_the_reason_is_said(tmp_path):
    checkpoint = small_checkpoint(tmp_path / "checkpoint")
    videos = tmp_path / "videos"
    touch(*(videos / f"{name}.mp4" for name in "abc"))
    sources = [Source(f"test/{name}", videos / f"{name}.mp4", videos / f"{name}.mp4") for name in "abc"]
    kept, (line,) = held_out(sources, checkpoint)
    assert kept == sources and "names no training data" in line

    trained_on(checkpoint, str(tmp_path / "data" / "train"))
    kept, (line,) = held_out(sources, checkpoint)
    assert kept == sources and "is not here" in line

    clips = sorted(write_clips(tmp_path / "data" / "train").rglob("*.safetensors"))
    clips[0].rename(clips[0].with_name("a.safetensors"))
    clips[1].rename(clips[1].with_name("other.safetensors"))
    for clip in clips[2:]:
        clip.unlink()
    kept, (line,) = held_out(sources, checkpoint)
    assert [source.base for source in kept] == ["b", "c"]  # a: the same id
    assert "2 clip files" in line and "1 clips of the dataset are among them" in line

    lines = [
        {"id": "train/a", "source": "a.mp4", "source_bytes": 999},  # another video of the same name
        {"id": "train/other", "source": "b.mp4", "source_bytes": 1},
    ]
    (tmp_path / "data/manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [source.base for source in held_out(sources, checkpoint)[0]] == ["a", "c"]

    config = OmegaConf.load(checkpoint / "config.yaml")
    config.training = {"data": {"train": "nowhere", "val": str(tmp_path / "data" / "train")}}
    OmegaConf.save(config, checkpoint / "config.yaml")
    kept, told = held_out(sources, checkpoint)
    assert len(kept) == 3 and "selected the weights: 1 clips of the dataset are among it" in told[1]


def test_the_training_folders_of_a_run_and_of_combined_networks_are_found(tmp_path):
    checkpoint = small_checkpoint(tmp_path / "checkpoint")
    assert data_folders(checkpoint, "train") == []
    trained_on(checkpoint, "data/lrs2/train")
    assert data_folders(checkpoint, "train") == ["data/lrs2/train"]
    config = OmegaConf.load(checkpoint / "config.yaml")
    config.training = {"data": {"train": "data/a", "val": "data/b", "workers": 2}, "output": "runs/a"}
    OmegaConf.save(config, checkpoint / "config.yaml")
    assert (data_folders(checkpoint, "train"), data_folders(checkpoint, "val")) == (["data/a"], ["data/b"])
    with pytest.raises(InputError, match="cannot be read"):
        data_folders(tmp_path, "train")
