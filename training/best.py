"""The validation score that selects the weights in `best/` (`train.best_by`)."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from checkpoints import fetch
from media.errors import InputError


@dataclass(frozen=True)
class Score:
    """One choice of `train.best_by`.

    Attributes:
        name: its name in the config.
        scalar: the validation scalar that it reads.
        label: the score's name in messages.
        larger_is_better: false for distances.
        form: format string of a value.
        package: Python package that computes the score from pretrained weights, which `checkpoints/manifest.yaml` lists
            under `name`; empty for other scores.
        default: name of the script's default score, which applies to saved states that name no score.
    """

    name: str
    scalar: str
    label: str
    larger_is_better: bool
    form: str = "{:.4f}"
    package: str = ""
    default: str = ""

    def of(self, scalars: dict[str, float]) -> float:
        """The score's value among validation scalars, negated for distances; InputError if it is missing."""
        if self.scalar not in scalars:
            raise InputError(
                f"train.best_by={self.name}: this validation has no {self.scalar}, only {', '.join(sorted(scalars))}; "
                f"choose another score"
            )
        return scalars[self.scalar] if self.larger_is_better else -scalars[self.scalar]

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score`, as `of` returns it, is finite and above the best so far."""
        return math.isfinite(score) and (best is None or score > best)

    def shown(self, score: float | None) -> str:
        """The score, as `of` returns it, with its label and unit."""
        if score is None:
            return f"no {self.label}"
        return f"{self.label} {self.form.format(score if self.larger_is_better else -score)}"


SCORES = {
    score.name: score
    for score in (
        Score("psnr", "val/PSNR", "PSNR", True, "{:.2f} dB"),
        Score("lpips", "val/LPIPS", "LPIPS", False, package="lpips"),
        Score("fid", "val/FID", "FID", False, "{:.2f}", package="pytorch_fid"),
        Score("sync", "val/sync", "-log cos of sound and lips", False),
        Score("heatmap", "val/heatmap_distance", "heatmap distance", False),
        Score("liplmd", "val/keypoint_LipLMD", "LipLMD", False),
        Score("accuracy", "val/window_within_1", f"accuracy within a frame (chance {3 / 31:.1%})", True, "{:.1%}"),
    )
}


def best_score(best_by: str, names: Sequence[str], sync_expert: str = "") -> Score:
    """The score called `best_by`, one of `names`; an empty `best_by` selects the first.

    Raises:
        InputError: the script has no such score; its pretrained weights or its package are absent; or `best_by` is
            `sync` and `sync_expert`, the path of the run's expert, is empty.
    """
    name = best_by or names[0]
    if name not in names:
        raise InputError(f"train.best_by={name} is no score of this script; use {' or '.join(names)}")
    score = SCORES[name]
    if score.package:
        fetch.require(name, f"train.best_by={name}")
        if find_spec(score.package) is None:
            raise InputError(
                f"train.best_by={name} needs the package {score.package}; run `pip install -r requirements.txt`"
            )
    if name == "sync" and not sync_expert:
        raise InputError(
            "train.best_by=sync needs an expert; give sync_expert=FOLDER (train_sync.py) or =lipsync_expert.pth "
            "(python -m checkpoints.fetch sync_expert), or choose another score"
        )
    return dataclasses.replace(score, default=names[0])
