"""HDTF: clips cut from online videos by the authors' annotation files, or clips that are already cut.

For each of RD, WDA and WRA the authors publish four lists. The video's name begins each line:

    RD_annotion_time.txt   Radio11.mp4 00:30-01:00 01:30-02:30     the times of the clips Radio11_0 and Radio11_1
    RD_crop_wh.txt         Radio11_0.mp4 412 599 0 599             a clip's window: x, width, y, height
    RD_resolution.txt      Radio11.mp4 720                         height of the frames that the window is measured in
    RD_video_url.txt       Radio11 URL                             not read
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.layout import Cut, Source, listed, relative_ids
from media.errors import InputError
from media.files import VIDEO_SUFFIXES, files_below

SUBSETS = ("RD", "WDA", "WRA")
SIDE = 512  # px; the authors resize every window to it
_CLIP = re.compile(r"(?P<subset>RD|WDA|WRA)_(?P<name>.+)_\d+")


def sources(folder: Path) -> list[Source]:
    """The dataset's clips, subfolders included.

    With the annotation files in `folder` or in its subfolder HDTF_dataset: each clip that they name, as
    `<subset>_<name>_<number>`. It is cut from the video `<name>` or `<subset>_<name>`; where that is missing, the file
    of a clip that is already cut is taken. Clips without a window in `<subset>_crop_wh.txt` have a problem: the authors
    left them out. Without annotation files: the videos RD_*, WDA_* and WRA_*. Other videos are skipped.

    The names give the speaker: the number behind a name counts a person's videos. RD numbers its videos without naming
    people, so there each video counts as one speaker.
    """
    place = next((each for each in (folder, folder / "HDTF_dataset") if any(_annotations(each))), None)
    if place is not None:
        return listed(folder, list(_annotated(folder, place)))
    paths = [path for path in files_below(folder, {".mp4"}) if path.name.startswith(tuple(f"{s}_" for s in SUBSETS))]
    found = [
        Source(id, path, path, speaker=_speaker(id.rpartition("/")[2]))
        for id, path in zip(relative_ids(paths, folder), paths, strict=True)
    ]
    return listed(folder, found)


def _annotations(place: Path) -> Iterator[tuple[str, Path]]:
    for subset in SUBSETS:
        path = place / f"{subset}_annotion_time.txt"  # spelt so
        if path.is_file():
            yield subset, path


def _annotated(folder: Path, place: Path) -> Iterator[Source]:
    videos: dict[str, Path] = {}
    for path in files_below(folder, VIDEO_SUFFIXES):
        videos.setdefault(path.stem, path)
    for subset, path in _annotations(place):
        windows = _table(place / f"{subset}_crop_wh.txt")
        heights = _table(place / f"{subset}_resolution.txt")
        for name, spans in _table(path).items():
            whole = videos.get(name) or videos.get(f"{subset}_{name}")
            for number, span in enumerate(spans):
                clip = f"{name}_{number}"
                id = f"{subset}_{clip}"
                ready = next(
                    (videos[each] for each in (clip, id, f"{subset}_{name}_{number:03}") if each in videos), None
                )
                video = whole or ready or folder / f"{name}.mp4"
                problem = ""
                if whole is None and ready is None:
                    problem = f"video {name}.mp4 is named in {path.name} but is not there"
                elif windows and clip not in windows:
                    problem = f"{clip} has no window in {subset}_crop_wh.txt, so the authors left it out"
                cut = _cut(path, name, span, windows.get(clip), heights.get(name)) if whole else None
                yield Source(id, video, video, problem, _speaker(id), cut)


def _cut(path: Path, name: str, span: str, window: list[str] | None, height: list[str] | None) -> Cut:
    try:
        start, end = map(_seconds, span.split("-"))
        side = (0, 0, 0, 0) if window is None else tuple(int(number) for number in window)
        x, wide, y, tall = side
        high = int(height[0]) if height else 0
    except ValueError as error:
        raise InputError(f"annotation of {name} in {path} or its window cannot be read; download it again") from error
    if not 0 <= start < end:
        raise InputError(f"annotation {path} has the time {span} for {name}, which has no length; correct it")
    return Cut(start, end, None if window is None else (x, y, wide, tall), high, 0 if window is None else SIDE)


def _seconds(time: str) -> float:
    """ "01:30" or "1:02:03" in seconds."""
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total


def _table(path: Path) -> dict[str, list[str]]:
    """The words of each line behind its first, by the first without its suffix; empty if the file is missing."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"annotation {path} cannot be read as text; download it again") from error
    words = [line.split() for line in lines if line.strip()]
    return {name.removesuffix(".mp4"): rest for name, *rest in words}


def _speaker(stem: str) -> str:
    """`<subset>_<name>` of a clip's name, without the number of the person's video."""
    found = _CLIP.fullmatch(stem)
    if not found:
        return stem
    subset, name = found["subset"], found["name"]
    return f"{subset}_{name}" if subset == "RD" else f"{subset}_{name.rstrip('0123456789')}"
