"""Builds the validation of the scripts that generate faces."""

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from losses.calibration import SyncLevel
from losses.face import FaceObjective
from losses.g4g import G4GObjective
from losses.sync import frozen_expert
from media.crop import CropForm
from metrics.crops import Validation
from training.best import Score


def face_validation(
    config: Any,
    objective: FaceObjective | G4GObjective,
    true: Tensor,
    sounds: Tensor,
    crop: CropForm,
    measure: Score,
    accelerator: Accelerator,
) -> Validation:
    """The scores of generated validation windows; with L_sync, or if `measure` is -log cos, also that of the expert.

    Args:
        config: the run's, of which it takes `sync_expert` and `frames`.
        true: the true frames of the windows, (W, T, 3, H, W').
        sounds: theirs, (W, 1, C, W''), as the expert takes them.
        crop: the form of the frames.

    Raises:
        InputError: the expert cannot be used (`frozen_expert`).
    """
    level, supervised = None, isinstance(objective, FaceObjective) and objective.expert is not None
    if supervised or measure.name == "sync":  # G4G's contrastive loss needs no level: it compares cosines
        expert = objective.expert or frozen_expert(config.sync_expert, config.frames, crop).to(accelerator.device)
        level = SyncLevel(expert, true, sounds, accelerator.print if supervised else None)
    return Validation(true, crop, accelerator.device, level=level)
