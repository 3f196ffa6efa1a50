"""What depends on a true video alone, computed once for all methods, and with a cache folder once for all runs."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

import media.face
import media.landmarks
import media.place
from media.face import Face
from media.files import output_folder, replacing

MEMORY = 2**29  # bytes a clip; what exceeds it is computed again (the flow of a minute of large faces)


def fingerprint(*parts: object) -> str:
    """A digest of networks (their weights), modules and files (their content), and other things (their text)."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for name, tensor in part.state_dict().items():
                whole.update(name.encode())
                whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(part, Path):
            with part.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        elif hasattr(part, "__file__"):
            whole.update(Path(part.__file__).read_bytes())
        else:
            whole.update(repr(part).encode())
        whole.update(b"|")
    return whole.hexdigest()[:32]


class Truth:
    """The faces, features and flow of one true video.

    Values are kept by kind and frame. With a folder they are read from it and written to it by `save`; a file's name is
    the fingerprint of the video and of all that its values depend on, so none is ever used for another video, other
    weights or other code.

    Args:
        video: None keeps nothing.
        kinds: kind -> fingerprint of what its values depend on apart from the video.
        keep: whether a later method will ask again.
        folder: the cache; None keeps values in memory only.
    """

    def __init__(
        self,
        video: Path | None,
        kinds: dict[str, str] | None = None,
        keep: bool = False,
        folder: Path | None = None,
    ):
        self.faces: list[Face | None] = []
        self._keep = keep or folder is not None
        self._values: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        self._bytes = 0
        self._files: dict[str, Path] = {}
        if folder is not None and video is not None:
            content = fingerprint(video)
            used = {"faces": fingerprint(media.face, media.landmarks, media.place), **(kinds or {})}
            self._files = {kind: folder / content[:2] / f"{content}-{each}.safetensors" for kind, each in used.items()}
            for kind, path in self._files.items():
                self._values[kind] = _read(path)
            self.faces = _faces(self._values.pop("faces"))
        self._saved = {kind: len(values) for kind, values in self._values.items()} | {"faces": len(self.faces)}

    def rows(self, kind: str, indices: Sequence[int], compute: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """The values of frames `indices`, stacked; `compute(places)` gives those of the unknown `indices[places]`."""
        known = self._values[kind]
        missing = [place for place, index in enumerate(indices) if index not in known]
        found = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        for place, value in found.items():
            if self._keep and self._bytes + value.nbytes <= MEMORY:
                known[indices[place]] = value
                self._bytes += value.nbytes
        return np.stack([found[place] if place in found else known[index] for place, index in enumerate(indices)])

    def save(self) -> None:
        """Write what is new to the cache folder; a file that cannot be written costs only time."""
        for kind, path in self._files.items():
            values = _arrays(self.faces) if kind == "faces" else self._values[kind]
            count = len(self.faces) if kind == "faces" else len(values)
            if count > self._saved.get(kind, 0):
                output_folder(path.parent)
                with replacing(path) as temporary:
                    save_file({str(index): np.ascontiguousarray(value) for index, value in values.items()}, temporary)
                self._saved[kind] = count


def _read(path: Path) -> dict[int, np.ndarray]:
    if path.is_file():
        with contextlib.suppress(SafetensorError, OSError, ValueError):  # a damaged file is written again
            return {int(name): value for name, value in load_file(path).items()}
    return {}


def _arrays(faces: list[Face | None]) -> dict[int, np.ndarray]:
    """One row a face: the box, then the mesh points; no value for a frame without a face."""
    rows = [
        np.zeros(0, np.float32)
        if each is None
        else np.concatenate([each.box.astype(np.float32), each.landmarks.ravel()])
        for each in faces
    ]
    return dict(enumerate(rows))


def _faces(arrays: dict[int, np.ndarray]) -> list[Face | None]:
    rows = [arrays[index] for index in range(len(arrays)) if index in arrays]
    return [None if not len(row) else Face(row[4:].reshape(-1, 2), row[:4].astype(np.int32)) for row in rows]
