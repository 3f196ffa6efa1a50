"""Light of a face: a network gets every face in the light of the person's references.

A network that is trained on lit faces generates wrong colours in the dark. Frames in a fade or in shade are brightened
before the network and darkened by the same factor after it. Not in the papers.
"""

import numpy as np

LIT = 0.6  # a frame with less light than this share of the person's usual light is no reference
_DARKEST = 32.0  # grey levels; references in less light are brightened to it
_SAME = 1.02  # light that differs by less than this factor is left as it is
_PARTS = 4  # of an upper face, from left to right, whose light is compared
_MOST = 16.0  # most that a face is brightened


def light(look: np.ndarray) -> float:
    """Mean grey level of a thumbnail (h, w, 3) of an upper face, without its outer fifths, which may show hair."""
    margin = look.shape[1] // 5
    return float(look[:, margin : look.shape[1] - margin].mean())


def well_lit(lights: np.ndarray) -> np.ndarray:
    """(F,) bool: which of a person's frames with `lights` (F,) show the face in the person's usual light."""
    lights = np.asarray(lights, np.float64)
    return ~(lights < LIT * np.nanquantile(lights, 0.9)) if np.isfinite(lights).any() else np.ones(len(lights), bool)


def evenly_lit(looks: np.ndarray) -> np.ndarray:
    """(N,) bool: in which of a person's thumbnails (N, h, w, 3) no shadow lies on a part of the upper face only.

    A part is shaded where it has much less of its usual light than the rest of the face has.
    """
    columns = np.asarray(looks, np.float32).mean(axis=(1, 3)) + 1
    parts = np.stack([part.mean(axis=1) for part in np.array_split(columns, _PARTS, axis=1)], axis=1)
    shares = parts / np.quantile(parts, 0.9, axis=0)
    return shares.min(axis=1) >= LIT * shares.max(axis=1)


def usual(lights: np.ndarray) -> float:
    """The light that a person's faces are brought to, from that of the references; NaN if none is known."""
    return max(float(np.nanmedian(lights)), _DARKEST) if np.isfinite(lights).any() else float("nan")


def brightening(level: float, target: float) -> float:
    """The factor that brings a face with light `level` towards `target`, both grey levels; 1 where they are similar."""
    if not np.isfinite(level) or not np.isfinite(target):
        return 1.0
    ratio = min(target / max(level, 0.5), _MOST)
    return ratio / _SAME if ratio > _SAME else ratio * _SAME if ratio < 1 / _SAME else 1.0


def brightened(picture: np.ndarray, factor: float) -> np.ndarray:
    """`picture` uint8 with its levels multiplied by `factor`."""
    if factor == 1:
        return picture
    return np.clip(picture * np.float32(factor), 0, 255).round().astype(np.uint8)
