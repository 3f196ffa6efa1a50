"""Finds files below a folder, checks paths, and writes files either completely or not at all."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from media.errors import InputError

DEMO = Path(__file__).resolve().parent.parent / "checkpoints" / "demo"  # the bundled checkpoint
DOWNLOADS = DEMO.parent / "downloads"  # weights that `checkpoints.fetch` and its like have put there
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".flv", ".wmv", ".3gp", ".ogv",
}  # fmt: skip
SOUND_SUFFIXES = {".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma"}
_SHORT = 160  # bytes; file systems allow 255 for a name


def existing_file(path: str | os.PathLike, what: str) -> Path:
    """Return `path` if it is a non-empty file; `what` names it in the InputError raised otherwise."""
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{what} {path} does not exist; check the path") from error
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be read ({error.strerror}); check the path and who may read it"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{what} {path} is a folder; give a file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{what} {path} is a pipe or a device; give a file")
    if status.st_size == 0:
        raise InputError(f"{what} {path} is empty; copy or download it again")
    return path


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files below `folder` with one of `suffixes` (any case), sorted; hidden files and folders left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    return sorted(found)


def check_output_folder(path: str | os.PathLike) -> None:
    """InputError if `output_folder` could not create the folder `path` or write to it. Creates nothing."""
    path = Path(path)
    place = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))  # never raises
    if not place.is_dir():
        raise InputError(f"output folder {path} cannot be made ({place} is a file); choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"output folder {path} cannot be written ({place} is read-only); choose another")


def output_folder(path: str | os.PathLike) -> Path:
    """Create the folder `path` if it is missing, and return it; InputError if it cannot be written to."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output folder {path} cannot be made ({error.strerror}); choose another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"output folder {path} is not writable; change its permissions or choose another")
    return path


def short_stem(path: Path) -> str:
    """The stem of `path`'s name. Above 160 bytes, its first 160 and a hash of the stem: leaves room for suffixes."""
    whole = os.fsencode(path.stem)
    if len(whole) <= _SHORT:
        return path.stem
    return f"{whole[:_SHORT].decode(errors='ignore')}-{hashlib.blake2b(whole, digest_size=6).hexdigest()}"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name next to `path`; on success it is renamed to `path`, on any error it is removed.

    A reader therefore sees the old file or the complete new one. The temporary name keeps the suffix, from which some
    writers take the format. Its random part keeps processes on this or other machines from sharing it. A lock on the
    file, which ends with the process, tells `remove_abandoned` that it is in use.
    """
    path = Path(path)
    output_folder(path.parent)
    temporary = path.with_name(f".{short_stem(path)}.{uuid.uuid4().hex[:12]}.partial{path.suffix}")
    try:
        with temporary.open("xb") as locked:
            _locked(locked.fileno())
            yield temporary
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be written ({reason}); free some space or choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # an error here would hide the first one
            temporary.unlink(missing_ok=True)


def remove_abandoned(path: str | os.PathLike) -> None:
    """Remove the temporary files of `path` that a crashed process left; those of a running one stay."""
    path = Path(path)
    name = re.compile(rf"\.{re.escape(short_stem(path))}\.[0-9a-f]{{12}}\.partial{re.escape(path.suffix)}")
    with contextlib.suppress(OSError):  # to clean up is not the work that was asked for
        for found in path.parent.glob(f".{glob.escape(short_stem(path))}.*"):
            if name.fullmatch(found.name):
                with found.open("rb") as file:
                    if _locked(file.fileno()):
                        found.unlink(missing_ok=True)


def _locked(descriptor: int) -> bool:
    """Lock an open file; False if another process has locked it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
        return False
    return True


def named_paths(option: str, arguments: list[str]) -> dict[str, Path]:
    """Paths by name, from arguments `NAME=PATH` or `PATH`; a bare `PATH` is named after its last part.

    Raises:
        InputError: a name or a path is empty, or a name appears twice. The message names `option`.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or Path(argument).exists():  # a path may contain an equals sign
            whole = Path(argument).resolve()
            name, path = whole.stem if whole.is_file() else whole.name, argument
        if not name or not path:
            raise InputError(f"{option} {argument} lacks a name or a path; write NAME=PATH")
        if name in paths:
            raise InputError(f"{option} names {name} twice; write NAME=PATH with different names")
        paths[name] = Path(path)
    return paths
