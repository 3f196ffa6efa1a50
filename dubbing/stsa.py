"""STSA's two networks in dubbing: the synthesizer is conditioned on the predictor's heatmaps."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dubbing.speaker import FaceJob, Speaker
from media.errors import InputError
from media.heatmap import FULL_FACE, POSE
from media.pictures import to_pictures, to_tensor
from models import FaceSynthesizer
from models.face_synthesizer import References
from models.fast import autocast, padded
from models.guidance import guidance, inputs_of, takes_landmarks
from models.heatmap_predictor import WindowEncoder


@dataclass
class PersonReferences:
    """A person's reference frames, encoded by the networks once per video.

    tokens: the predictor's `encode_references`.
    landmarks: (1, N, 131, 2), for networks that take them.
    images: the synthesizer's `encode_references`.
    """

    tokens: Tensor
    landmarks: Tensor
    images: References

    def tensors(self) -> list[Tensor]:
        """All tensors in one list."""
        return [self.tokens, self.landmarks, *(tensor for part in self.images for tensor in part)]

    def holding(self, tensors: tuple[Tensor, ...]) -> "PersonReferences":
        """A copy with other tensors, in the order of `tensors()`."""
        tokens, landmarks, *others = tensors
        rest = iter(others)
        return PersonReferences(tokens, landmarks, References(*([next(rest) for _ in part] for part in self.images)))


class StsaSpeaker(Speaker):
    """`Speaker` with STSA's two networks. Its arguments are those of `Speaker`, and

        predictor, synthesizer: networks in eval mode, trained on the same sound features.

    Raises:
        InputError: the two networks take different sound features, or the device does not support the precision.
    """

    synthesizer: FaceSynthesizer

    def __init__(
        self,
        predictor: WindowEncoder,
        synthesizer: FaceSynthesizer,
        device: torch.device,
        precision: str | None = None,
        batch_size: int | None = None,
    ):
        taken, expected = predictor.config.audio, synthesizer.config.audio
        if synthesizer.takes_sound and taken != expected:
            raise InputError(
                f"checkpoint: the heatmap predictor takes {taken}, the face synthesizer {expected}; "
                f"combine two networks that were trained on the same sound features"
            )
        super().__init__(synthesizer, predictor.config.frames, True, device, precision, batch_size)
        self.audio = taken
        self.predictor = predictor.to(device).eval()

    @torch.inference_mode()
    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> PersonReferences:
        """See `Speaker`."""
        heatmaps, reference_landmarks = self._heatmaps(landmarks, FULL_FACE)[None], self._points(landmarks)[None]
        further = inputs_of(self.synthesizer, {"reference_landmarks": reference_landmarks})
        encoded = self.synthesizer.encode_references(to_tensor(images, self.device)[None], heatmaps, *further)
        return PersonReferences(self.predictor.encode_references(heatmaps), reference_landmarks, encoded)

    def state(self, references: PersonReferences) -> dict[str, Tensor]:
        """See `Speaker`."""
        parts = zip(References._fields, references.images, strict=True)
        images = {f"{name}.{i}": tensor for name, part in parts for i, tensor in enumerate(part)}
        return {"tokens": references.tokens, "landmarks": references.landmarks, **images}

    def restored(self, state: dict[str, Tensor]) -> PersonReferences:
        """See `Speaker`."""
        moved = {name: tensor.to(self.device) for name, tensor in state.items()}
        parts = []
        for field in References._fields:
            count = sum(name.startswith(f"{field}.") for name in moved)
            parts.append([moved[f"{field}.{i}"] for i in range(count)])
        return PersonReferences(moved["tokens"], moved["landmarks"], References(*parts))

    @property
    def networks(self) -> list[nn.Module]:
        """See `Speaker`."""
        return [self.predictor, self.synthesizer]

    @torch.inference_mode()
    def speak(
        self, jobs: list[FaceJob], references: PersonReferences, features: np.ndarray, known: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Speaker`; `known` keeps the embeddings of the previous batch's frames."""
        embeddings = self._embed(jobs, features, known)
        centre, count = self.window // 2, len(jobs)
        landmarks = np.stack([job.pose[centre] for job in jobs])
        poses, points = self._heatmaps(landmarks, POSE), self._points(landmarks)
        sound = self._sound(features, np.array([job.sound[centre] for job in jobs]))
        crops = to_tensor(np.stack([job.crop for job in jobs]), self.device)
        batch = self._padded(embeddings, poses, points, sound, crops)
        self._form = references
        faces, heatmaps, *moved = self._run(self._dub, *batch, *references.tensors())
        if moved:
            flow, chosen = (x[:count].cpu().numpy() for x in moved)
            for job, grid, which in zip(jobs, flow, chosen, strict=True):
                job.flow, job.chosen = grid, which
        return to_pictures(faces[:count]), heatmaps[:count, 0].cpu().numpy()

    def _dub(
        self, embeddings: Tensor, poses: Tensor, points: Tensor, sound: Tensor, crops: Tensor, *references: Tensor
    ) -> tuple[Tensor, ...]:
        """Faces (B, 3, S, S) and heatmaps (B, 1, S, S) for one person's frames; with a temporal path, their flow too.

        The flow is of the hidden part: (B, K, 2, rows, columns) float32, as `Alignment.grid`. With it come the indices
        (B, K) of its references.
        """
        person = self._form.holding(references)
        with autocast(self.device, self.dtype):
            given = {"landmarks": points, "reference_landmarks": person.landmarks}
            heatmaps, keypoints = self.predictor.predict_centre(
                embeddings,
                person.tokens,
                poses,
                *inputs_of(self.predictor, given),
                keypoints=takes_landmarks(self.synthesizer),
            )
            heatmaps, further = guidance(self.synthesizer, heatmaps.float(), keypoints, points)
            placed = [x[None] for x in further]
            faces, grid, chosen = self.synthesizer.render_with_flow(
                crops[None], heatmaps[None], person.images, sound[None], *placed
            )
        made = faces[0].float(), heatmaps
        if grid is None:
            return made
        flow = grid[0].float()
        if chosen is not None:
            return *made, flow, chosen[0]
        return *made, flow, torch.arange(flow.shape[1], device=flow.device).repeat(len(flow), 1)

    def _encode_frames(self, sound: Tensor, poses: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.predictor.encode_frames(sound, poses).float()

    def _embed(self, jobs: list[FaceJob], features: np.ndarray, known: dict) -> Tensor:
        """Embeddings of the windows, (B, T, 2, width); each frame is encoded once."""
        keys = [[(int(index), float(place)) for index, place in zip(j.window, j.sound, strict=True)] for j in jobs]
        poses: dict = {}
        for row, job in zip(keys, jobs, strict=True):
            poses.update(zip(row, job.pose, strict=True))
        missing = [key for key in poses if key not in known]
        if missing:
            sound = self._sound(features, np.array([place for _, place in missing]))
            pose = self._heatmaps(np.stack([poses[key] for key in missing]), POSE)
            size = self.padding or len(missing)
            for i in range(0, len(missing), size):
                part = slice(i, i + size)
                inputs = (padded(x[part], size) for x in (sound, pose))
                encoded = self._run(self._encode_frames, *inputs).clone()  # the next run overwrites a graph's output
                known.update(zip(missing[part], encoded, strict=False))
        for key in [key for key in known if key not in poses]:
            del known[key]
        return torch.stack([torch.stack([known[key] for key in row]) for row in keys])
