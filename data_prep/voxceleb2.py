"""VoxCeleb2: a folder an identity, video and sound in separate trees.

`dev/mp4/<identity>/<video id>/<5 digits>.mp4` and `dev/aac/<identity>/<video id>/<5 digits>.m4a`; `test` alike.
"""

import re
from pathlib import Path

from data_prep.layout import Source, listed
from media.errors import InputError
from media.files import SOUND_SUFFIXES, VIDEO_SUFFIXES, files_below

_IDENTITY = re.compile(r"id\d+")


def sources(folder: Path) -> list[Source]:
    """The clips as `train/<identity>/<video id>/<digits>` (the folder dev) and `test/...`.

    Without the folders dev and test, ids begin with the identity. `python -m data_prep.split` takes a validation list
    out of `train`. A video without a sound file must contain its own sound.
    """
    videos = _by_name(folder, VIDEO_SUFFIXES)
    sounds = _by_name(folder, SOUND_SUFFIXES)
    if not videos:
        raise InputError(f"input {folder} has no video <identity>/<video id>/<digits>.mp4; give VoxCeleb2's folder")
    found = [
        Source(name, video, sounds.get(name, video), speaker=name.split("/")[-3])
        for name, video in sorted(videos.items())
    ]
    return listed(folder, found)


def _by_name(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    """Files by `<split>/<identity>/<video id>/<digits>`, or without the split where no folder tells it."""
    found = {}
    for path in files_below(folder, suffixes):
        parts = path.relative_to(folder).with_suffix("").parts
        if len(parts) >= 3 and _IDENTITY.fullmatch(parts[-3]):
            above = [word for part in parts[:-3] for word in re.split(r"[_-]", part.lower())]
            split = ["test"] if "test" in above else ["train"] if "dev" in above else []
            found["/".join([*split, *parts[-3:]])] = path
    return found
