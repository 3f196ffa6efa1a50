"""A prepared person: dubs without tracking again, which equal dubs that track; and errors of its file."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from faces import portraits, small_checkpoint, write_frames
from media_files import write_sound
from safetensors import safe_open
from safetensors.torch import save_file

import inference
from dubbing import Dubber, DubOptions, G4GSpeaker, Prepared, first_pass
from dubbing.pipeline import prepare
from media.errors import InputError
from models import G4GConfig, G4GSynthesizer

QUIET: dict[str, Any] = {"progress": None, "workers": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    pair = [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in portraits(10)]
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
    return {
        "checkpoint": small_checkpoint(folder / "checkpoint"),
        "video": write_frames(folder / "person.mp4", portraits(10)),
        "pair": write_frames(folder / "pair.mp4", pair, fps=30),
        "short": write_sound(folder / "short.wav", "pcm_s16le", 16000, sound=noise[:, :3200]),
        "long": write_sound(folder / "long.wav", "pcm_s16le", 16000, sound=noise),
    }


@pytest.fixture(scope="module")
def dubber(files):
    return Dubber(files["checkpoint"], "cpu")


@pytest.fixture
def observed(monkeypatch):
    """The number of frames of each first pass."""
    counts, observe = [], first_pass.observe

    def counting(frames, *others):
        scene = observe(frames, *others)
        counts.append(scene.frames)
        return scene

    monkeypatch.setattr(first_pass, "observe", counting)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "options", "sounds"),
    [
        ("video", {}, ("short", "long")),
        ("pair", {"face": "all", "start": 0.1, "end": 0.3, "keep_fps": True}, ("long",)),
        ("pair", {"face": "right", "reference_choice": "opening", "length": "shorter"}, ("short",)),
    ],
)
def test_a_prepared_person_is_dubbed_as_the_video_is(
    dubber, files, tmp_path, observed, written, video, options, sounds
):
    prepare(files[video], [dubber.speaker], dubber.options(**{**QUIET, **options})).save(tmp_path / "person")
    prepared = Prepared.load(tmp_path / "person")
    for sound in sounds:
        dubber.dub(files[video], files[sound], tmp_path / "tracked.mp4", **{**QUIET, **options})
        before = len(observed)
        summary = dubber.dub(prepared, files[sound], tmp_path / "prepared.mp4", **{**QUIET, **options})
        assert len(observed) == before and summary.unprepared is None
        assert written["prepared.mp4"] == written["tracked.mp4"]


@pytest.mark.slow
def test_the_bundled_checkpoint_dubs_a_prepared_person(files, tmp_path, written):
    dubber = Dubber(device="cpu")
    dubber.prepare(files["video"], **QUIET).save(tmp_path / "person")
    for name, video in {"tracked.mp4": files["video"], "prepared.mp4": Prepared.load(tmp_path / "person")}.items():
        dubber.dub(video, files["short"], tmp_path / name, **QUIET)
    assert written["prepared.mp4"] == written["tracked.mp4"]


def test_its_references_are_not_encoded_again(dubber, files, tmp_path, monkeypatch):
    prepare(files["video"], [dubber.speaker], dubber.options(**QUIET)).save(tmp_path / "person")
    monkeypatch.setattr(dubber.speaker, "encode", lambda *_: pytest.fail("encoded again"))
    dubber.dub(Prepared.load(tmp_path / "person"), files["short"], tmp_path / "out.mp4")


def test_another_checkpoint_is_told_and_encodes_them_again(dubber, files, tmp_path):
    prepare(files["video"], [], dubber.options(**QUIET)).save(tmp_path / "person")
    summary = dubber.dub(Prepared.load(tmp_path / "person"), files["short"], tmp_path / "out.mp4")
    assert f"{tmp_path / 'person'} was prepared for another checkpoint" in str(summary)


@pytest.mark.slow
def test_the_commands_prepare_and_dub(files, tmp_path, monkeypatch, capsys):
    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    from dubbing import prepare as command

    common = ("--checkpoint", files["checkpoint"], "--device", "cpu", "--quiet")
    moved = tmp_path / "person.mp4"
    moved.write_bytes(files["video"].read_bytes())
    code, out, err = run(command.main, "--video", moved, "--output", tmp_path / "person", *common)
    assert code == 0 and "10 frames, 1 people" in out, err
    dub = ("--prepared", tmp_path / "person", "--audio", files["short"], "--output", tmp_path / "out.mp4", *common)
    code, out, err = run(inference.main, *dub)
    assert code == 0 and "5 frames" in out and "another checkpoint" not in out, err
    code, _, err = run(inference.main, *dub, "--start", "0.1")
    assert code == 2 and "--start" in err and "prepared with another value" in err

    moved.rename(tmp_path / "elsewhere.mp4")
    assert "does not exist" in run(inference.main, *dub)[2]
    assert run(inference.main, *dub, "--video", tmp_path / "elsewhere.mp4")[0] == 0
    code, _, err = run(inference.main, *dub, "--video", files["pair"])
    assert code == 2 and err.count("\n") == 1 and "is not the one that" in err


@pytest.mark.slow
def test_a_list_tracks_a_video_once(files, tmp_path, observed, written, monkeypatch, capsys):
    lines = [("video", "short", "a"), ("pair", "short", "b"), ("video", "short", "c"), ("video", "long", "d")]
    rows = [f"{files[video]},{files[sound]},{tmp_path / name}.mp4" for video, sound, name in lines]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    options = ["--checkpoint", files["checkpoint"], "--device", "cpu", "--quiet", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["inference.py", "--list", str(tmp_path / "list.csv"), *map(str, options)])
    assert inference.main() == 0, capsys.readouterr().err
    assert observed == [10, 8]
    assert written["a.mp4"] == written["c.mp4"]


def test_a_scene_known_so_far_is_the_scene_of_fewer_frames(files):
    whole = prepare(files["pair"], [], DubOptions(**QUIET, keep_fps=True))
    part = whole.known(4)
    assert part is not None and part.frames == 4
    assert [person.frames for person in part.people] == [[0, 1, 2, 3]] * 2
    assert whole.known(1000) is whole.scene is not None  # there are no more
    assert whole.scene.frames == 10
    whole.limit = 10
    assert whole.known(11) is None  # there may be more


def test_g4gs_encoded_references_are_kept_too():
    speaker = G4GSpeaker(G4GSynthesizer(G4GConfig(width=0.05)).eval(), torch.device("cpu"))
    draw = np.random.default_rng(0)
    count, size = speaker.references, speaker.crop.shape
    images = draw.integers(0, 255, (count, *size, 3), np.uint8)
    encoded = speaker.encode(images, draw.random((count, 131, 2), np.float32))
    restored = speaker.restored(speaker.state(encoded))
    assert all(torch.equal(a, b) for a, b in zip(restored.images, encoded.images, strict=True))
    np.testing.assert_array_equal(restored.heatmap, encoded.heatmap)


def _rewritten(path, change):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["prepared"])
    change(tensors, about)
    save_file(tensors, path, {"prepared": json.dumps(about)})


def _swapped(tensors, about):
    tensors["people.0.frames"] = tensors["people.0.frames"].flip(0)


def _short(tensors, about):
    tensors["people.0.points"] = tensors["people.0.points"][:-1].clone()


@pytest.mark.parametrize(
    "change",
    [
        _swapped,
        _short,
        lambda tensors, about: about.pop("fps"),
        lambda tensors, about: about.update(fps="1/0"),
        lambda tensors, about: about.update(people=7),
        lambda tensors, about: about.update(encoded=3),
        lambda tensors, about: about.update(frames=4),
    ],
)
def test_a_damaged_file_is_one_line(files, tmp_path, change):
    path = tmp_path / "person"
    prepare(files["video"], [], DubOptions(**QUIET)).save(path)
    _rewritten(path, change)
    with pytest.raises(InputError, match=r"^prepared person .* is damaged or no file of dubbing.prepare .*again$"):
        Prepared.load(path)


@pytest.mark.parametrize("content", [b"", b"text", (ROOT / "checkpoints/demo/face_synthesizer.safetensors")])
def test_another_file_is_one_line(tmp_path, content):
    path = tmp_path / "person"
    path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    with pytest.raises(InputError, match="person"):
        Prepared.load(path)
