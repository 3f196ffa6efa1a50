"""`Speaker`, the base of all networks in dubbing: takes a batch of frames and returns the generated faces."""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from media.audio import audio_windows
from media.errors import InputError
from media.heatmap import draw_heatmaps
from models import FaceSynthesizer, G4GSynthesizer
from models.fast import accelerate_inference, forbid_tf32, graphed, padded

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class FaceJob:
    """One face to generate.

    crop: (H, W, 3) uint8, the source's face in the speaker's `crop`.
    window: (T,) indices of the output frames in the speaker's window; the frame to generate is in the middle.
    sound: (T,) position of each of the window's frames on the 25 fps timeline of the sound.
    pose: (T, 131, 2) landmarks of each of the window's frames, in the crop's units.
    flow: (K, 2, rows, columns) float32, set by `speak` if the network has a flow: for each pixel of the crop's hidden
        part, the point x, y of each reference that the face is made of, in [-1, 1] between the crop's outer edges.
    chosen: (K,) which of the person's references these are; set with `flow`.
    """

    crop: np.ndarray
    window: np.ndarray
    sound: np.ndarray
    pose: np.ndarray
    flow: np.ndarray | None = field(default=None, init=False, repr=False)
    chosen: np.ndarray | None = field(default=None, init=False, repr=False)


class Speaker(ABC):
    """Generates faces that match the sound; `StsaSpeaker` and `G4GSpeaker` implement it.

    `crop` is the form of the faces that it takes and generates; S below is the side of its heatmaps. `ear` is the file
    of its sound features' encoder, `media.audio.sound_features`' `weights`; `folder` that of its checkpoint.

    `most` is None, or the number of faces to which `speak_in_memory` has lowered its batches.

    On CUDA the first batch records the networks as graphs of `batch_size` faces; smaller batches are padded.

    Args:
        synthesizer: in eval mode.
        window: T, the number of frames in a `FaceJob`.
        predicts_heatmaps: whether `speak` returns heatmaps of the generated faces.
        device: where the networks run.
        precision: of their matrix products: "float32", "bf16" or "fp16"; None is fp16 on CUDA, else float32.
        batch_size: most faces generated at a time; None runs each batch at its own size, without graphs.

    Raises:
        InputError: the device does not support the precision.
    """

    most: int | None = None
    padding = 0  # faces per graph; 0: no graphs

    def __init__(
        self,
        synthesizer: FaceSynthesizer | G4GSynthesizer,
        window: int,
        predicts_heatmaps: bool,
        device: torch.device,
        precision: str | None,
        batch_size: int | None,
    ):
        precision = precision or ("fp16" if device.type == "cuda" else "float32")
        if precision == "fp16" and device.type != "cuda":
            raise InputError("--precision fp16 needs a CUDA device; use float32, or bf16")
        self.device, self.dtype = device, PRECISIONS[precision]
        if self.dtype is None:
            forbid_tf32()
        self.padding = batch_size or 0 if device.type == "cuda" else 0
        self._graphs: dict[Callable, Callable] = {}
        self.synthesizer = accelerate_inference(synthesizer).to(device)
        self.window, self.predicts_heatmaps = window, predicts_heatmaps
        config = synthesizer.config
        self.audio, self.crop = config.audio, config.crop
        self.references = getattr(config, "bank", config.references)  # form region chooses some of them for each frame
        self.ear: Path | None = None
        self.folder: Path | None = None

    @abstractmethod
    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> Any:
        """Encode a person's reference crops (N, H, W, 3) uint8 and their landmarks (N, 131, 2), in the crop's units."""

    @abstractmethod
    def speak(
        self, jobs: list[FaceJob], references: Any, features: np.ndarray, known: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """Generate the faces of `jobs`, all of one person, in the order of the output.

        Args:
            references: `encode`'s result for the person.
            features: (frames, channels) of the whole sound.
            known: data of the person that the speaker keeps between batches; empty at first.

        Returns:
            faces (B, H, W, 3) uint8 RGB, and heatmaps (B, S, S) float32 in [0, 1] for display: those of the faces if
            the speaker `predicts_heatmaps`, else those of the references.
        """

    def speak_in_memory(
        self, jobs: list[FaceJob], references: Any, features: np.ndarray, known: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """`speak`, in batches of half the size from where the GPU's memory was full; arguments and result are the same.

        Raises:
            torch.OutOfMemoryError: the memory does not hold one face.
        """
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        done = 0
        while done < len(jobs):
            part = jobs[done : done + (self.most or len(jobs))]
            full = None
            try:
                parts.append(self.speak(part, references, features, known))
                done += len(part)
            except torch.OutOfMemoryError as error:
                full = error.with_traceback(None)  # its frames hold tensors
            if full is not None:
                self._halve(max(len(part), self.padding), full)
        faces, heatmaps = zip(*parts, strict=True)
        return np.concatenate(faces), np.concatenate(heatmaps)

    def _halve(self, size: int, error: torch.OutOfMemoryError) -> None:
        """Lower the batches of `size` faces, and their graphs; `error` if that is impossible."""
        if size == 1:
            raise error
        self.most = size // 2
        if self.padding:
            self.padding = self.most
            self._graphs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @abstractmethod
    def state(self, references: Any) -> dict[str, Tensor]:
        """The tensors of `encode`'s result by name, for a file."""

    @abstractmethod
    def restored(self, state: dict[str, Tensor]) -> Any:
        """`encode`'s result whose `state` this is, on the speaker's device."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what `encode`'s result depends on beside its arguments: the networks and the kind of device."""
        hashed = hashlib.blake2b(self.device.type.encode(), digest_size=16)
        for network in self.networks:
            for name, tensor in sorted(network.state_dict().items()):
                hashed.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return hashed.hexdigest()

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that `encode` uses."""
        return [self.synthesizer]

    def _run(self, function: Callable, *inputs: Tensor):
        """Call `function(*inputs)`; a padded batch runs as a graph that the first call records."""
        if len(inputs[0]) != self.padding:
            return function(*inputs)
        if function not in self._graphs:
            self._graphs[function] = graphed(function, inputs)
        return self._graphs[function](*inputs)

    def _padded(self, *tensors: Tensor) -> list[Tensor]:
        return [padded(x, self.padding) for x in tensors]

    def _sound(self, features: np.ndarray, places: np.ndarray) -> Tensor:
        return torch.from_numpy(audio_windows(features, self.audio, places)).to(self.device)

    def _heatmaps(self, landmarks: np.ndarray, edges) -> Tensor:
        return torch.from_numpy(draw_heatmaps(landmarks, edges, self.crop.guidance)).to(self.device)

    def _points(self, landmarks: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(landmarks, dtype=np.float32)).to(self.device)
