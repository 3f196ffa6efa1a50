"""The index of a folder of clip files: a cache that agrees with the files."""

import json

import pytest
from training_runs import write_clips

from data_prep.clips import Clip, window_spans
from data_prep.index import open_clips
from data_prep.windows import ClipDataset
from media.errors import InputError


def opening(folder, monkeypatch):
    """The names of the files that are opened, and the clips."""
    names, check = [], Clip._check_layout

    def noting(clip, sizes):
        names.append(clip.id)
        check(clip, sizes)

    monkeypatch.setattr(Clip, "_check_layout", noting)
    clips = open_clips(folder)
    monkeypatch.setattr(Clip, "_check_layout", check)
    return names, clips


def facts(clips):
    return [(clip.id, len(clip), clip.samples, clip.outline, window_spans(clip, 5)) for clip in clips]


def test_an_indexed_folder_is_known_without_opening_a_file(tmp_path, monkeypatch):
    folder = write_clips(tmp_path, count=3)
    write_clips(tmp_path / "more", count=1)
    names, clips = opening(folder, monkeypatch)
    assert names == ["clip_0", "clip_1", "clip_2", "more/clip_0"] == [clip.id for clip in clips]
    again, known = opening(folder, monkeypatch)
    assert again == [] and facts(known) == facts(clips)
    assert all((a.faces(3) == b.faces(3)).all() for a, b in zip(clips, known, strict=True))


def test_changed_and_new_files_are_read_again_and_missing_ones_are_gone(tmp_path, monkeypatch):
    folder = write_clips(tmp_path, count=3)
    open_clips(folder)
    write_clips(tmp_path, count=1, frames=30)  # another clip_0
    (folder / "clip_2.safetensors").unlink()
    names, clips = opening(folder, monkeypatch)
    assert names == ["clip_0"] and [(clip.id, len(clip)) for clip in clips] == [("clip_0", 30), ("clip_1", 24)]
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert [(line["id"], line["runs"]) for line in lines] == [("clip_0", [[0, 30]]), ("clip_1", [[0, 24]])]


def test_a_damaged_index_is_read_as_far_as_it_goes(tmp_path, monkeypatch):
    folder = write_clips(tmp_path, count=3)
    open_clips(folder)
    index = folder / "index.jsonl"
    first, second, third = index.read_text().splitlines()
    index.write_text("\n".join([first[:30], "[" * 100_000, "5", second.replace("24", '"x"'), third]))
    assert opening(folder, monkeypatch)[0] == ["clip_0", "clip_1"]
    assert index.read_text().splitlines() == [first, second, third]
    # What a line says wrongly of a file that has not changed is found when the file is opened.
    index.write_text("\n".join([first.replace("[[0, 24]]", "[[0, 29]]"), second, third]))
    clips = open_clips(folder)
    assert len(clips[0]) == 29
    with pytest.raises(InputError, match=r"clip_0.safetensors is not what its folder's index.jsonl says; delete that"):
        clips[0].faces(0)


def test_a_folder_that_nobody_may_write_to_has_no_index(tmp_path, monkeypatch):
    folder = write_clips(tmp_path, count=1)

    def refuse(path):
        raise InputError(f"{path} cannot be written")

    monkeypatch.setattr("data_prep.index.replacing", refuse)
    assert len(ClipDataset(folder)) == 20 and not (folder / "index.jsonl").exists()
