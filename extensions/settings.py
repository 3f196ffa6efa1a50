"""The settings that a training script's config may have beyond the papers', a class for each schema of a script.

`training/config.py` adds them to the schema for a config that has one of them, or whose `model.form` is `landmarks`.
"""

from dataclasses import dataclass, field

from extensions.lessons import VisemeTraining
from extensions.losses import ExtraLosses
from training.config import Extension


@dataclass
class SyncExtension(Extension):
    """Settings of train_sync.py for few people (sync_motion.py)."""

    speech: VisemeTraining = field(default_factory=VisemeTraining)
    motion: float = 0.0  # weight of a head that predicts from either embedding how the mouth moves
    freeze_speech: bool = True  # freeze the audio encoder that `speech` has pretrained, but for its last two layers


@dataclass
class FaceExtension(Extension):
    """Settings of train_face.py for STSA's network, and of finetune_e2e.py (losses.py)."""

    extra_losses: ExtraLosses = field(default_factory=ExtraLosses)
