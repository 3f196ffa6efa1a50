"""G4G's network in dubbing: the mouth is conditioned on the sound alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dubbing.speaker import FaceJob, Speaker
from media.heatmap import FULL_FACE
from media.pictures import to_pictures, to_tensor
from models import G4GSynthesizer
from models.fast import autocast
from models.g4g import G4GReferences


@dataclass
class PersonReferences:
    """A person's encoded reference frames; `heatmap` combines their landmark heatmaps, for `--visualize`."""

    images: G4GReferences
    heatmap: np.ndarray


class G4GSpeaker(Speaker):
    """`Speaker` with G4G's network; predicts no heatmaps. Its arguments are those of `Speaker`."""

    synthesizer: G4GSynthesizer

    def __init__(
        self,
        synthesizer: G4GSynthesizer,
        device: torch.device,
        precision: str | None = None,
        batch_size: int | None = None,
    ):
        super().__init__(synthesizer, 1, False, device, precision, batch_size)

    @torch.inference_mode()
    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> PersonReferences:
        """See `Speaker`."""
        heatmaps = self._heatmaps(landmarks, FULL_FACE)[None]
        encoded = self.synthesizer.encode_references(to_tensor(images, self.device)[None], heatmaps)
        return PersonReferences(encoded, heatmaps.amax(dim=(0, 1, 2)).cpu().numpy())

    def state(self, references: PersonReferences) -> dict[str, Tensor]:
        """See `Speaker`."""
        return {**references.images._asdict(), "heatmap": torch.from_numpy(references.heatmap)}

    def restored(self, state: dict[str, Tensor]) -> PersonReferences:
        """See `Speaker`."""
        images = G4GReferences(*(state[name].to(self.device) for name in G4GReferences._fields))
        return PersonReferences(images, state["heatmap"].numpy())

    @torch.inference_mode()
    def speak(
        self, jobs: list[FaceJob], references: PersonReferences, features: np.ndarray, known: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Speaker`. Every face gets the same heatmap, that of the references."""
        sound = self._sound(features, np.array([job.sound[0] for job in jobs]))
        batch = self._padded(sound, to_tensor(np.stack([job.crop for job in jobs]), self.device))
        faces = self._run(self._dub, *batch, *references.images)[: len(jobs)]
        return to_pictures(faces), np.broadcast_to(references.heatmap, (len(jobs), *references.heatmap.shape))

    def _dub(self, sound: Tensor, crops: Tensor, *references: Tensor) -> Tensor:
        """Faces (B, 3, S, S) for one person's frames."""
        with autocast(self.device, self.dtype):
            return self.synthesizer.render(crops[None], G4GReferences(*references), sound[None])[0].float()
