"""Fetch the published weights of other networks.

    python -m checkpoints.fetch --list
    python -m checkpoints.fetch vgg19 lpips fid
    python -m checkpoints.fetch syncnet --from ~/weights

`manifest.yaml` next to this file describes each name. Metrics and losses call `require` for a file and never download:
a run that lacks weights stops before any work and names the command that fetches them.

An interrupted download resumes when the command is repeated. A file gets its name only after its size and its sha256
have been checked.
"""

import functools
import hashlib
import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from media.errors import InputError, Parser, command
from media.files import output_folder, replacing

FOLDER = Path(__file__).resolve().parent
DOWNLOADS = FOLDER / "downloads"
MANIFEST = FOLDER / "manifest.yaml"
ATTEMPTS = 3  # for one URL, as long as each adds to the file
TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """One file of the manifest: its name, its URLs, and the known facts about its content."""

    name: str
    urls: list[str]
    sha256: str = ""  # all 64 digits, or the first of them
    size: int | None = None  # bytes
    megabytes: float | None = None  # as published, for --list; not checked


@dataclass(frozen=True)
class Weights:
    """The files that make up one name of the manifest."""

    name: str
    licence: str
    files: list[File]
    folder: str = ""  # below DOWNLOADS, if there are several files

    @property
    def path(self) -> Path:
        return DOWNLOADS / (self.folder or self.files[0].name)

    def file_path(self, file: File) -> Path:
        return DOWNLOADS / self.folder / file.name


@functools.cache
def manifest() -> dict[str, Weights]:
    """Name -> weights, in the manifest's order."""
    entries: Any = OmegaConf.to_container(OmegaConf.load(MANIFEST))
    return {
        name: Weights(name, **{**entry, "files": [File(**file) for file in entry["files"]]})
        for name, entry in entries.items()
    }


def path(name: str) -> Path:
    """The path of the weights `name` once fetched: a file, or a folder of several files (wav2vec2)."""
    return manifest()[name].path


def available(name: str) -> bool:
    """Whether all files of `name` are present with their known sizes."""
    return _missing(manifest()[name]) is None


def require(name: str, purpose: str) -> Path:
    """`path(name)`; InputError if one of its files is missing. `purpose` names the user of the weights ("FID", ...)."""
    weights = manifest()[name]
    missing = _missing(weights)
    if missing is not None:
        raise InputError(
            f"{purpose}: {weights.file_path(missing)} is missing or incomplete ({missing.urls[0]}); "
            f"run `python -m checkpoints.fetch {name}`"
        )
    return weights.path


def _missing(weights: Weights) -> File | None:
    for file in weights.files:
        place = weights.file_path(file)
        if not place.is_file() or place.stat().st_size == 0 or file.size not in (None, place.stat().st_size):
            return file
    return None


def fetch(weights: Weights, source: Path | None = None) -> None:
    """Copy all files of `weights` from the folder `source`, or download them if it is None.

    Raises:
        InputError: a file is not in `source`, cannot be downloaded or written, or is not the published one.
    """
    for file in weights.files:
        place = weights.file_path(file)
        if place.is_file() and _fault(place, file) is None:
            continue
        output_folder(place.parent)
        if source is None:
            _download(weights.name, file, place)
        else:
            _copy(source, weights, file, place)


def _copy(source: Path, weights: Weights, file: File, place: Path) -> None:
    candidates = [source / weights.folder / file.name, source / file.name]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"{weights.name}: {source} holds no {file.name}; download it from {file.urls[0]}")
    fault = _fault(found, file)
    if fault is not None:
        raise InputError(f"{weights.name}: {found} {fault}; download it again from {file.urls[0]}")
    with replacing(place) as temporary:
        shutil.copyfile(found, temporary)


def _download(name: str, file: File, place: Path) -> None:
    """Try each URL; the next one continues a partial file. A complete file that fails its check is deleted."""
    partial = place.with_name(f".{place.name}.part")
    reasons = []
    for url in file.urls:
        try:
            continued = _size(partial) > 0
            _transfer_persistently(url, partial, file)
            if continued and _fault(partial, file) is not None:  # the old part belonged to another file
                partial.unlink()
                _transfer_persistently(url, partial, file)
        except _Full as error:
            raise InputError(f"{name}: {partial} cannot be written ({error}); free some space") from error
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {error or type(error).__name__}")
            continue
        fault = _fault(partial, file)
        if fault is None:
            os.replace(partial, place)
            return
        partial.unlink()
        reasons.append(f"{url}: what came {fault}")
    raise InputError(
        f"{name}: {file.name} could not be downloaded ({'; '.join(reasons)}); try again, or get it another way and run "
        f"`python -m checkpoints.fetch {name} --from FOLDER`"
    )


def _transfer_persistently(url: str, partial: Path, file: File) -> None:
    """Repeat `_transfer` after a broken connection that added something to the file."""
    for attempt in range(1, ATTEMPTS + 1):
        if not file.sha256 or (file.size is not None and _size(partial) > file.size):
            partial.unlink(missing_ok=True)  # without a sha256 a wrong join would not be noticed
        before = _size(partial)
        try:
            return _transfer(url, partial, file)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS or _size(partial) <= before:
                raise


class _Full(Exception):
    """The disk refuses the downloaded data."""


def _transfer(url: str, partial: Path, file: File) -> None:
    """Append the rest of `url` to `partial`; the file starts again if the server does not support ranges."""
    start = _size(partial)
    if file.size is not None and start == file.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "stsa-dubbing"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is left to send
            return
        raise
    with response:
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if continued else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        bar = tqdm(desc=file.name, initial=start, total=total, unit="B", unit_scale=True, unit_divisor=1000)
        with bar, open(partial, "ab" if continued else "wb") as output:
            while block := response.read(BLOCK):
                try:
                    output.write(block)
                    output.flush()
                except OSError as error:
                    raise _Full(error.strerror) from error
                bar.update(len(block))
    if total is not None and _size(partial) < total:
        raise ConnectionError(f"the connection broke off after {_size(partial)} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fault(path: Path, file: File) -> str | None:
    """Why `path` is not the published file, as the end of a sentence; None if it is."""
    size = _size(path)
    if size == 0:
        return "is empty"
    if file.size is not None and size != file.size:
        return f"has {size} bytes instead of {file.size}"
    if file.sha256:
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if not digest.startswith(file.sha256):
            return f"has the sha256 {digest[: len(file.sha256)]} instead of {file.sha256}"
    elif path.name.removeprefix(".").removesuffix(".part").endswith(".json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:  # such as an error page, or a proxy's
            return "is not JSON"
    return None


def _listing() -> str:
    lines = []
    for name, weights in manifest().items():
        state = "present" if available(name) else "absent"
        lines.append(f"{name:12} {state:8} {weights.licence}")
        for file in weights.files:
            size = "" if file.megabytes is None else f"{file.megabytes:g} MB, "
            lines.append(f"{'':12} {weights.file_path(file)}, {size}{file.urls[0]}")
    return "\n".join(lines)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {' '.join(manifest())}")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="copy from there, do not download")
    parser.add_argument("--list", action="store_true", help="print names, licences, places and URLs")
    options = parser.parse_args(arguments)
    if options.list:
        print(_listing())
        return
    if not options.names:
        raise InputError(f"nothing to fetch; give one or more of {' '.join(manifest())}")
    unknown = [name for name in options.names if name not in manifest()]
    if unknown:
        raise InputError(f"{unknown[0]} is not in the manifest; the names are {' '.join(manifest())}")
    if options.source is not None and not options.source.is_dir():
        raise InputError(f"--from {options.source} is not a folder")
    names = list(dict.fromkeys(options.names))
    failures: dict[str, InputError] = {}
    for name in names:
        try:
            fetch(manifest()[name], options.source)
        except InputError as failure:  # the other weights may be on servers that work
            failures[name] = failure
        else:
            print(f"fetched {name} into {DOWNLOADS}")
    if failures and len(names) == 1:
        raise failures[names[0]]
    for reason in failures.values():
        print(f"error: {reason}", file=sys.stderr)
    if failures:
        raise InputError(f"{len(failures)} of {len(names)} not fetched: {', '.join(failures)}; see above and try again")


if __name__ == "__main__":
    sys.exit(main())
