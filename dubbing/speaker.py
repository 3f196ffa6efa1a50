"""The two networks as dubbing uses them: a batch of frames in, the faces that say the sound out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from media.audio import audio_windows
from media.errors import InputError
from media.heatmap import FULL_FACE, POSE, draw_heatmap
from models import FaceSynthesizer, HeatmapPredictor
from models.face_synthesizer import References
from models.fast import accelerate_inference


@dataclass
class PersonReferences:
    """A person's reference frames as the networks have encoded them; once a video."""

    heatmaps: Tensor
    images: References


@dataclass
class FaceJob:
    """One face to make: frame `frame` of the output.

    crop: (S, S, 3) uint8, the source's face. windows: (T,) indices of the output frames in the predictor's window,
    the centre one in the middle. sound: (T,) places on the 25 fps timeline of the sound that each of them hears.
    pose: landmarks (131, 2) in the crop's units of each of the window's frames, (T, 131, 2).
    """

    crop: np.ndarray
    window: np.ndarray
    sound: np.ndarray
    pose: np.ndarray


class Speaker:
    """Makes faces speak.

    Args:
        predictor, synthesizer: networks in eval mode, trained on the same sound features.
        device: where they run.

    Raises:
        InputError: the two networks hear different features.
    """

    def __init__(self, predictor: HeatmapPredictor, synthesizer: FaceSynthesizer, device: torch.device):
        heard, expected = predictor.config.audio, synthesizer.config.audio
        if heard != expected:
            raise InputError(
                f"checkpoint: the heatmap predictor hears {heard}, the face synthesizer {expected}; "
                f"combine two networks that were trained on the same sound features"
            )
        self.device = device
        self.predictor = predictor.to(device).eval()
        self.synthesizer = accelerate_inference(synthesizer).to(device)
        self.audio = synthesizer.config.audio
        self.references = synthesizer.config.references
        self.window = predictor.config.frames
        self.size = synthesizer.config.size

    @torch.inference_mode()
    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> PersonReferences:
        """Encode reference crops (N, S, S, 3) uint8 and their landmarks (N, 131, 2) in the crops' units."""
        heatmaps = self._heatmaps(landmarks, FULL_FACE)[None]
        return PersonReferences(
            self.predictor.encode_references(heatmaps),
            self.synthesizer.encode_references(self._images(images)[None], heatmaps),
        )

    @torch.inference_mode()
    def speak(
        self, jobs: list[FaceJob], references: PersonReferences, features: np.ndarray, known: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make the faces of `jobs`, one person's, in the order of the output.

        Args:
            features: (frames, channels) of the whole sound.
            known: embeddings of frames of earlier batches of this person; replaced by those of this batch.

        Returns:
            faces (B, S, S, 3) uint8 RGB, heatmaps (B, S, S) float32 in [0, 1].
        """
        embeddings = self._embed(jobs, features, known)
        centre = self.window // 2
        poses = self._heatmaps(np.stack([job.pose[centre] for job in jobs]), POSE)
        sound = self._sound(features, np.array([job.sound[centre] for job in jobs]))
        heatmaps = self.predictor.predict_centre(embeddings, references.heatmaps, poses).clamp(max=1)
        crops = self._images(np.stack([job.crop for job in jobs]))
        faces = self.synthesizer.render(crops[None], heatmaps[None], references.images, sound[None])[0]
        faces = (faces.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        return faces.cpu().numpy(), heatmaps[:, 0].float().cpu().numpy()

    def _embed(self, jobs: list[FaceJob], features: np.ndarray, known: dict) -> Tensor:
        """(B, T, 2, width): the windows' embeddings, each frame's computed once."""
        keys = [[(int(index), float(place)) for index, place in zip(j.window, j.sound, strict=True)] for j in jobs]
        poses: dict = {}
        for row, job in zip(keys, jobs, strict=True):
            poses.update(zip(row, job.pose, strict=True))
        missing = [key for key in poses if key not in known]
        if missing:
            sound = self._sound(features, np.array([place for _, place in missing]))
            pose = self._heatmaps(np.stack([poses[key] for key in missing]), POSE)
            known.update(zip(missing, self.predictor.encode_frames(sound, pose), strict=True))
        for key in [key for key in known if key not in poses]:
            del known[key]
        return torch.stack([torch.stack([known[key] for key in row]) for row in keys])

    def _sound(self, features: np.ndarray, places: np.ndarray) -> Tensor:
        return torch.from_numpy(audio_windows(features, self.audio, places)).to(self.device)

    def _heatmaps(self, landmarks: np.ndarray, edges) -> Tensor:
        drawn = np.stack([draw_heatmap(points, edges=edges, size=self.size) for points in landmarks])
        return torch.from_numpy(drawn)[:, None].to(self.device)

    def _images(self, crops: np.ndarray) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) in [0, 1]."""
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
