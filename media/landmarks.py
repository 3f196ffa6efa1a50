"""The 131 landmarks that crops and heatmaps are made from, among MediaPipe's 478 mesh points."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Edges = Sequence[tuple[int, int]]

_topology = json.loads(Path(__file__).with_name("topology.json").read_text())

#: MediaPipe ids of the 131 landmarks, in the order of every array of landmarks.
ORDER: tuple[int, ...] = tuple(_topology["order"])


def edges_of(*parts: str) -> tuple[tuple[int, int], ...]:
    """The edges of the parts of a face, as topology.json names them, as pairs of MediaPipe ids."""
    return tuple((a, b) for part in parts for a, b in _topology[part])


def positions_of(edges: Edges) -> np.ndarray:
    """Indices into the 131 landmarks of the edges' ends, in `ORDER`'s order."""
    ids = {end for edge in edges for end in edge}
    return np.array([position for position, id in enumerate(ORDER) if id in ids])


OVAL_POINTS = positions_of(edges_of("face_oval"))
