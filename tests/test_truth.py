"""What depends on the true videos alone is computed once: for all methods of a run, and with --cache for all runs."""

import shutil

import numpy as np
import torch
from faces import portraits, write_frames
from test_evaluate import results, run

from checkpoints import fetch
from media import face
from media.face import Face
from metrics import pairs, scoring, truth
from metrics.truth import Truth, fingerprint
from models.arcface import ArcFace


def counting():
    """A function for `Truth.rows`, and the list of what it was asked for."""
    asked = []

    def compute(places: list[int]) -> np.ndarray:
        asked.append(places)
        return np.array([[place, 10.0] for place in places], np.float32)

    return compute, asked


def test_a_value_is_computed_once_and_kept_under_the_videos_content(tmp_path):
    video, cache = tmp_path / "a.mp4", tmp_path / "cache"
    video.write_bytes(b"one")
    compute, asked = counting()
    kept = Truth(video, {"fid": "weights"}, folder=cache)
    assert kept.rows("fid", [3, 4], compute).tolist() == [[0, 10], [1, 10]]
    assert kept.rows("fid", [4, 5, 3], compute).tolist() == [[1, 10], [1, 10], [0, 10]]
    assert asked == [[0, 1], [1]]
    box = np.array([1, 2, 3, 4], np.int32)
    kept.faces.extend([Face(np.full((478, 2), 0.3, np.float32), box), None])
    kept.save()

    copy = tmp_path / "other name.mp4"
    shutil.copy(video, copy)
    again = Truth(copy, {"fid": "weights"}, folder=cache)
    assert again.rows("fid", [3, 4, 5], compute).tolist() == [[0, 10], [1, 10], [1, 10]]
    assert len(asked) == 2
    first, second = again.faces
    assert first is not None and second is None
    assert first.box.tolist() == [1, 2, 3, 4] and first.box.dtype == np.int32
    assert np.array_equal(first.landmarks, np.full((478, 2), 0.3, np.float32))

    video.write_bytes(b"two")
    Truth(video, {"fid": "weights"}, folder=cache).rows("fid", [3], compute)
    Truth(copy, {"fid": "other weights"}, folder=cache).rows("fid", [3], compute)
    assert len(asked) == 4


def test_a_damaged_cache_file_costs_only_time(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"one")
    compute, asked = counting()
    kept = Truth(video, {"fid": "weights"}, folder=tmp_path / "cache")
    kept.rows("fid", [3], compute)
    kept.save()
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    again = Truth(video, {"fid": "weights"}, folder=tmp_path / "cache")
    again.rows("fid", [3], compute)
    again.save()
    assert len(asked) == 2
    Truth(video, {"fid": "weights"}, folder=tmp_path / "cache").rows("fid", [3], compute)
    assert len(asked) == 2


def test_nothing_is_kept_for_one_method_without_a_cache_and_never_more_than_the_memory_allows(monkeypatch):
    compute, asked = counting()
    alone = Truth(None)
    alone.rows("fid", [3], compute)
    alone.rows("fid", [3], compute)
    assert len(asked) == 2
    monkeypatch.setattr(truth, "MEMORY", 12)
    shared = Truth(None, keep=True)
    shared.rows("fid", [3, 4], compute)  # 8 bytes each
    shared.rows("fid", [3, 4], compute)
    assert asked[2:] == [[0, 1], [1]]


def test_a_fingerprint_tells_weights_modules_and_values_apart(tmp_path):
    torch.manual_seed(0)
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    assert fingerprint(face) != fingerprint(pairs)
    assert fingerprint("a", 1) != fingerprint("a", 2)


def test_a_second_method_costs_only_its_own_part(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    torch.save(ArcFace((1, 1, 1, 1)).state_dict(), tmp_path / "arcface.pth")
    monkeypatch.setattr(fetch, "require", lambda name, purpose: tmp_path / f"{name}.pth")
    frames = portraits(5)
    for name in ("true", "one", "two"):
        write_frames(tmp_path / name / "a.mp4", frames)
    embedded, tracked = [], []
    embed, track = scoring.embed, face.FaceTracker.track

    def counted(network, faces, device):
        embedded.append(len(faces))
        return embed(network, faces, device)

    def followed(self, frame):
        tracked.append(1)
        return track(self, frame)

    monkeypatch.setattr(scoring, "embed", counted)
    monkeypatch.setattr(face.FaceTracker, "track", followed)
    arguments = ("--reference", tmp_path / "true", "--metrics", "csim", "--cache", tmp_path / "cache", "--output")
    values = []
    for name in ("one", "two", "two"):
        assert run("--generated", tmp_path / name, *arguments, tmp_path / "out", capsys=capsys)[0] == 0
        values.append(results(tmp_path / "out")["methods"][0]["metrics"]["csim"]["mean"])
    assert embedded == [5, 5, 5, 5]  # truth and one; two; two again
    assert len(tracked) == 20
    assert values[1] == values[2]
    both = ("--generated", tmp_path / "one", "--generated", tmp_path / "two")
    embedded.clear()
    assert run(*both, *arguments[:4], capsys=capsys)[0] == 0
    assert embedded == [5, 5, 5]  # without a cache, once for both
