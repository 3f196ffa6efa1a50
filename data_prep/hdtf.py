"""HDTF: whole clips named RD_*, WDA_* and WRA_*, as mp4."""

from pathlib import Path

from data_prep.layout import Source, relative_ids
from media.files import files_below


def sources(folder: Path) -> list[Source]:
    """The dataset's clips, subfolders included. Other videos, such as the downloads they were cut from, are skipped."""
    paths = [path for path in files_below(folder, {".mp4"}) if path.name.startswith(("RD_", "WDA_", "WRA_"))]
    return [Source(id, path, path) for id, path in zip(relative_ids(paths, folder), paths, strict=True)]
