"""What depends on a true video alone, computed once for all methods, and with a cache folder once for all runs."""

import contextlib
import hashlib
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
        self._keep = keep or folder is not None
        self._place: Path | None = None
        if folder is not None and video is not None:
            content = fingerprint(video)
            self._place = folder / content[:2] / content
        self._kinds = {"faces": fingerprint(media.face, media.landmarks, media.place), **(kinds or {})}
        self._values: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        self._saved: dict[tuple[str, str], int] = {}
        self._bytes = 0
        self.faces = _faces(self._known("faces", ""))

    def _file(self, kind: str, variant: str) -> Path | None:
        if self._place is None or kind not in self._kinds:
            return None
        return self._place.with_name(f"{self._place.name}-{self._kinds[kind]}{variant}.safetensors")

    def _known(self, kind: str, variant: str) -> dict[int, np.ndarray]:
        key = kind, variant
        if key not in self._values:
            self._values[key] = _read(self._file(kind, variant))
            self._saved[key] = len(self._values[key])
        return self._values[key]

    def rows(
        self, kind: str, indices: Sequence[int], compute: Callable[[list[int]], np.ndarray], variant: str = ""
    ) -> np.ndarray:
        """The values of frames `indices`, stacked; `compute(places)` gives those of the unknown `indices[places]`.

        `variant` is the fingerprint of anything else that the values depend on, such as a file of crops.
        """
        known = self._known(kind, variant)
        missing = [place for place, index in enumerate(indices) if index not in known]
        found = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        for place, value in found.items():
            if self._keep and self._bytes + value.nbytes <= MEMORY:
                known[indices[place]] = value
                self._bytes += value.nbytes
        return np.stack([found[place] if place in found else known[index] for place, index in enumerate(indices)])

    def save(self) -> None:
        """Write what is new to the cache folder."""
        self._values["faces", ""] = _arrays(self.faces)
        for key, values in self._values.items():
            path = self._file(*key)
            if path is not None and len(values) > self._saved[key]:
                output_folder(path.parent)
                with replacing(path) as temporary:
                    save_file({str(index): np.ascontiguousarray(value) for index, value in values.items()}, temporary)
                self._saved[key] = len(values)


def _read(path: Path | None) -> dict[int, np.ndarray]:
    if path is not None and path.is_file():
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
