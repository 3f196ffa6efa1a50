"""Dubbing a video: the streaming pipeline behind `inference.py`."""

from dubbing.g4g import G4GSpeaker
from dubbing.load import load_speaker
from dubbing.options import DubOptions
from dubbing.pipeline import Summary, dub
from dubbing.speaker import Speaker
from dubbing.stsa import StsaSpeaker
from media.stages import Clock

__all__ = ["Clock", "DubOptions", "G4GSpeaker", "Speaker", "StsaSpeaker", "Summary", "dub", "load_speaker"]
