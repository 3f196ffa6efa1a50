"""Dubbing a video: the streaming pipeline behind `inference.py`."""

from dubbing.options import DubOptions
from dubbing.pipeline import Summary, dub
from dubbing.speaker import Speaker
from dubbing.stages import Clock

__all__ = ["Clock", "DubOptions", "Speaker", "Summary", "dub"]
