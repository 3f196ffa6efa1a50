"""L_mi, STSA eq. 7: the Donsker-Varadhan lower bound of the mutual information between both paths' features.

L_mi = -(E_J[T(E^spa, E^tem)] - log E_M[exp T(E^spa, E^tem)])

J pairs the embeddings of the same frame (the joint distribution), M those of any two frames (the product of the
marginals). The network T and the embedding networks belong to the CIL module and are trained jointly with the others.

With N frames in the marginal pairs, the estimate is at most ln N, whatever T computes. If the frames of a window look
the same, it stays near ln W, with W the number of windows. `StepInformation` takes the pairs from all windows of a
training step.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor

from models.face_synthesizer import MutualInformation
from models.precision import full_precision, total


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """The lower bound E_J[T] - log E_M[exp T] in nats.

    Args:
        joint, marginal: T's scores of the pairs, any shapes. Large scores do not overflow.
    """
    joint, marginal = full_precision(joint), full_precision(marginal)
    log_mean_exp = torch.logsumexp(marginal.flatten(), dim=0) - math.log(marginal.numel())
    return joint.mean() - log_mean_exp


def mutual_information_loss(*scales: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. 7, the mean over the scales; each scale gives the scores of its joint and of its marginal pairs."""
    return -total(donsker_varadhan(joint, marginal) for joint, marginal in scales) / len(scales)


class StepInformation:
    """Eq. 7 over a training step, whose windows are divided among processes and by `train.micro_batch`.

    The E^spa of a process's part are paired with the E^tem of its own frames, of the other processes' frames (which
    receive gradients) and of the step's earlier parts (which receive none, as their backward pass is over). Averaged
    over processes, the gradient is that of the mean of their losses.

    Args:
        network: the synthesizer's CIL module. Its T_theta is called here, outside of the synthesizer's `forward`.
    """

    def __init__(self, network: MutualInformation):
        self.network = network
        self.begin()

    def begin(self) -> None:
        """Reset; call it at the beginning of each step."""
        self._kept: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._bounds: list[tuple[float, float]] = []

    def __call__(self, embeddings: Sequence[tuple[Tensor, Tensor]], frames: int) -> Tensor:
        """L_mi of the next part, in nats, the mean over the scales; at least -ln N for N frames in the marginal pairs.

        Args:
            embeddings: `MutualInformation.embeddings` of the part's M frames, (M, d) each, M the same in every process.
            frames: T, how many of them a window has.
        """
        part = gathered(torch.stack([e_tem for _, e_tem in embeddings]))
        met = torch.cat([part, *self._kept], dim=1)
        scores = (self.network.score(e_spa, others) for (e_spa, _), others in zip(embeddings, met, strict=True))
        loss = mutual_information_loss(*scores)
        self._kept.append(part.detach())
        self._losses.append(loss.detach())
        self._bounds.append((math.log(met.shape[1]), math.log(met.shape[1] / frames)))
        return loss

    def values(self) -> dict[str, Tensor | float]:
        """The step's values for the log, means over its parts, in nats: the estimate -L_mi, ln N and ln W."""
        if not self._losses:
            return {}
        bounds, windows = (sum(part) / len(part) for part in zip(*self._bounds, strict=True))
        estimate = -torch.stack(self._losses).mean()
        values = {"estimate": estimate, "ln_frames": bounds, "ln_windows": windows}
        return {f"mutual_information/{name}": value for name, value in values.items()}


def gathered(x: Tensor) -> Tensor:
    """Concatenate x (S, M, d) of this process and of all others: (S, M processes, d), its own first, with gradients."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return x
    parts = list(torch.distributed.nn.functional.all_gather(x.contiguous()))
    return torch.cat([parts.pop(torch.distributed.get_rank()), *parts], dim=1)
