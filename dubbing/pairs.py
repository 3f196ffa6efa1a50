"""Dubs a list of videos with the networks loaded once."""

import codecs
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dubbing.options import DubOptions
from dubbing.pipeline import Summary
from dubbing.prepared import Prepared
from media.errors import InputError
from media.files import existing_file
from media.video import probe

_NEEDED = ("video", "audio", "output")
_COLUMNS = (*_NEEDED, "crops", "source_crops", "voice")
_BARE = {3: _NEEDED, 5: _COLUMNS[:5]}  # the columns of lists without a line of names, by their number
_WRITE = "write lines of video,audio,output"


@dataclass(frozen=True)
class Pair:
    """A line of a list: a video, the sound to dub it with, and the file to write.

    crops, source_crops: files for the generated and the source's crops; voice: as `DubOptions.voice`.
    """

    video: Path
    audio: Path
    output: Path
    crops: Path | None = None
    source_crops: Path | None = None
    voice: Path | None = None

    @property
    def inputs(self) -> list[Path]:
        """All files to read."""
        return [path for path in (self.video, self.audio, self.voice) if path is not None]

    @property
    def outputs(self) -> list[Path]:
        """All files to write."""
        return [path for path in (self.output, self.crops, self.source_crops) if path is not None]


def read_pairs(path: Path) -> list[Pair]:
    """Read a CSV file whose first line names its columns: video, audio, output, and if wanted the others of `Pair`.

    Without such a line the columns are video,audio,output or video,audio,output,crops,source_crops. Relative paths
    start from the folder of the list.

    Raises:
        InputError: the file cannot be read, a column is unknown or lacks, a line does not have its columns, or an
            output is also another output or any line's video or sound.
    """
    existing_file(path, "list")
    rows = _rows(path)
    names = tuple(cell.lower() for cell in rows[0][1]) if rows else ()
    if len(set(names) & set(_COLUMNS)) > 1:
        _check_names(path, names)
        rows = rows[1:]
    else:
        names = ()
    pairs: list[Pair] = []
    outputs: set[Path] = set()
    for number, row in rows:
        columns = names or _BARE.get(len(row), ())
        cells = dict(zip(columns, row, strict=False))
        if len(row) > len(columns) or not all(map(cells.get, _NEEDED if names else columns)):
            raise InputError(
                f"list {path}, line {number}: {','.join(row)!r} is not {','.join(names or _NEEDED)}; correct it"
            )
        pairs.append(Pair(**{name: path.parent / cell for name, cell in cells.items() if cell}))
        for output in pairs[-1].outputs:
            if output.resolve() in outputs:
                raise InputError(
                    f"list {path}, line {number}: {output} is the output of an earlier line too; rename one"
                )
            outputs.add(output.resolve())
    for pair, (number, _) in zip(pairs, rows, strict=True):
        if used := [part for part in pair.inputs if part.resolve() in outputs]:
            raise InputError(f"list {path}, line {number}: {used[0]} is an output of the list too; rename that")
    if not pairs:
        raise InputError(f"list {path} names no pair; {_WRITE}")
    return pairs


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not empty, with their numbers."""
    try:
        data = path.read_bytes()
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in data[:64]:
            raise InputError(f"list {path} is UTF-16; save it as UTF-8 (in a spreadsheet: CSV UTF-8)")
        lines = io.StringIO(data.decode("utf-8-sig"), newline="")
        rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(lines), 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"list {path} is not a CSV file in UTF-8 ({error}); {_WRITE}") from error
    # Spreadsheets fill lines up with commas, and write empty ones as commas alone.
    rows = [(number, row[: max(i for i, cell in enumerate(row, 1) if cell)]) for number, row in rows if any(row)]
    for separator, name in ((";", "';'"), ("\t", "tabs")):
        if rows and len(rows[0][1]) < len(_NEEDED) and ",".join(rows[0][1]).count(separator) >= len(_NEEDED) - 1:
            raise InputError(f"list {path} separates its columns by {name}; separate them by commas")
    return rows


def _check_names(path: Path, names: tuple[str, ...]) -> None:
    """InputError if the line of names lacks a column, or names one twice or one that is unknown."""
    if lacking := [name for name in _NEEDED if name not in names]:
        raise InputError(f"list {path} lacks the column {lacking[0]}; its line of names is {','.join(names)}")
    if wrong := [name for name in names if name not in _COLUMNS or names.count(name) > 1]:
        what = "twice" if wrong[0] in _COLUMNS else f"which is none of {','.join(_COLUMNS)}"
        raise InputError(f"list {path} names a column {wrong[0]!r}, {what}; correct its line of names")


def tracked_once(pairs: list[Pair], options: DubOptions) -> Callable[[Pair], Path | Prepared]:
    """What to dub for each pair, in their order: its video, `Prepared` if the list names it again."""
    left = Counter(pair.video for pair in pairs if not all(map(os.path.isfile, pair.outputs)))
    kept: dict[Path, Prepared] = {}

    def video_of(pair: Pair) -> Path | Prepared:
        video = pair.video
        left[video] -= 1
        if not left[video]:
            return kept.pop(video, video)
        if video not in kept:
            kept[video] = Prepared.of(video, probe(video), options)
        return kept[video]

    return video_of


def dub_pairs(pairs: list[Pair], dub: Callable[[Pair], Summary]) -> int:
    """Dub each pair whose output does not exist yet; report a pair that fails and continue with the next.

    An output appears under its name only when it is complete, so an existing one is done.

    Returns:
        The exit code: 2 if any pair failed.
    """
    done = skipped = 0
    for pair in pairs:
        if all(map(os.path.isfile, pair.outputs)):  # never raises
            skipped += 1
            continue
        try:
            print(dub(pair))
            done += 1
        except Exception as error:  # a defect triggered by one video must not stop the others
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            message = " ".join(str(error).split())
            print(f"error: {pair.output}: {kind}{message}", file=sys.stderr)
    failed = len(pairs) - done - skipped
    print(f"{done} dubbed, {skipped} were there already, {failed} failed")
    return 2 if failed else 0
