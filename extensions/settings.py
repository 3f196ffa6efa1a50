"""The settings of the training scripts that are in no paper: one class for each schema of a script.

`training/config.py` adds them to the schema if a config has one of them, or a `model.form` of this folder.
"""

from dataclasses import dataclass, field

from extensions.feature_expert import FeatureExpertConfig
from extensions.losses import ExtraLosses
from extensions.region_synthesizer import RegionSynthesizerConfig
from extensions.speech_predictor import SpeechPredictorConfig
from extensions.speech_training import SpokenLosses, SpokenWindowsConfig
from extensions.sync_stretches import StretchesConfig
from training.config import Extension


@dataclass
class FeatureExpertExtension(Extension):
    """Settings of train_sync.py with `model.form: features` (sync_stretches.py), in place of `loss` and `negatives`."""

    model: FeatureExpertConfig = field(default_factory=FeatureExpertConfig)
    stretches: StretchesConfig = field(default_factory=StretchesConfig)


@dataclass
class SpeechPredictorExtension(Extension):
    """Settings of train_heatmap.py with `model.form: speech` (speech_training.py), in place of `losses`."""

    model: SpeechPredictorConfig = field(default_factory=SpeechPredictorConfig)
    spoken: SpokenLosses = field(default_factory=SpokenLosses)
    windows: SpokenWindowsConfig = field(default_factory=SpokenWindowsConfig)


@dataclass
class FaceExtension(Extension):
    """Settings of train_face.py for STSA's network, and of finetune_e2e.py (losses.py)."""

    extra_losses: ExtraLosses = field(default_factory=ExtraLosses)


@dataclass
class RegionSynthesizerExtension(FaceExtension):
    """Settings of train_face.py with `model.form: region`."""

    model: RegionSynthesizerConfig = field(default_factory=lambda: RegionSynthesizerConfig(mutual_information=None))
