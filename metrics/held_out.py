"""Leaves out of a test the clips that a checkpoint was trained on, by the folders that its config names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data_prep.index import clip_id, clip_paths
from data_prep.layout import SPLITS, Source
from data_prep.manifest import Manifest
from media.errors import InputError, first_line

ROOT = Path(__file__).resolve().parent.parent


def data_folders(checkpoint: Path, use: str) -> list[str]:
    """The folders that a checkpoint's config names as `use`, "train" or "val", as written there.

    Raises:
        InputError: the config cannot be read.
    """
    path = checkpoint / "config.yaml"
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the YAML library's own errors have many types
        raise InputError(f"{path} cannot be read ({first_line(error)}); give a checkpoint folder") from error
    sections = config.get("training") if isinstance(config, dict) else None
    return list(dict.fromkeys(_data_folders(sections or {}, use)))


def _data_folders(section: dict, use: str) -> Iterator[str]:
    for key, value in section.items():
        if key == "data" and isinstance(value, dict):
            if value.get(use):
                yield str(value[use])
        elif isinstance(value, dict):
            yield from _data_folders(value, use)


def held_out(sources: list[Source], checkpoint: Path) -> tuple[list[Source], list[str]]:
    """Leave the checkpoint's training clips out of `sources`.

    A source is a training clip if a clip file in a training folder has its id, apart from the split's name, and, where
    the folder's manifest records it, the same size of the source; or if the manifest records a source of the same file
    name and size, which has another id in another layout.

    Validation clips, which select the weights, are not left out.

    Returns:
        The other sources, and a line for each folder that says what was compared.
    """
    folders = data_folders(checkpoint, "train")
    if not folders:
        return sources, [
            f"the config of {checkpoint} names no training data: nothing tells whether it has seen the clips"
        ]
    lines = []
    for folder in folders:
        place = _place(folder)
        if place is None:
            lines.append(f"training data {folder} is not here: whether the clips are among it was not checked")
            continue
        count, unseen = _others(sources, place)
        lines.append(
            f"training data {folder}: {count} clip files, compared by id and by the source's name and size; "
            f"{len(sources) - len(unseen)} clips of the dataset are among them and are not drawn"
        )
        sources = unseen
    for folder in data_folders(checkpoint, "val"):
        place = _place(folder)
        seen = 0 if place is None else len(sources) - len(_others(sources, place)[1])
        if seen:
            lines.append(
                f"validation data {folder}, which selected the weights: {seen} clips of the dataset are among it"
            )
    return sources, lines


def _place(folder: str) -> Path | None:
    return next((each for each in (Path(folder), ROOT / folder) if each.is_dir()), None)


def _others(sources: list[Source], folder: Path) -> tuple[int, list[Source]]:
    """The number of clip files in `folder`, and the sources that are none of them."""
    known = _clips(folder)
    files = {(line.get("source"), line.get("source_bytes")) for line in known.values()}
    return len(known), [source for source in sources if not _is_known(source, known, files)]


def _clips(folder: Path) -> dict[str, dict]:
    """Base id -> the manifest's line (empty without one) of each clip file in `folder`."""
    lines = {
        name: line
        for place, prefix in ((folder.parent, f"{folder.name}/"), (folder, ""))
        for id, line in Manifest(place).read().items()
        if (name := id.removeprefix(prefix)) != id or not prefix
    }
    return {_base(id): lines.get(id, {}) for id in (clip_id(path, folder) for path in clip_paths(folder))}


def _base(id: str) -> str:
    split, _, rest = id.partition("/")
    return rest if split in SPLITS and rest else id


def _is_known(source: Source, clips: dict[str, dict], files: set[tuple]) -> bool:
    if source.problem:
        return False
    size = sum(path.stat().st_size for path in {source.video, source.sound})
    line = clips.get(source.base)
    if line is not None and line.get("source_bytes") in (None, size):
        return True
    return source.cut is None and (source.video.name, size) in files  # parts of one video share its file
