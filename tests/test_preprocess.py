"""The preprocessing command on folders that the tests make: datasets' layouts, bad files, kills and resumption."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT, threads_of_libraries
from crashing import ten_times_unless_three
from faces import empty, portraits, small_wav2vec2_folder
from media_files import beat_sound, write_sound
from safetensors.numpy import load_file
from training_runs import write_clips

from data_prep import cmlr, folder, hdtf, lrs2, preprocess, workers
from data_prep.clips import Clip
from data_prep.layout import Source
from data_prep.manifest import Manifest
from media.audio import mel_spectrogram, wav2vec2_features
from media.landmarks import tracked
from media.loudness import TARGET, heard
from media.sound import read_audio
from media.video import VideoWriter, read_frames


def write_clip_video(path: Path, pictures: list[np.ndarray], sound: Path | None, fps: int = 25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, width, height, fps, sound=sound, crf=10) as video:
        for picture in pictures:
            video.write(picture)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound") / "beats.wav", "pcm_s16le", 16000, seconds=1.3)


@pytest.fixture(scope="module")
def talk(tmp_path_factory, sound) -> Path:
    """1.28 s of a face, but for frames 10 to 12, with sound."""
    pictures = portraits(32)
    pictures[10:13] = [empty()] * 3
    return write_clip_video(tmp_path_factory.mktemp("talk") / "talk.mp4", pictures, sound)


def in_this_process(function, items, count, backend):
    """Stands in for `spread`: another process takes seconds to start, and knows nothing of what a test has replaced."""
    if backend == "dask":
        yield from workers.spread(function, items, count, backend)
    else:
        yield from ((item, function(item)) for item in items)


def run(*arguments, capsys=None) -> tuple[int, str, str]:
    """The command in this process: (exit code, standard output, standard error)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "spread", in_this_process)
        patch.setattr(sys, "argv", ["preprocess", *map(str, arguments)])
        code = preprocess.main()
    out, err = capsys.readouterr() if capsys else ("", "")
    return code, out, err


def manifest(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def contents(output: Path) -> dict[str, bytes]:
    """The files of a folder, without the index, which holds times."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "index.jsonl"]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_a_clip_file_holds_the_source_s_faces_and_sound(tmp_path, talk, capsys):
    shutil.copy(talk, tmp_path / "talk.mp4")
    code, out, _ = run(tmp_path, tmp_path / "out", "--workers", 1, capsys=capsys)
    assert code == 0 and out.startswith("1 succeeded, 0 failed")
    clip = Clip(tmp_path / "out" / "talk.safetensors")
    assert list(clip.frames) == [*range(10), *range(13, 32)]

    frames = list(read_frames(talk))
    for place in (0, 9, 10, 28):
        # STSA's crop is the landmarks' bounds, 5 px wider, cut to whole pixels.
        frame, points = frames[clip.frames[place]], clip.points[place, :131]
        x1, y1, x2, y2 = np.floor([*(points.min(axis=0) - 5), *(points.max(axis=0) + 5)]).astype(int)
        crop = cv2.resize(frame[y1:y2, x1:x2], (128, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(crop.astype(int) - clip.faces(place)).mean() < 2
        np.testing.assert_allclose(clip.landmarks[place], (points - [x1, y1]) / [x2 - x1, y2 - y1], atol=1e-6)
        # What is stored is wider, and as the camera saw it.
        left, top, right, bottom = clip.boxes[place]
        assert np.abs(frame[top:bottom, left:right].astype(int) - clip.pictures([place])[0]).mean() < 2
        assert left <= x1 and top <= y1 and right >= x2 and bottom >= y2
        assert (right - left) * (bottom - top) > 1.5 * (x2 - x1) * (y2 - y1)
    # MediaPipe's own answer, asked directly.
    from mediapipe.python.solutions import face_mesh

    with face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        found = mesh.process(frames[20]).multi_face_landmarks[0].landmark
    points = tracked(np.array([(point.x * 240, point.y * 224) for point in found]))
    np.testing.assert_allclose(clip.points[list(clip.frames).index(20)], points, atol=1)

    wav = read_audio(talk)
    assert np.abs(clip.pcm / 32767 - wav).max() <= 0.51 / 32767
    np.testing.assert_array_equal(clip.audio("mel"), mel_spectrogram(heard(wav)).astype(np.float16))
    assert clip.heard == TARGET
    expected = {"id": "talk", "source": "talk.mp4", "outcome": "ok", "frames": 29, "audio": ["mel"]}
    expected["source_bytes"] = talk.stat().st_size
    assert manifest(tmp_path / "out") == [expected | {"seconds": round(len(wav) / 16000, 2)}]


def test_pictures_are_as_large_and_as_good_as_asked_for(tmp_path, talk, capsys):
    shutil.copy(talk, tmp_path / "talk.mp4")
    sizes = {}
    for name, options in {"": (), "small": ("--longest-side", 60), "poor": ("--quality", 40)}.items():
        assert run(tmp_path, tmp_path / f"out{name}", "--workers", 1, *options)[0] == 0
        clip = Clip(tmp_path / f"out{name}" / "talk.safetensors")
        sizes[name] = len(clip.face_bytes([0])[0])
        longest = 60 if name == "small" else (clip.boxes[0, 2:] - clip.boxes[0, :2]).max()
        assert max(clip.pictures([0])[0].shape) == longest
    assert sizes["small"] < sizes["poor"] < sizes[""]
    for options in (("--quality", 0), ("--quality", 101), ("--longest-side", 5000)):
        assert run(tmp_path, tmp_path / "out", *options)[0] == 2
        assert f" {options[1]} must be" in capsys.readouterr().err


def test_bad_files_are_lines_in_the_manifest_and_the_rest_goes_on(tmp_path, talk, sound, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(talk.parent, source)
    whole = talk.read_bytes()
    (source / "corrupt.mp4").write_bytes(os.urandom(3000))
    (source / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.mp4").write_text("not a video")
    write_clip_video(source / "no_face.mp4", [empty()] * 30, sound)
    write_clip_video(source / "no_sound.mp4", portraits(30), None)
    write_clip_video(source / "deep" / "short.mp4", portraits(12), sound)
    write_clip_video(source / "few_faces.mp4", [*portraits(10), *[empty()] * 22], sound)
    (source / "only_sound.mp4").write_bytes(write_sound(tmp_path / "s.mp4", "aac", 16000).read_bytes())
    (source / "notes.txt").write_text("no video, no line")

    code, out, err = run(source, output, "--workers", 1, capsys=capsys)
    assert code == 0 and "1 succeeded, 9 failed" in out and "Traceback" not in err
    lines = {line["id"]: line for line in manifest(output)}
    assert list(lines) == sorted(lines) and len(lines) == 10
    assert lines["talk"]["outcome"] == "ok"
    assert {line["outcome"] for id, line in lines.items() if id != "talk"} == {"failed"}
    reasons = {id: line.get("reason", "") for id, line in lines.items()}
    assert "no face" in reasons["no_face"]
    assert "no sound" in reasons["no_sound"]
    assert "under one second" in reasons["deep/short"]
    assert "only 10 of its 32" in reasons["few_faces"]
    assert "empty" in reasons["empty"]
    assert all(reasons[id] for id in ("corrupt", "cut", "text", "only_sound"))
    assert sorted(path.name for path in output.rglob("*.safetensors")) == ["talk.safetensors"]

    # A second run does what is left, which may have been repaired.
    before = (output / "talk.safetensors").stat().st_mtime_ns
    shutil.copy(talk, source / "corrupt.mp4")
    code, out, _ = run(source, output, "--workers", 1, capsys=capsys)
    assert "2 succeeded, 8 failed; 1 of them" in out
    assert (output / "talk.safetensors").stat().st_mtime_ns == before
    assert len(manifest(output)) == 10


def test_a_run_in_which_no_source_can_be_used_fails(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.mp4").touch()
    code, out, _ = run(tmp_path / "in", tmp_path / "out", "--workers", 1, capsys=capsys)
    assert code == 2 and "0 succeeded, 1 failed" in out


def test_a_source_that_cannot_be_named_or_is_gone_does_not_stop_the_others(tmp_path, talk, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(talk.parent, source)
    (source / f"{'語' * 83}.mp4").symlink_to(talk)
    code, out, _ = run(source, output, "--workers", 1, capsys=capsys)
    assert code == 0 and "1 succeeded, 1 failed" in out
    assert "too long for a clip file" in manifest(output)[1]["reason"]
    (source / "talk.mp4").unlink()
    (source / "talk.mp4").symlink_to(tmp_path / "gone.mp4")
    code, out, _ = run(source, output, "--workers", 1, capsys=capsys)
    assert code == 0 and "1 succeeded, 1 failed; 1 of them were done before" in out


def test_lines_of_a_manifest_that_are_none_are_passed_over(tmp_path):
    (tmp_path / "manifest.jsonl").write_text(f'{{"id": 5}}\n[1]\n{"[" * 100_000}\n{{"id": "a", "outcome": "ok"}}\n')
    found = Manifest(tmp_path)
    found.sort()
    assert found.read() == {"a": {"id": "a", "outcome": "ok"}}


@pytest.mark.slow
def test_a_killed_run_is_finished_by_the_next_with_the_same_files(tmp_path, talk, capsys):
    source = tmp_path / "in"
    for name in ("a", "b", "c", "d"):
        shutil.copytree(talk.parent, source / name)
    assert run(source, tmp_path / "whole", "--workers", 1)[0] == 0

    output = tmp_path / "killed"
    command = [sys.executable, "-m", "data_prep.preprocess", str(source), str(output), "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not list(output.rglob("[!.]*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    there = {name for name in contents(output) if name.endswith(".safetensors") and "/." not in name}
    assert there, "nothing was finished in time"
    for name in there:
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    # What a kill can leave at worst: half a clip file under a temporary name, half a manifest line.
    (output / "d").mkdir(exist_ok=True)
    (output / "d" / ".talk.123.partial.safetensors").write_bytes(b"half")
    (output / ".manifest.123.partial.jsonl").write_text('{"id": "a/ta')
    with (output / "manifest.jsonl").open("a") as file:
        file.write('{"id": "d/ta')
    code, out, _ = run(source, output, "--workers", 1, capsys=capsys)
    assert code == 0 and "4 succeeded, 0 failed" in out
    assert contents(output) == contents(tmp_path / "whole")


def test_a_clip_file_does_not_depend_on_the_threads_of_its_process(tmp_path, talk, monkeypatch):
    model, _ = small_wav2vec2_folder(tmp_path / "wav2vec2", channels=768)
    monkeypatch.setattr("media.audio.wav2vec2_features", functools.partial(wav2vec2_features, model=model))
    shutil.copytree(talk.parent, tmp_path / "in")
    for threads in (1, 2):
        with threads_of_libraries(threads):
            run(tmp_path / "in", tmp_path / f"out{threads}", "--workers", 1, "--audio", "mel", "wav2vec2")
    one, two = (load_file(tmp_path / f"out{threads}" / "talk.safetensors") for threads in (1, 2))
    assert one.keys() == two.keys() and "audio_wav2vec2" in one
    assert [name for name in one if one[name].tobytes() != two[name].tobytes()] == []
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_known_offsets_are_corrected(tmp_path, talk, capsys):
    source, output, table = tmp_path / "in", tmp_path / "out", tmp_path / "offsets.tsv"
    (source / "a").mkdir(parents=True)
    shutil.copy(talk, source / "a" / "talk.mp4")
    run(source, output, "--workers", 1)
    before = Clip(output / "a" / "talk.safetensors").pcm
    Manifest(output).add([manifest(output)[0] | {"offset": 3}])

    for milliseconds, samples in (("40", 640), ("-60", -960)):
        table.write_text(f"file\tperson\tpicture_later_ms\na/talk.mp4\tx\t{milliseconds}\nb.mp4\ty\t\n")
        code, _, _ = run(source, output, "--workers", 1, "--offsets", table, capsys=capsys)
        after = Clip(output / "a" / "talk.safetensors").pcm
        expected = np.pad(before, (samples, 0)) if samples > 0 else before[-samples:]
        assert code == 0
        np.testing.assert_array_equal(after, expected)
        assert "offset" not in manifest(output)[0]  # it was that of the uncorrected sound
        assert manifest(output)[0]["picture_later"] == int(milliseconds) / 1000
    run(source, output, "--workers", 1)
    np.testing.assert_array_equal(Clip(output / "a" / "talk.safetensors").pcm, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\tlag\na.mp4\t3\n", "does not name file and picture_later_ms"),
        ("file\tpicture_later_ms\na.mp4\tlate\n", "could not convert"),
        ("file\tpicture_later_ms\na.mp4\tinf\n", "not finite"),
        ("file\tpicture_later_ms\nother.mp4\t40\n", "names no video"),
    ],
)
def test_a_table_of_offsets_that_cannot_be_used_is_refused(tmp_path, talk, capsys, text, message):
    (tmp_path / "in").mkdir()
    shutil.copy(talk, tmp_path / "in" / "talk.mp4")
    (tmp_path / "offsets.tsv").write_text(text)
    code, _, err = run(tmp_path / "in", tmp_path / "out", "--offsets", tmp_path / "offsets.tsv", capsys=capsys)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_clip_file_that_is_damaged_or_lacks_audio_is_made_again(tmp_path, talk, capsys, monkeypatch):
    shutil.copy(talk, tmp_path / "talk.mp4")
    clip = tmp_path / "out" / "talk.safetensors"
    run(tmp_path, tmp_path / "out", "--workers", 1)
    whole = clip.read_bytes()
    Manifest(tmp_path / "out").add([manifest(tmp_path / "out")[0] | {"offset": 2}])
    clip.write_bytes(whole[:-100])
    run(tmp_path, tmp_path / "out", "--workers", 1)
    assert clip.read_bytes() == whole

    assert manifest(tmp_path / "out")[0]["offset"] == 2  # another command's remark on the same clip stays
    run(tmp_path, tmp_path / "out", "--workers", 1)
    assert manifest(tmp_path / "out")[0]["offset"] == 2

    monkeypatch.setattr(
        "media.audio.wav2vec2_features", lambda wav, device: np.zeros((len(wav) // 320, 768), np.float32)
    )
    capsys.readouterr()
    run(tmp_path, tmp_path / "out", "--workers", 1, "--audio", "mel", "wav2vec2", capsys=capsys)
    assert Clip(clip).kinds == ["mel", "wav2vec2"]
    assert manifest(tmp_path / "out")[0]["audio"] == ["mel", "wav2vec2"]
    assert manifest(tmp_path / "out")[0]["offset"] == 2
    # The line may be one that only the other command has written; and a clip that has changed has its offset no more.
    (tmp_path / "out" / "manifest.jsonl").write_text('{"id": "talk", "outcome": "ok", "offset": 3}\n')
    run(tmp_path, tmp_path / "out", "--workers", 1)
    assert manifest(tmp_path / "out")[0]["offset"] == 3 and manifest(tmp_path / "out")[0]["frames"] == 29
    Manifest(tmp_path / "out").add([manifest(tmp_path / "out")[0] | {"frames": 30}])
    run(tmp_path, tmp_path / "out", "--workers", 1)
    assert "offset" not in manifest(tmp_path / "out")[0]


def test_a_source_of_another_size_is_not_done(tmp_path):
    folder, video = write_clips(tmp_path / "clips", count=1), tmp_path / "clip_0.mp4"
    video.write_bytes(b"0" * 10)
    source = Source("clip_0", video, video)
    (line,) = preprocess.finished([source], folder, ["mel"], {})
    assert line["source_bytes"] == 10
    assert preprocess.finished([source], folder, ["mel"], {"clip_0": line | {"offset": 1}}) == [line | {"offset": 1}]
    video.write_bytes(b"0" * 11)
    assert preprocess.finished([source], folder, ["mel"], {"clip_0": line}) == []
    older = {key: value for key, value in line.items() if key != "source_bytes"}
    assert len(preprocess.finished([source], folder, ["mel"], {"clip_0": older})) == 1
    video.unlink()  # its clip file stays done, where a line tells what it was
    gone = dataclasses.replace(source, problem="is missing")
    assert preprocess.finished([gone], folder, ["mel"], {"clip_0": line}) == [line]
    assert preprocess.finished([gone], folder, ["mel"], {}) == []


def test_shards_share_the_sources(tmp_path, monkeypatch, capsys):
    for name in "abcde":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.mp4").write_bytes(b"x")
    monkeypatch.setattr(
        preprocess, "process", lambda source, **options: preprocess.failure(source, f"seen by {os.getpid()}")
    )
    for shard, expected in [("1/2", ["a", "c", "e"]), ("2/2", ["a", "b", "c", "d", "e"])]:
        run(tmp_path / "in", tmp_path / "out", "--workers", 1, "--shard", shard)
        assert [line["id"] for line in manifest(tmp_path / "out")] == expected
    run(tmp_path / "in", tmp_path / "zero", "--workers", 1, "--shard", "0/2")
    assert [line["id"] for line in manifest(tmp_path / "zero")] == ["b", "d"]
    for shard in ("3/2", "x", "1/0", "-1/2"):
        code, _, err = run(tmp_path / "in", tmp_path / "out", f"--shard={shard}", capsys=capsys)
        assert code == 2 and shard in err


def test_what_stops_a_run_is_one_line(tmp_path, talk, capsys):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("a file")
    for arguments, words in [
        ((tmp_path / "absent", tmp_path / "out"), "does not exist"),
        ((talk, tmp_path / "out"), "not a folder"),
        ((tmp_path / "nothing", tmp_path / "out"), "no video"),
        ((tmp_path / "nothing", tmp_path / "out", "--dataset", "lrs2"), "mvlrs_v1/main"),
        ((tmp_path / "nothing", tmp_path / "out", "--dataset", "cmlr"), "video/s1"),
        ((tmp_path / "nothing", tmp_path / "out", "--dataset", "hdtf"), "hdtf"),
        ((talk.parent, tmp_path / "file" / "out"), "cannot be made"),
        ((talk.parent, tmp_path / "out", "--workers", 0), "--workers"),
        ((talk.parent, tmp_path / "out", "--audio", "mfcc"), "mfcc"),
        ((talk.parent, tmp_path / "out", "--backend", "dask"), "dask"),
    ]:
        if "--backend" in arguments and dask_is_there():
            continue
        code, out, err = run(*arguments, capsys=capsys)
        assert (code, out) == (2, "") and words in err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not list((tmp_path / "out").glob("*.safetensors"))


def dask_is_there() -> bool:
    import importlib.util

    return importlib.util.find_spec("dask") is not None


def test_a_full_disk_stops_the_run(tmp_path, talk, capsys, monkeypatch):
    """That is no fault of a source: nothing is marked as failed, and nothing half written stays."""

    def full(self, data):
        raise OSError(28, "No space left on device")

    shutil.copy(talk, tmp_path / "talk.mp4")
    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run(tmp_path, tmp_path / "out", "--workers", 1, capsys=capsys)
    assert code == 2 and "No space left" in err
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".safetensors", ".jsonl")]


# --- workers


@pytest.mark.parametrize("count", [1, 2])
def test_an_item_that_kills_its_process_does_not_stop_the_others(count):
    results = dict(workers.spread(ten_times_unless_three, list(range(6)), count))
    assert results.pop(3) is workers.CRASHED
    assert results == {item: 10 * item for item in (0, 1, 2, 4, 5)}


# --- layouts


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_folder_ids_are_relative_paths_and_never_the_same(tmp_path):
    touch(*(tmp_path / name for name in ["b/x.mp4", "b/x.mov", "a.b.mp4", "A.B.mkv", "c.webm", ".hidden.mp4", "t.txt"]))
    found = {source.id: source.video.relative_to(tmp_path).as_posix() for source in folder.sources(tmp_path)}
    assert found == {
        "b/x.mp4": "b/x.mp4", "b/x.mov": "b/x.mov", "a.b.mp4": "a.b.mp4", "A.B.mkv": "A.B.mkv", "c": "c.webm",
    }  # fmt: skip


def lrs2_tree(root: Path) -> Path:
    main = root / "mvlrs_v1" / "main"
    touch(main / "5535415699068794046/00001.mp4", main / "5535415699068794046/00001.txt")
    touch(main / "5535415699068794046/00002.mp4", main / "6330311066473698535/00011.mp4")
    touch(root / "mvlrs_v1" / "pretrain" / "5535415699068794046/00099.mp4")
    (root / "train.txt").write_text(
        "5535415699068794046/00001\n5535415699068794046/00002\n5535415699068794046/00007\n\n"
    )
    (root / "mvlrs_v1" / "test.txt").write_text("6330311066473698535/00011 MV\n")
    return main


def test_lrs2(tmp_path, capsys):
    main = lrs2_tree(tmp_path)
    for given in (tmp_path, tmp_path / "mvlrs_v1"):
        found = {source.id: source for source in lrs2.sources(given)}
        assert found["test/6330311066473698535/00011"].video == main / "6330311066473698535/00011.mp4"
    found = {source.id: source for source in lrs2.sources(tmp_path)}
    assert set(found) == {
        "train/5535415699068794046/00001", "train/5535415699068794046/00002", "train/5535415699068794046/00007",
        "test/6330311066473698535/00011",
    }  # fmt: skip
    assert "not there" in found["train/5535415699068794046/00007"].problem
    assert not found["train/5535415699068794046/00001"].problem
    (tmp_path / "train.txt").unlink()
    (tmp_path / "mvlrs_v1" / "test.txt").unlink()
    assert capsys.readouterr().err == ""
    assert [source.id for source in lrs2.sources(tmp_path)] == [
        "5535415699068794046/00001", "5535415699068794046/00002", "6330311066473698535/00011",
    ]  # fmt: skip
    assert "no split file train.txt, val.txt or test.txt" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/00001", "a/../../00001", "00001", "a b/c"])
def test_split_files_cannot_lead_out_of_the_dataset(tmp_path, line):
    lrs2_tree(tmp_path)
    (tmp_path / "train.txt").write_text(line + "\n")
    with pytest.raises(preprocess.InputError, match=r"train\.txt"):
        lrs2.sources(tmp_path)
    touch(tmp_path / "cmlr" / "video" / "s1" / "20100504" / "section_1.mp4")
    (tmp_path / "cmlr" / "train.csv").write_text(f"s1/20100504/section_1\n{line}\ns1/../../x\n")
    with pytest.raises(preprocess.InputError, match=r"train\.csv"):
        cmlr.sources(tmp_path / "cmlr")


NAME = "s1/20170121/section_1_002.05_004.82"


@pytest.mark.parametrize("apart", ["{what}/{speaker}/{rest}", "{speaker}/{what}/{rest}"])
def test_cmlr(tmp_path, apart):
    def place(what, name, suffix):
        speaker, rest = name.split("/", 1)
        return tmp_path / (apart.format(what=what, speaker=speaker, rest=rest) + suffix)

    other = "s11/20100504/section_2_000.02_001.27"
    touch(place("video", NAME, ".mp4"), place("audio", NAME, ".wav"), place("video", other, ".mp4"))
    touch(place("text", NAME, ".txt"))
    (tmp_path / "train.csv").write_text(f"name\n{NAME}\n")
    (tmp_path / "test.csv").write_text(f"name\n{other}.mp4,12\ns2/20100504/section_9\n")
    found = {source.id: source for source in cmlr.sources(tmp_path)}
    assert list(found) == [f"train/{NAME}", f"test/{other}", "test/s2/20100504/section_9"]
    assert found[f"train/{NAME}"].video == place("video", NAME, ".mp4")
    assert found[f"train/{NAME}"].sound == place("audio", NAME, ".wav")
    assert found[f"test/{other}"].sound == found[f"test/{other}"].video
    assert "not there" in found["test/s2/20100504/section_9"].problem


def test_cmlr_s_two_files_become_one_clip(tmp_path, talk, capsys):
    """Picture and sound apart, end to end: the clip's id keeps its dots, the sound is the other file's."""
    video, sound = tmp_path / "video" / f"{NAME}.mp4", tmp_path / "audio" / f"{NAME}.wav"
    video.parent.mkdir(parents=True)
    sound.parent.mkdir(parents=True)
    with av.open(str(talk)) as source, av.open(str(video), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    write_sound(sound, "pcm_s16le", 16000, sound=beat_sound(16000, 2.0), seconds=2.0)
    (tmp_path / "train.csv").write_text(NAME + "\n")
    code, out, _ = run(tmp_path, tmp_path / "out", "--dataset", "cmlr", "--workers", 1, capsys=capsys)
    assert code == 0 and "1 succeeded, 0 failed" in out
    clip = Clip(tmp_path / "out" / "train" / f"{NAME}.safetensors")
    assert (len(clip), clip.seconds) == (29, 2.0)
    assert manifest(tmp_path / "out")[0]["id"] == f"train/{NAME}"


def test_hdtf(tmp_path):
    clips = ["RD_Radio1_000.mp4", "WDA_AdamSchiff_000.mp4", "sub/WRA_JohnBarrasso_001.mp4"]
    touch(*(tmp_path / name for name in [*clips, "source_videos/youtube.mp4", "RD_Radio1_000.txt"]))
    found = {source.id: source.video for source in hdtf.sources(tmp_path)}
    assert found == {name.removesuffix(".mp4"): tmp_path / name for name in clips}
