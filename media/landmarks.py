"""The landmarks that crops and heatmaps are made from, among MediaPipe's 478 mesh points."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Edges = Sequence[tuple[int, int]]

_topology = json.loads(Path(__file__).with_name("topology.json").read_text())

#: MediaPipe ids of the 131 landmarks, in the order of every array of landmarks.
ORDER: tuple[int, ...] = tuple(_topology["order"])

#: MediaPipe id of the nose base, by which G4G's crop is centred. It is no landmark.
NOSE_BASE = 2

#: MediaPipe ids of the tracked points: the 131 landmarks and the nose base, from which every crop is framed.
TRACKED: tuple[int, ...] = (*ORDER, NOSE_BASE)


def tracked(points: np.ndarray) -> np.ndarray:
    """Select the 132 tracked points, in `TRACKED`'s order, from (..., 478, 2) mesh points: (..., 132, 2)."""
    return points[..., np.array(TRACKED), :]


def select131(points: np.ndarray) -> np.ndarray:
    """Select the 131 landmarks, in `ORDER`, from (..., 478, 2) mesh points or (..., 132, 2) tracked ones.

    (..., 131, 2) is returned unchanged.
    """
    count = points.shape[-2]
    if count == 478:
        return points[..., np.array(ORDER), :]
    if count not in (len(ORDER), len(TRACKED)):
        raise ValueError(f"points must be (..., 478, 2), (..., 132, 2) or (..., 131, 2), not {points.shape}")
    return points[..., : len(ORDER), :]


def edges_of(*parts: str) -> tuple[tuple[int, int], ...]:
    """The edges of the parts of a face, as topology.json names them, as pairs of MediaPipe ids."""
    return tuple((a, b) for part in parts for a, b in _topology[part])


def positions_of(edges: Edges) -> np.ndarray:
    """Indices into the 131 landmarks of the edges' ends, in `ORDER`'s order."""
    ids = {end for edge in edges for end in edge}
    return np.array([position for position, id in enumerate(ORDER) if id in ids])


OVAL_POINTS = positions_of(edges_of("face_oval"))


def position_of(id: int) -> int:
    """Index into the tracked points of the point with MediaPipe's `id`."""
    return TRACKED.index(id)
