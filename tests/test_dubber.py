"""`Dubber`, the Python interface: as README.md shows it, and its errors."""

import re
import threading

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from faces import portraits, small_checkpoint, write_frames
from media_files import write_sound

from dubbing import Dubber, DubOptions, dub
from dubbing.load import share_cores
from media.errors import InputError
from media.video import read_frames


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3200)).astype(np.float32)
    return {
        "checkpoint": small_checkpoint(folder / "checkpoint"),
        "video": write_frames(folder / "video.mp4", portraits(6)),
        "sound": write_sound(folder / "speech.wav", "pcm_s16le", 16000, sound=noise),
    }


@pytest.fixture(scope="module")
def dubber(files):
    return Dubber(files["checkpoint"], "cpu")


@pytest.mark.slow
def test_the_lines_of_the_readme_run_as_written(files, tmp_path, monkeypatch, capsys):
    lines = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(lines) == 1 and "Dubber" in lines[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for name, path in {"VIDEO": files["video"], "SOUND": files["sound"]}.items():
        (tmp_path / name).symlink_to(path)
    exec(lines[0], {})
    assert len(list(read_frames("out/mine.mp4"))) == 5
    assert capsys.readouterr().out == "5 []\n"  # no frame without a face


def test_it_dubs_as_the_pipeline_does(dubber, files, tmp_path, written):
    given = files["video"], files["sound"]
    summary = dubber.dub(*given, tmp_path / "a.mp4", start=0.08, keep_fps=True)
    options = DubOptions(progress=None, start=0.08, keep_fps=True)
    assert str(dub(*given, tmp_path / "b.mp4", dubber.speaker, options)).partition(":")[2] in str(summary)
    assert written["a.mp4"] == written["b.mp4"]


def test_a_batch_that_does_not_fit_into_memory_is_halved(dubber, files, tmp_path, monkeypatch):
    given, sizes = (files["video"], files["sound"]), []
    whole = dubber.dub(*given, tmp_path / "whole.mp4", batch_size=5)
    speak = type(dubber.speaker).speak

    def limited(self, jobs, *further):
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return speak(self, jobs, *further)

    monkeypatch.setattr(type(dubber.speaker), "speak", limited)
    monkeypatch.setattr(dubber.speaker, "most", None)
    summary = dubber.dub(*given, tmp_path / "halved.mp4", batch_size=5)
    assert sizes == [5, 2, 2, 1] and "batches of 2; give --batch-size 2 or less" in str(summary)
    assert "memory" not in str(whole)
    for one, other in zip(read_frames(tmp_path / "whole.mp4"), read_frames(tmp_path / "halved.mp4"), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 0.5
    sizes.clear()
    assert "memory" not in str(dubber.dub(*given, tmp_path / "halved.mp4", batch_size=5)) and sizes == [
        2,
        2,
        1,
    ]  # said once

    def nothing_fits(self, jobs, *further):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(dubber.speaker), "speak", nothing_fits)
    with pytest.raises(torch.OutOfMemoryError):
        dubber.dub(*given, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_threads_may_share_it(dubber, files, tmp_path, written):
    outputs = [tmp_path / f"{i}.mp4" for i in range(3)]
    threads = [threading.Thread(target=dubber.dub, args=(files["video"], files["sound"], path)) for path in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written["0.mp4"] and written["0.mp4"] == written["1.mp4"] == written["2.mp4"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"device": "nowhere"}, "'nowhere'"),
        ({"checkpoint": "no/folder"}, "no/folder"),
        ({"device": "cpu", "precision": "fp16"}, "fp16"),
    ],
)
def test_what_cannot_be_loaded_is_an_input_error(files, arguments, named):
    with pytest.raises(InputError, match=named):
        Dubber(**{"checkpoint": files["checkpoint"], **arguments})


def test_opencv_leaves_the_cores_to_networks_on_the_cpu():
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        share_cores(torch.device("cuda"))
        assert cv2.getNumThreads() == 2
        share_cores(torch.device("cpu"))
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
