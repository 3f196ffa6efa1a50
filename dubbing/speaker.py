"""The two networks as dubbing uses them: a batch of frames in, the faces that say the sound out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from media.audio import audio_windows
from media.errors import InputError
from media.heatmap import FULL_FACE, POSE, draw_heatmap
from models import FaceSynthesizer, HeatmapPredictor
from models.face_synthesizer import References
from models.fast import accelerate_inference, autocast, graphed, padded

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class PersonReferences:
    """A person's reference frames as the networks have encoded them; once a video."""

    heatmaps: Tensor
    points: Tensor
    images: References

    def tensors(self) -> list[Tensor]:
        """All that is kept, in a row."""
        return [self.heatmaps, self.points, *(tensor for part in self.images for tensor in part)]

    def holding(self, tensors: tuple[Tensor, ...]) -> "PersonReferences":
        """The same made of others like `tensors()`."""
        heatmaps, points, *rest = tensors
        rest = iter(rest)
        return PersonReferences(heatmaps, points, References(*([next(rest) for _ in part] for part in self.images)))


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

    On CUDA both networks are recorded as graphs of `batch_size` faces at the first batch; smaller batches are padded.

    Args:
        predictor, synthesizer: networks in eval mode, trained on the same sound features.
        device: where they run.
        precision: of their products, "float32", "bf16" or "fp16"; None is fp16 on CUDA, else float32.
        batch_size: faces made at once, at most; None runs every batch as it comes, without graphs.

    Raises:
        InputError: the two networks hear different features, or the device cannot compute so.
    """

    def __init__(
        self,
        predictor: HeatmapPredictor,
        synthesizer: FaceSynthesizer,
        device: torch.device,
        precision: str | None = None,
        batch_size: int | None = None,
    ):
        heard, expected = predictor.config.audio, synthesizer.config.audio
        if heard != expected:
            raise InputError(
                f"checkpoint: the heatmap predictor hears {heard}, the face synthesizer {expected}; "
                f"combine two networks that were trained on the same sound features"
            )
        precision = precision or ("fp16" if device.type == "cuda" else "float32")
        if precision == "fp16" and device.type != "cuda":
            raise InputError("--precision fp16 needs a CUDA device; use float32, or bf16")
        self.device, self.dtype = device, PRECISIONS[precision]
        self.padding = batch_size or 0 if device.type == "cuda" else 0  # faces that a graph takes; 0: there is none
        self._graphs: dict[Callable, Callable] = {}
        self.predictor = predictor.to(device).eval()
        self.synthesizer = accelerate_inference(synthesizer).to(device)
        self.audio = synthesizer.config.audio
        self.references = synthesizer.config.references
        self.window = predictor.config.frames
        self.size = synthesizer.config.size

    @torch.inference_mode()
    def encode(self, images: np.ndarray, landmarks: np.ndarray) -> PersonReferences:
        """Encode reference crops (N, S, S, 3) uint8 and their landmarks (N, 131, 2) in the crops' units."""
        heatmaps, points = self._heatmaps(landmarks, FULL_FACE)[None], self._points(landmarks)[None]
        return PersonReferences(
            self.predictor.encode_references(heatmaps),
            points,
            self.synthesizer.encode_references(self._images(images)[None], heatmaps, points),
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
        centre, count = self.window // 2, len(jobs)
        landmarks = np.stack([job.pose[centre] for job in jobs])
        poses, points = self._heatmaps(landmarks, POSE), self._points(landmarks)
        sound = self._sound(features, np.array([job.sound[centre] for job in jobs]))
        crops = self._images(np.stack([job.crop for job in jobs]))
        batch = [padded(x, self.padding) for x in (embeddings, poses, points, sound, crops)]
        self._form = references
        faces, heatmaps = self._run(self._dub, *batch, *references.tensors())
        faces = (faces[:count].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        return faces.cpu().numpy(), heatmaps[:count, 0].cpu().numpy()

    def _dub(
        self, embeddings: Tensor, poses: Tensor, points: Tensor, sound: Tensor, crops: Tensor, *references: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Faces (B, 3, S, S) and heatmaps (B, 1, S, S) of one person's frames."""
        references = self._form.holding(references)
        with autocast(self.device, self.dtype):
            wanted = self.synthesizer.config.landmark_flow
            heatmaps, keypoints = self.predictor.predict_centre(
                embeddings, references.heatmaps, poses, points, references.points, keypoints=wanted
            )
            heatmaps = heatmaps.float().clamp(max=1)
            points = self.predictor.whole_faces(points, keypoints)[None] if wanted else None
            faces = self.synthesizer.render(crops[None], heatmaps[None], references.images, sound[None], points)[0]
        return faces.float(), heatmaps

    def _encode_frames(self, sound: Tensor, poses: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.predictor.encode_frames(sound, poses).float()

    def _run(self, function: Callable, *inputs: Tensor):
        """`function(*inputs)`; where batches are padded, as a graph that the first call records."""
        if len(inputs[0]) != self.padding:
            return function(*inputs)
        if function not in self._graphs:
            self._graphs[function] = graphed(function, inputs)
        return self._graphs[function](*inputs)

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
            size = self.padding or len(missing)
            for i in range(0, len(missing), size):
                part = slice(i, i + size)
                inputs = (padded(x[part], size) for x in (sound, pose))
                encoded = self._run(self._encode_frames, *inputs).clone()  # a graph's own is overwritten
                known.update(zip(missing[part], encoded, strict=False))
        for key in [key for key in known if key not in poses]:
            del known[key]
        return torch.stack([torch.stack([known[key] for key in row]) for row in keys])

    def _sound(self, features: np.ndarray, places: np.ndarray) -> Tensor:
        return torch.from_numpy(audio_windows(features, self.audio, places)).to(self.device)

    def _heatmaps(self, landmarks: np.ndarray, edges) -> Tensor:
        drawn = np.stack([draw_heatmap(points, edges=edges, size=self.size) for points in landmarks])
        return torch.from_numpy(drawn)[:, None].to(self.device)

    def _points(self, landmarks: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(landmarks, dtype=np.float32)).to(self.device)

    def _images(self, crops: np.ndarray) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) in [0, 1]."""
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
