"""The layout for one's own clips: a folder of videos with sound, subfolders included."""

from pathlib import Path

from data_prep.layout import Source, relative_ids
from media.files import VIDEO_SUFFIXES, files_below


def sources(folder: Path) -> list[Source]:
    """Every video below `folder`; its id is its relative path without the suffix."""
    paths = files_below(folder, VIDEO_SUFFIXES)
    return [Source(id, path, path) for id, path in zip(relative_ids(paths, folder), paths, strict=True)]
