"""Sources of a dataset: each layout returns a list of them. A source's id names its clip file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from media.errors import InputError

SPLITS = ("train", "val", "test")
MARK = "# data_prep.split"  # begins the lists that data_prep.split writes


@dataclass(frozen=True)
class Cut:
    """The part of a video that a clip shows (`data_prep.cut` reads it).

    start, end: seconds.
    window: x, y, width and height in pixels of a frame that is `height` pixels high; None for the whole frame.
    height: 0 if the window is in pixels of the video as it is.
    side: pixels to which the window is resized, width and height; 0 leaves its size.
    """

    start: float
    end: float
    window: tuple[int, int, int, int] | None = None
    height: int = 0
    side: int = 0


@dataclass(frozen=True)
class Source:
    """One clip of a dataset.

    id: name of the clip file: a relative path without suffix, its parts joined by "/".
    video: the file with the picture.
    sound: the file with the sound; may be the video itself.
    problem: why the source cannot be used, if the layout finds a reason; else "".
    speaker: name of the person, equal for all clips of one person; "" if the layout cannot tell.
    cut: the part of `video` and `sound` that the clip is; None for all of them.
    later: seconds by which the picture lags the sound, as far as that is known.
    """

    id: str
    video: Path
    sound: Path
    problem: str = ""
    speaker: str = ""
    cut: Cut | None = None
    later: float = 0.0

    @property
    def base(self) -> str:
        """The id without the name of a split."""
        split, _, rest = self.id.partition("/")
        return rest if split in SPLITS and rest else self.id


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
    for split in SPLITS:
        path = next((place / f"{split}{suffix}" for place in places if (place / f"{split}{suffix}").is_file()), None)
        if path is None:
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"split file {path} cannot be read as text; copy or download it again") from error
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield split, path, line.strip()


def has_lists(folder: Path) -> bool:
    """Whether `folder` has a list that `data_prep.split` wrote; other files of these names are not taken for one."""
    paths = [folder / f"{split}.txt" for split in SPLITS]
    return any(path.read_bytes().startswith(MARK.encode()) for path in paths if path.is_file())


def listed(folder: Path, sources: list[Source]) -> list[Source]:
    """`sources` with the splits of the lists that `data_prep.split` wrote into `folder`; unchanged without such lists.

    A listed source gets the id `<split>/<base>`. One that no list names keeps the split that its dataset gives it; if
    the dataset gives none, it is left out. A name that no source has becomes a source with a problem.

    Raises:
        InputError: a list is not text, or two lists name one source.
    """
    if not has_lists(folder):
        return sources
    chosen: dict[str, str] = {}
    for split, path, name in splits([folder], ".txt"):
        if chosen.setdefault(name, split) != split:
            raise InputError(f"split file {path} names {name}, which {chosen[name]}.txt names too; remove one line")
    found = [
        replace(source, id=f"{chosen[source.base]}/{source.base}") if source.base in chosen else source
        for source in sources
        if source.base in chosen or source.base != source.id
    ]
    known = {source.base for source in sources}
    missing = [(name, split) for name, split in chosen.items() if name not in known]
    found += [
        Source(f"{split}/{name}", folder / name, folder / name, f"is named in {split}.txt but is not there")
        for name, split in missing
    ]
    return sorted(found, key=lambda source: source.id)
