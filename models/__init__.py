"""The networks of STSA and of G4G, and the checkpoints that hold them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoint import is_g4g, load_checkpoint, load_network, load_released, save_checkpoint
    from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
    from models.g4g import G4GConfig, G4GSynthesizer
    from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
    from models.sync_expert import SyncExpert, SyncExpertConfig

# The networks' names in checkpoints: files, sections of config.yaml, keys of `models.checkpoint.NETWORKS`.
NETWORK_NAMES = ("heatmap_predictor", "face_synthesizer", "g4g_synthesizer", "sync_expert", "discriminator")

__all__ = [
    "NETWORK_NAMES",
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

_MODULES = {
    "models.checkpoint": ("is_g4g", "load_checkpoint", "load_network", "load_released", "save_checkpoint"),
    "models.face_synthesizer": ("FaceSynthesizer", "FaceSynthesizerConfig"),
    "models.g4g": ("G4GConfig", "G4GSynthesizer"),
    "models.heatmap_predictor": ("HeatmapPredictor", "HeatmapPredictorConfig"),
    "models.sync_expert": ("SyncExpert", "SyncExpertConfig"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: `models.devices` alone must not load PyTorch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
