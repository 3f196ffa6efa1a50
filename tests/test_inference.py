"""inference.py: what a dubbed video is, and what is said of input that cannot be dubbed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT
from faces import empty, portrait, portraits, small_checkpoint, write_frames
from media_files import write_sound

import inference
from dubbing import first_pass
from dubbing.pairs import Pair, read_pairs
from dubbing.people import observe
from media.errors import InputError
from media.face import FaceTracker
from media.landmarks import OVAL_POINTS, select131
from media.video import VideoWriter, probe, read_frames


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("video") / "portrait.mp4", portraits(6))


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3200)).astype(np.float32)
    return write_sound(tmp_path_factory.mktemp("sound") / "speech.wav", "pcm_s16le", 16000, sound=noise)


@pytest.fixture
def dub(checkpoint, monkeypatch, capsys):
    """Run inference.py with these options and return its exit code, stdout and stderr."""

    def run(*arguments, quiet: bool = True):
        options = ["--checkpoint", checkpoint, "--workers", "1", "--device", "cpu", *(["--quiet"] if quiet else [])]
        monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, (*options, *arguments))])
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = inference.main()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_dub_has_the_sounds_length_and_the_videos_picture(dub, video, speech, tmp_path):
    output, panels, crops, heatmaps = (tmp_path / f"{name}.mp4" for name in ("out", "panels", "crops", "heatmaps"))
    beside = ("--visualize", panels, "--crop-output", crops, "--heatmap-output", heatmaps)
    code, out, _ = dub("--video", video, "--audio", speech, "--output", output, *beside)
    assert code == 0 and "5 frames" in out and "a face in every one" in out
    assert set(tmp_path.iterdir()) == {output, panels, crops, heatmaps}

    info = probe(output)
    assert (info.width, info.height, info.frame_rate, info.has_sound) == (240, 224, 25, True)
    assert abs(info.duration - 0.2) < 0.04
    with av.open(str(output)) as container:
        assert "ynthesized" in container.metadata["comment"]
    source, dubbed = list(read_frames(video))[:5], list(read_frames(output))
    assert len(dubbed) == 5
    for before, after in zip(source, dubbed, strict=True):
        inside = _face_mask(before)
        difference = np.abs(before.astype(int) - after).mean(axis=2)
        assert difference[~inside].mean() < 3  # re-encoding
        assert difference[cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))) == 0].max() < 60
        mouth = cv2.erode(inside.astype(np.uint8), np.ones((31, 31))) > 0
        mouth[: _middle(inside)] = False
        assert difference[mouth].mean() > 4  # and there random networks leave a mark

    assert probe(crops).width == probe(crops).height == probe(heatmaps).width == probe(heatmaps).height == 128
    assert probe(panels).height == 224 and len(list(read_frames(panels))) == 5


def _face_mask(frame: np.ndarray) -> np.ndarray:
    with FaceTracker() as tracker:
        landmarks = tracker.find(frame)[0].landmarks
    mask = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(select131(landmarks)[OVAL_POINTS]).astype(np.int32)), (1,))
    return mask.astype(bool)


def _middle(mask: np.ndarray) -> int:
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows.mean())


def test_frames_without_a_face_are_left_as_they_are_and_reported(dub, speech, tmp_path):
    frames = portraits(5)
    frames[0] = frames[2] = frames[3] = empty()
    video = write_frames(tmp_path / "gaps.mp4", frames)
    code, out, _ = dub("--video", video, "--audio", speech, "--output", tmp_path / "out.mp4")
    assert code == 0
    assert "3 of them without a face" in out and "0.00-0.04 s" in out and "0.08-0.16 s" in out
    dubbed = list(read_frames(tmp_path / "out.mp4"))
    for i in (0, 2, 3):
        assert np.abs(dubbed[i].astype(int) - frames[i]).mean() < 2
    assert all(np.abs(dubbed[i].astype(int) - frames[i])[112:].mean() > 2 for i in (1, 4))

    code, _, err = dub(
        "--video", video, "--audio", speech, "--output", tmp_path / "strict.mp4", "--missing-face", "error"
    )
    assert code == 2 and "0.00 to 0.04 s" in err and "--missing-face pass" in err
    assert not (tmp_path / "strict.mp4").exists()


def test_a_single_image_lasts_as_long_as_the_sound(dub, speech, tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), cv2.cvtColor(portrait(), cv2.COLOR_RGB2BGR))
    code, *_ = dub("--video", tmp_path / "face.png", "--audio", speech, "--output", tmp_path / "out.mp4")
    assert code == 0 and len(list(read_frames(tmp_path / "out.mp4"))) == 5


def _bad_inputs(tmp_path, video, speech):
    text = tmp_path / "text.mp4"
    text.write_text("this is no video\n")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    faceless = write_frames(tmp_path / "faceless.mp4", [empty()] * 3)
    frameless = write_sound(tmp_path / "frameless.m4a", "aac", 16000, seconds=0.2)
    silent = tmp_path / "no_samples.wav"
    header = b"WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0"
    silent.write_bytes(b"RIFF" + len(header).to_bytes(4, "little") + header)
    incomplete = small_checkpoint(tmp_path / "incomplete")
    (incomplete / "face_synthesizer.safetensors").unlink()
    out = tmp_path / "out" / "out.mp4"
    return {
        "missing video": ("--video", tmp_path / "nothing.mp4", "nothing.mp4"),
        "missing sound": ("--audio", tmp_path / "nothing.wav", "nothing.wav"),
        "folder as video": ("--video", tmp_path / "folder", "folder"),
        "folder as sound": ("--audio", tmp_path / "folder", "folder"),
        "empty video": ("--video", tmp_path / "empty.mp4", "empty.mp4"),
        "text as video": ("--video", text, "text.mp4"),
        "text as sound": ("--audio", text, "text.mp4"),
        "no face": ("--video", faceless, "faceless.mp4"),
        "no frames": ("--video", frameless, "frameless.m4a"),
        "no samples": ("--audio", silent, "no_samples.wav"),
        "video without sound as sound": ("--audio", video, video.name),
        "output below a file": ("--output", text / "out.mp4", "text.mp4"),
        "output is a folder": ("--output", tmp_path / "folder", "folder"),
        "output in a place that cannot be made": ("--output", "/proc/nowhere/out.mp4", "/proc/nowhere"),
        "output of another kind": ("--output", tmp_path / "out.txt", "out.txt"),
        "output is the input": ("--output", video, video.name),
        "checkpoint lacks a file": ("--checkpoint", incomplete, "face_synthesizer.safetensors"),
        "checkpoint missing": ("--checkpoint", tmp_path / "nowhere", "nowhere"),
        "faceless references": ("--references", faceless, "faceless.mp4"),
        "face that is none": ("--face", "middle", "middle is none of largest"),
        "face beyond the last": ("--face", "3", "--face 3"),
        "point that is none": ("--face-at", "10", "--face-at: 10 is not X,Y"),
        "point without a face": ("--face-at", "0,0", "--face-at 0,0"),
        "batch of none": ("--batch-size", "0", "--batch-size: 0 must be 1 or more"),
        "batch that is no number": ("--batch-size", "abc", "--batch-size: 'abc' is not a whole number"),
        "device that is none": ("--device", "tpu", "--device: 'tpu' cannot be used"),
        "option that is none": ("--bogus", "1", "--bogus"),
        "list beside a video": ("--list", text, "--list"),
    }, {"--video": video, "--audio": speech, "--output": out}


@pytest.mark.slow
def test_input_that_cannot_be_dubbed_is_one_line_and_exit_code_2(dub, video, speech, tmp_path):
    cases, good = _bad_inputs(tmp_path, video, speech)
    for case, (option, value, named) in cases.items():
        arguments = [part for pair in {**good, option: value}.items() for part in pair]
        code, out, err = dub(*arguments)
        assert code == 2, case
        assert err.startswith("error: ") and err.count("\n") == 1 and named in err, (case, err)
        assert out == "", case
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()), case


def test_a_list_goes_on_after_a_failed_pair_and_skips_what_is_finished(dub, video, speech, tmp_path):
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"video,audio,output\n{tmp_path / 'nothing.mp4'},{speech},{first}\n{video},{speech},{second}\n")
    code, out, err = dub("--list", pairs)
    assert code == 2 and "nothing.mp4" in err and err.count("\n") == 1
    assert out.endswith("1 dubbed, 0 were there already, 1 failed\n")
    assert second.exists() and not first.exists()

    before = second.stat().st_mtime_ns
    code, out, _ = dub("--list", pairs)
    assert code == 2 and "0 dubbed, 1 were there already, 1 failed" in out
    assert second.stat().st_mtime_ns == before

    pairs.write_text(f"{video},{speech}\n")
    code, _, err = dub("--list", pairs)
    assert code == 2 and "line 1" in err


def test_a_list_may_have_many_pairs_and_blank_rows_are_passed_over(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("video,audio,output\n\n,,\n" + "".join(f"v.mp4,a.wav,{i}.mp4\n, ,\n" for i in range(3000)))
    pairs = read_pairs(path)  # comparing each with each would take minutes
    assert [pair.output.name for pair in pairs] == [f"{i}.mp4" for i in range(3000)]

    path.write_text("v.mp4,a.wav,out.mp4\n\nv.mp4,b.wav,folder/../out.mp4\n")
    with pytest.raises(InputError, match=r"line 3: .*folder/\.\./out\.mp4 is the output of an earlier line too"):
        read_pairs(path)
    path.write_text("v.mp4,a.wav,out.mp4\nw.mp4,a.wav,./v.mp4\n")
    with pytest.raises(InputError, match=r"line 1: .*v\.mp4 is an output of the list too"):
        read_pairs(path)


def test_columns_of_a_list_have_names_in_any_order_and_paths_from_its_folder(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("Output, voice,audio,video\nout/a.mp4,,music.wav,/v.mp4\nout/b.mp4,b.wav,music.wav,w.mp4,,\n,,,,\n")
    first, second = read_pairs(path)
    assert first == Pair(Path("/v.mp4"), tmp_path / "music.wav", tmp_path / "out/a.mp4")
    assert second.voice == tmp_path / "b.wav" and second.inputs == [tmp_path / "w.mp4", second.audio, second.voice]
    path.write_text("v.mp4,a.wav,out.mp4,crops.mkv,source.mkv\n")
    assert read_pairs(path)[0].source_crops == tmp_path / "source.mkv"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("video,audio,output\nv,a,o.mp4\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("v,a,o.mp4\n".encode("utf-16-le"), "is UTF-16"),
        (b"video;audio;output\nv;a;o.mp4\n", "separates its columns by ';'"),
        (b"v\ta\to.mp4\n", "separates its columns by tabs"),
        (b"video,audio\nv,a\n", "lacks the column output"),
        (b"video,audio,output,name\nv,a,o.mp4,n\n", "names a column 'name', which is none of video"),
        (b"video,audio,output,video\nv,a,o.mp4,v\n", "names a column 'video', twice"),
        (b"video,output,audio,voice\nv,o.mp4,,w\n", "line 2: 'v,o.mp4,,w' is not video,output,audio,voice"),
        (b"video,output,audio\nv,o.mp4,a,w\n", "line 2"),
        (b"v,a,o.mp4,crops.mp4\n", "line 1"),
        (b"video,audio,output,voice\nv,a,o.mp4,o.mp4\n", "is an output of the list too"),
        (b"\xff,a,o.mp4\n", "is not a CSV file in UTF-8"),
        (b"video,audio,output\n", "names no pair"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(tmp_path, content, named):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_pairs(path)
    assert named in str(error.value) and ";" in str(error.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), RuntimeError("encoder")])
def test_an_error_halfway_leaves_no_output(dub, video, speech, tmp_path, monkeypatch, error):
    write, written = VideoWriter.write, []

    def failing(self, frame):
        written.append(frame)
        if len(written) == 4:
            raise error
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", failing)
    arguments = ("--video", video, "--audio", speech, "--output", tmp_path / "out.mp4")
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            dub(*arguments)
    else:
        code, _, err = dub(*arguments)
        assert code == (130 if error is KeyboardInterrupt else 2) and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_beside_the_video_is_found_before_its_faces_are_tracked(
    dub, video, speech, tmp_path, monkeypatch
):
    seen = []

    def counted(frames, *arguments):
        frames = list(frames)
        seen.append(len(frames))
        return observe(iter(frames), *arguments)

    monkeypatch.setattr(first_pass, "observe", counted)
    faceless = write_frames(tmp_path / "faceless.mp4", [empty()] * 3)
    good = ("--video", video, "--audio", speech)
    for arguments, passes in [
        (("--output", tmp_path / "out.txt"), []),
        (("--output", tmp_path / "out.mp4", "--visualize", tmp_path / "panels.gif"), []),
        (("--output", tmp_path / "out.mp4", "--crop-output", tmp_path / "crops"), []),
        (("--output", tmp_path / "new" / "out.mp4", "--references", faceless), [3]),
    ]:
        code, _, err = dub(*good, *arguments)
        assert (code, seen) == (2, passes) and err.count("\n") == 1, arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faceless.mp4"]


def test_nothing_is_left_when_the_output_cannot_be_closed(dub, video, speech, tmp_path, monkeypatch):
    rename, output = os.replace, tmp_path / "out.mp4"

    def full(source, target):
        if target == output:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    sides = ("--visualize", tmp_path / "panels.mp4", "--crop-output", tmp_path / "crops.mp4")
    code, _, err = dub("--video", video, "--audio", speech, "--output", output, *sides)
    assert code == 2 and "No space left" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_options_of_the_command_line_reach_the_dub(dub, speech, tmp_path):
    """Two faces side by side, at 60 frames a second, for 0.2 s."""
    pictures = [np.concatenate([picture, picture[:, ::-1]], axis=1) for picture in portraits(12)]
    video = write_frames(tmp_path / "two.mp4", pictures, fps=60)
    source = [np.stack(list(read_frames(video, fps))).astype(int) for fps in (25, 60)]
    width = pictures[0].shape[1] // 2

    def changed(*options) -> tuple[float, float]:
        """By how much the lower halves of the left and of the right face differ from the source's."""
        output = tmp_path / "out.mp4"
        code, *_ = dub("--video", video, "--audio", speech, "--output", output, *options)
        assert code == 0
        assert probe(output).frame_rate == (60 if "--keep-fps" in options else 25)
        dubbed = np.stack(list(read_frames(output, None)))
        assert len(dubbed) == (12 if "--keep-fps" in options else 5)
        difference = np.abs(dubbed - source[len(dubbed) == 12])[:, 112:]
        return difference[:, :, :width].mean(), difference[:, :, width:].mean()

    left, right = changed("--face", "right")
    assert left < 3 < right
    left, right = changed("--faces", "all", "--keep-fps")
    assert left > 3 and right > 3
    paler = write_frames(tmp_path / "paler.mp4", [255 - (255 - picture) // 2 for picture in portraits(3)])
    left, right = changed("--face", "0", "--references", paler)
    assert right < 3 < left and left != changed("--face", "0")[0]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_and_leaves_no_output(dub, video, tmp_path, stop):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell script has it for what it starts with &
    speech = write_sound(tmp_path / "long.wav", "pcm_s16le", 16000, seconds=20)
    output = tmp_path / "out"

    def terminate_once_writing() -> None:
        while not (output.is_dir() and any(output.iterdir())):
            time.sleep(0.05)
        os.kill(os.getpid(), stop)

    threading.Thread(target=terminate_once_writing, daemon=True).start()
    try:
        code, out, err = dub("--video", video, "--audio", speech, "--output", output / "out.mp4")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (code, out, err) == (130, "", "interrupted\n")
    assert list(output.iterdir()) == []


@pytest.mark.slow
def test_started_as_a_script_it_gives_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "inference.py", "--video", tmp_path / "a.mp4", "--audio", "b.wav", "--output", "c.mp4"]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == f"error: video {tmp_path / 'a.mp4'} does not exist; check the path\n"
