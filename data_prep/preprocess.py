"""Turn a dataset of talking-face videos into clip files: faces, landmarks and sound, ready to train on at any size.

    python -m data_prep.preprocess INPUT OUTPUT [--dataset lrs2] [--audio mel hama] [--workers N]

Each source gives one clip file OUTPUT/<id>.safetensors and one line in OUTPUT/manifest.jsonl. A stopped run resumes
when started again. Several machines share the work with --shard 1/N .. N/N or --backend dask. The exit code is 2 if no
source can be used.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from data_prep.layout import Source
from data_prep.layouts import LAYOUTS
from data_prep.storage import LONGEST_SIDE, QUALITY
from media.errors import InputError, Parser, command, positive, quick_help
from media.files import output_folder, short_stem
from media.timeline import FPS

LARGEST = 4096  # px, the most that it can be


def parse_shard(text: str) -> tuple[int, int]:
    """Read I/N as (I - 1, N). Parts count from 1; 0 is the last part, so that counting from 0 works too."""
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4") from None
    if parts < 1 or not 0 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r}: I must lie between 1 and N")
    return (part - 1) % parts, parts


def up_to(most: int) -> Callable[[str], int]:
    """Type of an option for argparse: an integer from 1 to `most`."""

    def read(text: str) -> int:
        number = positive(text)
        if number > most:
            raise argparse.ArgumentTypeError(f"{text} must be {most} or less")
        return number

    return read


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("input", type=Path, help="the dataset's folder")
    parser.add_argument("output", type=Path, help="folder for the clip files and manifest.jsonl")
    parser.add_argument(
        "--dataset",
        choices=sorted(LAYOUTS),
        default="folder",
        help="layout of INPUT; folder takes every video in it (default: folder)",
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        choices=["mel", "wav2vec2", "hama", "whisper"],
        default=["mel"],
        help="sound features to write: log-mel at 80 Hz, which every file gets; of Wav2Vec 2.0, hama's speech encoder "
        "or Whisper at 50 Hz (default: mel)",
    )
    parser.add_argument(
        "--offsets",
        type=Path,
        metavar="TSV",
        help="table with columns file (relative to INPUT) and picture_later_ms: by how many ms the picture lags its "
        "sound, which is corrected (default: the files are in sync)",
    )
    parser.add_argument(
        "--longest-side",
        type=up_to(LARGEST),
        default=LONGEST_SIDE,
        metavar="PIXELS",
        help=f"longest side of a stored face; larger ones are made smaller (default: {LONGEST_SIDE})",
    )
    parser.add_argument(
        "--quality",
        type=up_to(100),
        default=QUALITY,
        metavar="Q",
        help=f"JPEG quality of the stored faces, 1 to 100 (default: {QUALITY})",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes at once, each with one video (default: one per CPU core)",
    )
    parser.add_argument(
        "--shard",
        type=parse_shard,
        default="1/1",
        metavar="I/N",
        help="process only part I of N of the videos, counted from 1 (default: 1/1, all)",
    )
    parser.add_argument(
        "--backend",
        choices=["loky", "dask"],
        default="loky",
        help="where the processes run: loky on this machine, dask on the cluster at $DASK_SCHEDULER_ADDRESS or, "
        "without it, on this machine (default: loky)",
    )
    return parser.parse_args()


import cv2
import numpy as np
import torch
from tqdm import tqdm

from data_prep.clips import SUFFIX, Clip, ClipData, encode_face, stored_part, write_clip
from data_prep.cut import source_frames, source_sound
from data_prep.index import open_clips
from data_prep.known_offsets import read_offsets, with_offsets
from data_prep.manifest import Manifest
from data_prep.workers import CRASHED, spread
from media.audio import SAMPLE_RATE, mel_spectrogram, sound_features
from media.face import FaceTracker
from media.landmarks import tracked
from media.loudness import TARGET, heard

MINIMUM = FPS  # fewest frames with a face: one second
LONGEST_NAME = 255  # bytes; limit of common file systems
_FACES = 3  # faces to find in a frame, so that the tracker can stay with the same one


def read_source(source: Source, kinds: list[str], quality: int, longest_side: int) -> ClipData:
    """Read a source's sound and the face in each of its frames; InputError if the source cannot be used."""
    if source.problem:
        raise InputError(source.problem)
    wav = source_sound(source)
    if len(wav) < SAMPLE_RATE:
        raise InputError(f"sound {source.sound.name} lasts under one second ({len(wav) / SAMPLE_RATE:.2f} s)")
    data = ClipData([], [], [], [], wav, {}, TARGET)
    number = -1
    with FaceTracker(_FACES) as tracker:
        for number, frame in enumerate(source_frames(source)):
            face = tracker.track(frame)
            if face is None:
                continue
            points = tracked(face.landmarks)
            box = stored_part(points, frame.shape[1], frame.shape[0])
            data.faces.append(encode_face(frame, box, quality, longest_side))
            data.points.append(points)
            data.boxes.append(box)
            data.frames.append(number)
    length = number + 1
    if length < MINIMUM:
        raise InputError(f"video {source.video.name} lasts under one second ({length / FPS:.2f} s)")
    if not data.frames:
        raise InputError(f"video {source.video.name} has no face in any of its {length} frames")
    if len(data.frames) < MINIMUM:
        raise InputError(f"video {source.video.name} has a face in only {len(data.frames)} of its {length} frames")
    data.audio = features(wav, kinds)
    return data


def features(wav: np.ndarray, kinds: list[str]) -> dict[str, np.ndarray]:
    """Audio features by kind, of the sound as it is `heard`; always log-mel too, the input of the lip-sync expert."""
    wav = heard(wav)
    found = {"mel": mel_spectrogram(wav)}
    with _one_thread():
        return found | {kind: sound_features(wav, kind) for kind in kinds if kind != "mel"}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch in one thread: sums depend on the number of threads, and clip files must not.

    This costs little, because there are as many workers as cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def process(source: Source, output: Path, kinds: list[str], quality: int, longest_side: int) -> dict:
    """Write the clip file of one source and return its manifest line; InputError only if writing fails."""
    cv2.setNumThreads(0)  # there are as many workers as cores
    try:
        data = read_source(source, kinds, quality, longest_side)
    except ModuleNotFoundError:  # not the file's fault
        raise
    except Exception as error:  # no error of one file may stop the others
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return failure(source, reason)
    path = clip_path(output, source)
    write_clip(path, data)
    return done_line(source, Clip(path))


def clip_path(output: Path, source: Source) -> Path:
    return output / f"{source.id}{SUFFIX}"


def name_problem(source: Source) -> str:
    """Why a source's name cannot name a clip file; empty if it can."""
    name = f"{source.id}{SUFFIX}".rpartition("/")[2]
    return "its name is too long for a clip file; shorten it" if len(os.fsencode(name)) > LONGEST_NAME else ""


def done_line(source: Source, clip: Clip) -> dict:
    """The manifest line of a source whose clip file exists."""
    line = {
        "id": source.id,
        "source": source.video.name,
        "outcome": "ok",
        "frames": len(clip),
        "seconds": round(clip.seconds, 2),
        "audio": sorted(clip.kinds),
        "source_bytes": source_bytes(source),
    }
    return line | ({"picture_later": source.later} if source.later else {})


def source_bytes(source: Source) -> int | None:
    """Total size of a source's files, which distinguishes videos of the same name; None if a file is gone."""
    try:
        return sum(path.stat().st_size for path in {source.video, source.sound})
    except OSError:
        return None


def failure(source: Source, reason: str) -> dict:
    """The manifest line of a source that cannot be used."""
    return {"id": source.id, "source": source.video.name, "outcome": "failed", "reason": " ".join(reason.split())}


def with_remarks(line: dict, earlier: dict) -> dict:
    """`line` plus the keys that other commands added to the `earlier` line of the same clip, such as its offset."""
    identifying = ("outcome", "frames", "seconds", "source_bytes")
    same = all(earlier.get(key, line.get(key)) == line.get(key) for key in identifying)
    same &= earlier.get("picture_later", 0.0) == line.get("picture_later", 0.0)
    return earlier | line if same else line


def finished(sources: list[Source], output: Path, kinds: list[str], known: dict[str, dict]) -> list[dict]:
    """The manifest lines of the sources whose clip files exist, are intact, and have the audio features asked.

    The clip file decides, not its line in `known`: a run may have been killed between writing the two. A source is not
    finished if its line records another size of the source, or another offset.
    """
    lines = []
    for source in sources:
        path = clip_path(output, source)
        line = known.get(source.id, {})
        size, now = line.get("source_bytes"), source_bytes(source)
        gone = bool(source.problem) or now is None  # the source was deleted after its clip file was written
        if not os.path.isfile(path) or (not gone and size is not None and size != now):  # never raises
            continue
        if not gone and line.get("picture_later", 0.0) != source.later:
            continue
        try:
            clip = Clip(path)
        except InputError:
            continue
        if set(kinds) <= set(clip.kinds) and (line or not gone):
            lines.append(line if gone else with_remarks(done_line(source, clip), line))
    return lines


def remove_partial(output: Path, sources: list[Source]) -> None:
    """Remove a killed run's partial clip files of these sources only: other shards may be running."""
    paths = (clip_path(output, source) for source in sources)
    ours = {(path.parent, short_stem(path)) for path in paths}
    for path in output.rglob(f".*.partial{SUFFIX}"):
        stem = path.name.removesuffix(f".partial{SUFFIX}")[1:].rpartition(".")[0]
        if (path.parent, stem) in ours:
            path.unlink(missing_ok=True)


@command
def main() -> int:
    options = parse()
    if not options.input.is_dir():
        what = "is not a folder" if options.input.exists() else "does not exist"
        raise InputError(f"input {options.input} {what}; give the dataset's folder")
    sources = LAYOUTS[options.dataset](options.input.resolve())  # workers may run in other folders
    sources = [dataclasses.replace(source, problem=source.problem or name_problem(source)) for source in sources]
    if not sources:
        raise InputError(f"input {options.input} holds no video in the layout {options.dataset}; check --dataset")
    if options.offsets is not None:
        sources = with_offsets(sources, read_offsets(options.offsets), options.input.resolve())
    output = output_folder(options.output).resolve()
    features(np.zeros(SAMPLE_RATE, np.float32), options.audio)  # a missing model stops the run before any work

    part, parts = options.shard
    sources = sources[part::parts]
    remove_partial(output, sources)
    manifest = Manifest(output)
    manifest.remove_partial()
    known = manifest.read()
    lines = finished(sources, output, options.audio, known)
    manifest.add([line for line in lines if line != known.get(line["id"])])
    done = {line["id"] for line in lines}
    pending = [source for source in sources if source.id not in done]
    work = partial(
        process, output=output, kinds=options.audio, quality=options.quality, longest_side=options.longest_side
    )
    with tqdm(total=len(sources), initial=len(done), unit="clip", desc="preprocess") as progress:
        for source, line in spread(work, pending, options.workers, options.backend):
            line = failure(source, "crashes the process that reads it") if line is CRASHED else line
            line = with_remarks(line, known.get(source.id, {}))
            if line["outcome"] != "ok":
                progress.write(f"{line['id']} failed: {line['reason']}", file=sys.stderr)
            manifest.add([line])
            lines.append(line)
            progress.update()
    manifest.sort()
    with contextlib.suppress(InputError):  # nothing succeeded, or a file of another run cannot be used
        open_clips(output)  # writes the index

    failed = sum(line["outcome"] != "ok" for line in lines)
    earlier = f"; {len(done)} of them were done before" if done else ""
    print(f"{len(lines) - failed} succeeded, {failed} failed{earlier}; see {manifest.path}")
    return 2 if failed and failed == len(lines) else 0


if __name__ == "__main__":
    sys.exit(main())
