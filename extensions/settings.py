"""The settings of the training scripts that are in no paper: one class for each schema of a script.

`training/config.py` adds them to the schema if a config has one of them, or if its `model.form` is `landmarks`.
"""

from dataclasses import dataclass, field

from extensions.feature_expert import FeatureExpertConfig
from extensions.landmark_predictor import LandmarkPredictorConfig
from extensions.landmark_synthesizer import LandmarkSynthesizerConfig
from extensions.lessons import ReadingTraining, SpeechTraining
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
class LandmarkPredictorExtension(Extension):
    """Settings of train_heatmap.py with `model.form: landmarks`. A fresh network's training starts with the lessons."""

    model: LandmarkPredictorConfig = field(default_factory=LandmarkPredictorConfig)
    reading: ReadingTraining = field(default_factory=ReadingTraining)
    speech: SpeechTraining = field(default_factory=SpeechTraining)


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
class LandmarkSynthesizerExtension(FaceExtension):
    """Settings of train_face.py with `model.form: landmarks`."""

    model: LandmarkSynthesizerConfig = field(default_factory=lambda: LandmarkSynthesizerConfig(mutual_information=None))
    # A lesson before a fresh network's training. finetune_e2e.py and checkpoints.combine copy the predictor's reader.
    reading: ReadingTraining = field(default_factory=ReadingTraining)


@dataclass
class RegionSynthesizerExtension(FaceExtension):
    """Settings of train_face.py with `model.form: region`."""

    model: RegionSynthesizerConfig = field(default_factory=lambda: RegionSynthesizerConfig(mutual_information=None))
