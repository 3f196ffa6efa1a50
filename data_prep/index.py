"""The clip files of a folder, and its index: what a dataset must know of each, so that it opens none of them.

The index is `index.jsonl` beside the manifest, one JSON line per clip file. It is a cache: a line counts only for a
clip file of the same size and time of change, and the file may be deleted at any time.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.clips import SUFFIX, Clip, Outline
from media.crop import STSA, CropForm
from media.errors import InputError
from media.files import replacing

INDEX = "index.jsonl"


class _Found(NamedTuple):
    parts: list[str]  # of the path below the folder, by which files are sorted
    size: int
    changed: int  # ns


def clip_paths(folder: str | os.PathLike) -> list[Path]:
    """The clip files below `folder`, sorted; InputError if there is none."""
    return [Path(folder, *found.parts) for found in _clip_files(folder)]


def clip_id(path: Path, folder: str | os.PathLike) -> str:
    """Name of the clip file `path` below `folder`, as in the folder's manifest."""
    return path.relative_to(folder).as_posix().removesuffix(SUFFIX)


def open_clips(
    folder: str | os.PathLike, decoded: str | os.PathLike | None = None, crop: CropForm = STSA
) -> list[Clip]:
    """The clips of a folder by path; opens the files that its index does not know, and adds them to the index.

    Args:
        decoded, crop: see `Clip`.

    Raises:
        InputError: there is no clip file, or one that the index does not know cannot be used.
    """
    index = Path(folder, INDEX)
    known, lines, clips = _read(index), {}, []
    for parts, size, changed in _clip_files(folder):
        id = "/".join(parts).removesuffix(SUFFIX)
        line = known.get(id)
        outline = None if line is None or (line["size"], line["changed"]) != (size, changed) else _outline(line)
        clip = Clip(os.path.join(folder, *parts), id, decoded, crop, outline)
        if outline is None:
            found = clip.outline
            line = {"id": id, "size": size, "changed": changed} | vars(found) | {"runs": [*map(list, found.runs)]}
            line["kinds"] = list(found.kinds)
        lines[id] = line
        clips.append(clip)
    if lines != known:
        with contextlib.suppress(InputError), replacing(index) as temporary:  # a folder that nobody may write to
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines.values()), encoding="utf-8")
    return clips


def _clip_files(folder: str | os.PathLike) -> list[_Found]:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"data folder {folder} does not exist; make it with `python -m data_prep.preprocess`")
    found = sorted(_below(os.fspath(folder), []))
    if not found:
        raise InputError(f"data folder {folder} holds no clip file; make some with `python -m data_prep.preprocess`")
    return found


def _below(folder: str, parts: list[str]) -> Iterator[_Found]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, [*parts, entry.name])
            elif entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                try:
                    state = entry.stat()
                except OSError as error:
                    reason = error.strerror
                    raise InputError(f"clip file {entry.path} cannot be read ({reason}); remove it") from error
                yield _Found([*parts, entry.name], state.st_size, state.st_mtime_ns)


def _read(index: Path) -> dict[str, dict[str, Any]]:
    """The index's lines by id; those that are damaged are left out."""
    lines = {}
    with contextlib.suppress(OSError):
        for text in index.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError, RecursionError, KeyError, TypeError):
                line = json.loads(text)
                if all(isinstance(line[name], kind) for name, kind in _TYPES.items()):
                    lines[line["id"]] = line
    return lines


_TYPES = {"id": str, "size": int, "changed": int, "runs": list, "samples": int, "kinds": list, "face_width": float}


def _outline(line: dict[str, Any]) -> Outline | None:
    try:
        runs = tuple((int(first), int(length)) for first, length in line["runs"])
    except (TypeError, ValueError):
        return None
    return Outline(runs, line["samples"], tuple(line["kinds"]), line["face_width"])
