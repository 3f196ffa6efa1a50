"""The layout for one's own clips: a folder of videos with sound, subfolders included."""

from pathlib import Path

from data_prep.layout import Source, listed, relative_ids
from media.files import VIDEO_SUFFIXES, files_below


def sources(folder: Path) -> list[Source]:
    """Every video below `folder`; its id is its relative path without the suffix.

    A subfolder is a person; videos that lie in `folder` itself are of a person each. With lists of `data_prep.split`
    in `folder`, ids begin with the name of the split.
    """
    paths = files_below(folder, VIDEO_SUFFIXES)
    found = [
        Source(id, path, path, speaker=id.rpartition("/")[0] or id)
        for id, path in zip(relative_ids(paths, folder), paths, strict=True)
    ]
    return listed(folder, found)
