"""Sources of a dataset: each layout returns a list of them. A source's id names its clip file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from media.errors import InputError


@dataclass(frozen=True)
class Source:
    """One clip of a dataset.

    id: name of the clip file: a relative path without suffix, its parts joined by "/".
    video: the file with the picture.
    sound: the file with the sound; may be the video itself.
    problem: why the source cannot be used, if the layout finds a reason; else "".
    """

    id: str
    video: Path
    sound: Path
    problem: str = ""


def relative_ids(paths: list[Path], folder: Path) -> list[str]:
    """Ids of files below `folder`: the relative path without the suffix, or with it if two would be equal.

    Ids that differ only in case count as equal, for file systems that ignore case.
    """
    short = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    times = Counter(id.lower() for id in short)
    ids = [
        id if times[id.lower()] == 1 else path.relative_to(folder).as_posix()
        for id, path in zip(short, paths, strict=True)
    ]
    taken: set[str] = set()
    for position, id in enumerate(ids):
        unique, count = id, 2
        while unique.lower() in taken:
            unique, count = f"{id}-{count}", count + 1
        taken.add(unique.lower())
        ids[position] = unique
    return ids


def inside(folder: Path, relative: str, listed_in: Path) -> Path:
    """The path of `relative` below `folder`; InputError if it leads out of `folder`."""
    path = folder / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise InputError(f"split file {listed_in} names {relative!r}, which lies outside {folder}; correct the line")
    return path


def splits(places: list[Path], suffix: str) -> Iterator[tuple[str, Path, str]]:
    """Yield the lines of the split files as (split, file, line), stripped and without blank ones.

    Args:
        places: folders to search for the files train, val and test; the first folder that has a file counts.
        suffix: ".txt" or ".csv".

    Raises:
        InputError: a file is not text.
    """
    for split in ("train", "val", "test"):
        path = next((place / f"{split}{suffix}" for place in places if (place / f"{split}{suffix}").is_file()), None)
        if path is None:
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"split file {path} cannot be read as text; copy or download it again") from error
        for line in text.splitlines():
            if line.strip():
                yield split, path, line.strip()
