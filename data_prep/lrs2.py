"""LRS2: `mvlrs_v1/main/<video id>/<5 digits>.mp4`, with the split files train.txt, val.txt and test.txt."""

import re
import sys
from pathlib import Path

from data_prep.layout import Source, inside, splits
from media.errors import InputError

_CLIP = re.compile(r"[\w-]+/\d+")


def sources(folder: Path) -> list[Source]:
    """The clips that the split files name; without split files, all clips found, and a line on stderr says so.

    Args:
        folder: the folder that contains `mvlrs_v1`, or `mvlrs_v1` itself; either may hold the split files.

    Ids are `<split>/<video id>/<digits>`, so that OUTPUT/train is a folder of clip files to train on; without split
    files, they are `<video id>/<digits>`. LRS2 names no people: a video id, one broadcast, counts as one speaker.
    """
    places = [folder / "mvlrs_v1", folder]
    main = next((place / "main" for place in places if (place / "main").is_dir()), None)
    if main is None:
        raise InputError(f"input {folder} has no mvlrs_v1/main; give the folder that LRS2 was unpacked in")
    found = []
    for split, path, line in splits([folder, main.parent], ".txt"):
        name = line.split()[0].removesuffix(".mp4")  # some lines carry a tag after the name
        video = inside(main, f"{name}.mp4", path)
        if not _CLIP.fullmatch(name):
            raise InputError(f"split file {path} has the line {line!r}, which is no <video id>/<digits>; correct it")
        problem = "" if video.is_file() else f"video {name}.mp4 is named in {path.name} but is not there"
        found.append(Source(f"{split}/{name}", video, video, problem, name.split("/")[0]))
    if not found:
        print(
            f"no split file train.txt, val.txt or test.txt in {folder} or {main.parent}: all clips are taken, without "
            "the folders train, val and test",
            file=sys.stderr,
        )
        found = [
            Source(f"{video.parent.name}/{video.stem}", video, video, speaker=video.parent.name)
            for video in sorted(main.glob("*/*.mp4"))
        ]
    return list(dict.fromkeys(found))
