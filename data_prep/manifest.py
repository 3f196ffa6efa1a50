"""manifest.jsonl: the outcome of each source of a folder of clip files."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from media.errors import InputError
from media.files import replacing


class Manifest:
    """The manifest of a folder of clip files: one JSON line per source, `id`, `outcome` ("ok" or "failed"), `reason`.

    Lines are appended as sources finish. At the end of a run they are sorted by id, one per source. A kill leaves at
    worst an incomplete last line, which readers skip. Several processes, or machines with a common file system, may
    write at the same time.
    """

    def __init__(self, folder: Path):
        self.path = folder / "manifest.jsonl"
        self._lock = folder / ".manifest.lock"

    def read(self) -> dict[str, dict]:
        """The newest line of each source, by id."""
        lines = {}
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(json.JSONDecodeError, RecursionError):
                    line = json.loads(text)
                    if isinstance(line, dict) and isinstance(line.get("id"), str):
                        lines[line["id"]] = line
        return lines

    @cached_property
    def _offsets(self) -> dict[str, int | None]:
        """Audio-video offset in frames by clip id, for clips that `data_prep.offsets` has measured; None: too short."""
        return {
            id: line["offset"] for id, line in self.read().items() if isinstance(line.get("offset", ""), int | None)
        }

    def lateness(self, clip: str, max_offset: int | None, correct: bool) -> int | None:
        """Number of frames by which training reads a clip's sound later than its picture.

        Args:
            max_offset: leave out clips with a larger offset; None keeps all, and needs no offsets unless `correct`.
            correct: compensate the clip's offset; otherwise the number is 0.

        Returns:
            None if the clip is left out.

        Raises:
            InputError: an offset is needed but has not been measured.
        """
        if max_offset is None and not correct:
            return 0
        if clip not in self._offsets:
            raise InputError(
                f"{self.path} has no offset of clip {clip}, which data.max_offset and data.correct_offsets need; "
                f"run `python -m data_prep.offsets {self.path.parent} --expert EXPERT`, or leave both settings out"
            )
        offset = self._offsets[clip]
        if offset is None or (max_offset is not None and abs(offset) > max_offset):
            return None
        return -offset if correct else 0

    def add(self, lines: list[dict]) -> None:
        """Append lines; InputError if the file cannot be written."""
        if not lines:
            return
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with self._alone(), self.path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # end a killed run's incomplete line
                    text = "\n" + text
            file.write(text.encode())

    def sort(self) -> None:
        """Rewrite the file: one line per source, sorted by id."""
        with self._alone():
            lines = self.read()
            with replacing(self.path) as temporary:
                text = "".join(json.dumps(lines[id]) + "\n" for id in sorted(lines))
                temporary.write_text(text, encoding="utf-8")

    def remove_partial(self) -> None:
        """Remove the temporary files of runs that were killed while sorting."""
        with self._alone():  # others' temporary files exist only while they hold the lock
            for path in self.path.parent.glob(".manifest.*.partial.jsonl"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._lock.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise InputError(f"manifest {self.path} cannot be written ({error.strerror}); free some space") from error
