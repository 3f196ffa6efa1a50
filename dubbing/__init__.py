"""Dubbing a video: the streaming pipeline behind `inference.py`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dubbing.dubber import Dubber
    from dubbing.g4g import G4GSpeaker
    from dubbing.live import Live
    from dubbing.load import load_speaker
    from dubbing.options import DubOptions
    from dubbing.pipeline import Summary, dub
    from dubbing.prepared import Prepared
    from dubbing.speaker import Speaker
    from dubbing.stsa import StsaSpeaker
    from media.stages import Clock

__all__ = [
    "Clock",
    "DubOptions",
    "Dubber",
    "G4GSpeaker",
    "Live",
    "Prepared",
    "Speaker",
    "StsaSpeaker",
    "Summary",
    "dub",
    "load_speaker",
]

_MODULES = {
    "dubbing.dubber": ("Dubber",),
    "dubbing.g4g": ("G4GSpeaker",),
    "dubbing.live": ("Live",),
    "dubbing.load": ("load_speaker",),
    "dubbing.options": ("DubOptions",),
    "dubbing.pipeline": ("Summary", "dub"),
    "dubbing.prepared": ("Prepared",),
    "dubbing.speaker": ("Speaker",),
    "dubbing.stsa": ("StsaSpeaker",),
    "media.stages": ("Clock",),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `dubbing.options` alone must not load PyTorch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
