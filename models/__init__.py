"""The networks of STSA and of G4G, and the checkpoints that hold them."""

from models.checkpoint import is_g4g, load_checkpoint, load_network, load_released, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.g4g import G4GConfig, G4GSynthesizer
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.sync_expert import SyncExpert, SyncExpertConfig

__all__ = [
    "FaceSynthesizer",
    "FaceSynthesizerConfig",
    "G4GConfig",
    "G4GSynthesizer",
    "HeatmapPredictor",
    "HeatmapPredictorConfig",
    "SyncExpert",
    "SyncExpertConfig",
    "is_g4g",
    "load_checkpoint",
    "load_network",
    "load_released",
    "save_checkpoint",
]
