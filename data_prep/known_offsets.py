"""Reads a table of known offsets between picture and sound, for `data_prep.preprocess --offsets`."""

import csv
import dataclasses
import math
import os
from pathlib import Path

from data_prep.layout import Source
from media.errors import InputError, first_line
from media.files import existing_file

COLUMNS = ("file", "picture_later_ms")


def read_offsets(path: str | os.PathLike) -> dict[str, float]:
    """The offsets of a tab-separated table whose first line names its columns, `COLUMNS` among them.

    Returns:
        file -> seconds by which its picture lags its sound; rows without a number are left out.

    Raises:
        InputError: the table cannot be read, lacks a column, or holds a value that is no number.
    """
    path = existing_file(path, "table of offsets")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"its first line does not name {' and '.join(COLUMNS)}")
            found = {row["file"]: float(row[COLUMNS[1]]) / 1000 for row in reader if (row[COLUMNS[1]] or "").strip()}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"table of offsets {path}: {first_line(error)}; write a tab-separated table") from error
    unusable = next((name for name, seconds in found.items() if not math.isfinite(seconds)), None)
    if unusable is not None:
        raise InputError(f"table of offsets {path}: {unusable} has an offset that is not finite; leave it empty")
    return found


def with_offsets(sources: list[Source], offsets: dict[str, float], folder: Path) -> list[Source]:
    """`sources` with the offsets of their videos, which the table names relative to `folder`.

    Raises:
        InputError: no video is in the table.
    """
    known = [offsets.get(os.path.relpath(source.video, folder).replace(os.sep, "/")) for source in sources]
    if all(seconds is None for seconds in known):
        raise InputError(f"--offsets: the table names no video of {folder}; its column file has paths relative to that")
    return [
        source if seconds is None else dataclasses.replace(source, later=seconds)
        for source, seconds in zip(sources, known, strict=True)
    ]
