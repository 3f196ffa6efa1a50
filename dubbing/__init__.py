"""Dubbing a video: the streaming pipeline behind `inference.py`."""

from dubbing.g4g import G4GSpeaker
from dubbing.load import load_speaker
from dubbing.options import DubOptions
from dubbing.pipeline import Summary, dub
from dubbing.speaker import Speaker
from dubbing.stages import Clock
from dubbing.stsa import StsaSpeaker

__all__ = ["Clock", "DubOptions", "G4GSpeaker", "Speaker", "StsaSpeaker", "Summary", "dub", "load_speaker"]
