"""Passes a heatmap predictor's output to a face synthesizer, in training, in dubbing and in evaluation."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

from torch import Tensor


class Conditioned(Protocol):
    """A network that names the tensors of a batch of `ClipDataset` that it takes.

    inputs: the names, in the order of `forward`. Networks of extensions/ also take landmarks.
    """

    @property
    def inputs(self) -> tuple[str, ...]: ...


class LandmarkConditioned(Conditioned, Protocol):
    """A synthesizer that `takes_landmarks`."""

    def whole_faces(self, landmarks: Tensor, keypoints: Tensor) -> Tensor: ...


def inputs_of(network: Conditioned, batch: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of `batch` that the network takes, in its order; names that the batch lacks are left out.

    A batch of a few names selects arguments that are not in the paper, as in
    `encode_references(images, heatmaps, *inputs_of(network, {"reference_landmarks": landmarks}))`.
    """
    return [batch[name] for name in network.inputs if name in batch]


def takes_landmarks(synthesizer: Conditioned) -> TypeGuard[LandmarkConditioned]:
    """Whether the synthesizer takes landmarks, in which the predicted keypoints replace the target's own."""
    return "landmarks" in synthesizer.inputs


def guidance(
    synthesizer: Conditioned, heatmaps: Tensor, keypoints: Tensor | None, landmarks: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """A prediction as arguments of a synthesizer: `render(frames, heatmaps, references, audio, *further)`.

    Args:
        synthesizer: a `FaceSynthesizer`, of any form.
        heatmaps: (..., 1, H, W) predicted, at least 0. A sum of branches may exceed 1.
        keypoints: (..., 57, 2) predicted; needed where the synthesizer `takes_landmarks`.
        landmarks: (..., 131, 2) of the target frames.

    Returns:
        heatmaps in [0, 1], and `further`: the landmarks, in which the keypoints replace the target's own, or nothing.
    """
    heatmaps = heatmaps.clamp(max=1)
    if not takes_landmarks(synthesizer):
        return heatmaps, []
    assert keypoints is not None
    return heatmaps, [synthesizer.whole_faces(landmarks, keypoints)]
