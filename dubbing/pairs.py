"""Dubs a list of videos with the networks loaded once."""

import csv
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

_HEADERS = (("video", "audio", "output"), ("video", "audio", "output", "crops", "source_crops"))


@dataclass(frozen=True)
class Pair:
    """A video, the speech to dub it with, the file to write, and files for the generated and the source's crops."""

    video: Path
    audio: Path
    output: Path
    crops: Path | None = None
    source_crops: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        """All files to write."""
        return [path for path in (self.output, self.crops, self.source_crops) if path is not None]


def read_pairs(path: Path) -> list[Pair]:
    """Read a CSV file of video,audio,output or video,audio,output,crops,source_crops; these words are a header.

    Raises:
        InputError: the file cannot be read, a line does not have three or five columns, or an output is also another
            output or any line's video or sound.
    """
    existing_file(path, "list")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file), 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"list {path} is not a CSV file ({error}); write lines of video,audio,output") from error
    rows = [(number, row) for number, row in rows if any(row)]  # spreadsheets write empty rows as commas
    if rows and tuple(cell.lower() for cell in rows[0][1]) in _HEADERS:
        rows = rows[1:]
    pairs: list[Pair] = []
    outputs: set[Path] = set()
    for number, row in rows:
        if len(row) not in map(len, _HEADERS) or not all(row):
            raise InputError(f"list {path}, line {number}: {','.join(row)!r} is not video,audio,output; correct it")
        pairs.append(Pair(*map(Path, row)))
        for output in pairs[-1].outputs:
            if output.resolve() in outputs:
                raise InputError(
                    f"list {path}, line {number}: {output} is the output of an earlier line too; rename one"
                )
            outputs.add(output.resolve())
    for pair, (number, _) in zip(pairs, rows, strict=True):
        if used := [part for part in (pair.video, pair.audio) if part.resolve() in outputs]:
            raise InputError(f"list {path}, line {number}: {used[0]} is an output of the list too; rename that")
    if not pairs:
        raise InputError(f"list {path} names no pair; write lines of video,audio,output")
    return pairs


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
