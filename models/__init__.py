"""The networks of STSA and the checkpoints that hold them."""

from models.checkpoint import load_checkpoint, load_network, load_released, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.sync_expert import SyncExpert, SyncExpertConfig

__all__ = [
    "FaceSynthesizer",
    "FaceSynthesizerConfig",
    "HeatmapPredictor",
    "HeatmapPredictorConfig",
    "SyncExpert",
    "SyncExpertConfig",
    "load_checkpoint",
    "load_network",
    "load_released",
    "save_checkpoint",
]
