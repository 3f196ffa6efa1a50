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


def training_folders(checkpoint: Path) -> list[str]:
    """The folders that a checkpoint's config names as training and validation data, as written there.

    Validation counts as training: it selects the weights.

    Raises:
        InputError: the config cannot be read.
    """
    path = checkpoint / "config.yaml"
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the YAML library's own errors have many types
        raise InputError(f"{path} cannot be read ({first_line(error)}); give a checkpoint folder") from error
    sections = config.get("training") if isinstance(config, dict) else None
    return list(dict.fromkeys(_data_folders(sections or {})))


def _data_folders(section: dict) -> Iterator[str]:
    for key, value in section.items():
        if key == "data" and isinstance(value, dict):
            yield from (str(value[name]) for name in ("train", "val") if value.get(name))
        elif isinstance(value, dict):
            yield from _data_folders(value)


def held_out(sources: list[Source], checkpoint: Path) -> tuple[list[Source], list[str]]:
    """Leave the checkpoint's training clips out of `sources`.

    A source is a training clip if a clip file in a training folder has its id, apart from the split's name, and, where
    the folder's manifest records it, the same size of the source; or if the manifest records a source of the same file
    name and size, which has another id in another layout.

    Returns:
        The other sources, and a line for each training folder that says what was compared.
    """
    folders = training_folders(checkpoint)
    if not folders:
        return sources, [
            f"the config of {checkpoint} names no training data: nothing tells whether it has seen the clips"
        ]
    lines = []
    for folder in folders:
        place = next((each for each in (Path(folder), ROOT / folder) if each.is_dir()), None)
        if place is None:
            lines.append(f"training data {folder} is not here: whether the clips are among it was not checked")
            continue
        known = _clips(place)
        files = {(line.get("source"), line.get("source_bytes")) for line in known.values()}
        unseen = [source for source in sources if not _is_known(source, known, files)]
        lines.append(
            f"training data {folder}: {len(known)} clip files, compared by id and by the source's name and size; "
            f"{len(sources) - len(unseen)} clips of the dataset are among them and are not drawn"
        )
        sources = unseen
    return sources, lines


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
