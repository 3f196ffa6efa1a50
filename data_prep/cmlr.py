"""CMLR: speakers `s1` to `s11`, a folder per date, video and sound in separate files, split files in CSV."""

import re
from pathlib import Path

from data_prep.layout import Source, inside, splits
from media.errors import InputError
from media.files import SOUND_SUFFIXES, VIDEO_SUFFIXES, files_below

_SPEAKER = re.compile(r"s\d+")
_CONTENT = {"video", "videos", "audio", "audios", "wav"}  # folders named for their content, not for a speaker or a date


def sources(folder: Path) -> list[Source]:
    """The clips that train.csv, val.csv and test.csv name; without these files, all videos found.

    Videos lie in `video/<speaker>/<date>/<name>.mp4`, their sound in `audio/<speaker>/<date>/<name>.wav`; the folders
    `video` and `audio` may also lie below the speaker's. A video without a sound file must contain its own sound.

    Ids are `<split>/<speaker>/<date>/<name>`.
    """
    videos = _by_name(folder, VIDEO_SUFFIXES)
    sounds = _by_name(folder, SOUND_SUFFIXES)
    if not videos:
        raise InputError(f"input {folder} has no video of a speaker s1 to s11; give the folder that holds video/s1")
    found, begun = [], set()
    for split, path, line in splits([folder], ".csv"):
        name = _without_suffix(line.split(",")[0].strip().strip('"'))
        first = path not in begun
        begun.add(path)
        if not _SPEAKER.fullmatch(name.split("/")[0]):
            if first and "/" not in name:
                continue  # the header
            raise InputError(f"split file {path} has the line {line!r}, which is no <speaker>/<date>/<name>")
        missing = inside(folder, f"{name}.mp4", path)
        problem = "" if name in videos else f"video {name} is named in {path.name} but is not there"
        video = videos.get(name, missing)
        found.append(Source(f"{split}/{name}", video, sounds.get(name, video), problem, name.split("/")[0]))
    if not found:
        found = [
            Source(name, video, sounds.get(name, video), speaker=name.split("/")[0])
            for name, video in sorted(videos.items())
        ]
    return list(dict.fromkeys(found))


def _by_name(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    """Files by `<speaker>/<date>/<name>`."""
    found: dict[str, Path] = {}
    for path in files_below(folder, suffixes):
        parts = path.relative_to(folder).with_suffix("").parts
        speaker = next((i for i, part in enumerate(parts[:-1]) if _SPEAKER.fullmatch(part)), None)
        if speaker is not None:
            name = "/".join(part for part in parts[speaker:] if part not in _CONTENT)
            found.setdefault(name, path)
    return found


def _without_suffix(name: str) -> str:
    """Cut a known suffix only, because names contain dots (`section_1_002.05_004.82`)."""
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES | SOUND_SUFFIXES else name
