"""Light of a face: a network gets every face in the light of the person's references.

A network that is trained on lit faces generates wrong colours in the dark. Frames in a fade or in shade are brightened
before the network and darkened by the same factor after it. Where a shadow lies on a part of the face, the generated
part is lit from left to right as the frame's own cheeks are. Not in the papers.
"""

import cv2
import numpy as np

from media.heatmap import LIP_POINTS
from media.landmarks import OVAL_POINTS

LIT = 0.6  # a frame with less light than this share of the person's usual light is no reference
_DARKEST = 32.0  # grey levels; references in less light are brightened to it
_SAME = 1.02  # light that differs by less than this factor is left as it is
_PARTS = 4  # of an upper face, from left to right, whose light is compared
_MOST = 16.0  # most that a face is brightened

# Two faces' light is compared by columns of faces of this size, in px, without so many pixels inside the oval, where
# hair may hang, and around the lips. It is then smoothed over so many columns.
_SIDE, _MARGINS, _SMOOTHED = 64, (5, 2), 5
_DARK = 2.0  # grey levels, added to both against noise in the dark
_LEAST = 0.3  # share of a column's pixels between nose and mouth that show skin; others take the next column's light
# Deviation of the logarithm of a column's light from the mean: up to the first a face stays as it was generated, from
# the second on it is lit as its frame is. Faces in ordinary light differ from generated ones by less.
_SHADED = 0.3, 0.45


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


def brightened(picture: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    """`picture` (h, w, 3) uint8 with its levels multiplied by `factor`, or by those of its columns, (n, 3)."""
    if isinstance(factor, np.ndarray):
        factor = columns(factor, picture.shape[1])
    elif factor == 1:
        return picture
    return np.clip(picture * np.asarray(factor, np.float32), 0, 255).round().astype(np.uint8)


def columns(factors: np.ndarray, width: int) -> np.ndarray:
    """Factors (n, 3) of a picture's columns for one with `width` columns: (width, 3) float32."""
    return cv2.resize(factors[None].astype(np.float32), (width, 1), interpolation=cv2.INTER_LINEAR)[0]


def shade(made: np.ndarray, source: np.ndarray, brightening: float, points: np.ndarray, seam: int) -> np.ndarray | None:
    """The light from left to right of a face in a shadow's edge, against that of the face generated for it.

    The light is that of the skin between `seam` and the middle of the mouth: what is spoken does not move it.

    Args:
        made: (h, w, 3) uint8, the generated face.
        source: (h, w, 3) uint8, the frame's crop; `made` is as bright as it is times `brightening`.
        points: (131, 2) landmarks of `source`, in units of the crop.
        seam: the first row that is generated.

    Returns:
        The factors of `made`'s columns, (n, 3) float32; None where no shadow lies on the face.
    """
    scale, middle = len(made) / _SIDE, float(points[LIP_POINTS, 1].mean())
    rows = slice(round(seam / scale), int(np.clip(middle * _SIDE, seam / scale, _SIDE)))
    skin = _skin(points)[rows]
    if not len(skin):
        return None
    part = slice(round(rows.start * scale), round(rows.stop * scale))
    ours, theirs = (
        cv2.resize(each[part], skin.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        for each in (made, source)
    )
    counts = skin.sum(axis=0)
    known = np.flatnonzero(counts >= max(1, _LEAST * len(skin)))
    if not len(known):
        return None
    logarithms = np.log((theirs * np.float32(brightening) + _DARK) / (ours + _DARK))
    ordered = np.sort(np.where(skin[..., None], logarithms, np.inf), axis=0)[:, known]
    upper, lower = counts[known] // 2, (counts[known] - 1) // 2
    medians = (ordered[upper, np.arange(len(known))] + ordered[lower, np.arange(len(known))]) / 2
    levels = np.stack([np.interp(np.arange(_SIDE), known, each) for each in medians.T], axis=1)
    levels = cv2.blur(levels[None], (_SMOOTHED, 1), borderType=cv2.BORDER_REPLICATE)[0]
    share = np.interp(np.abs(levels - levels.mean(axis=0)).max(), _SHADED, (0, 1))
    return np.exp(share * levels).astype(np.float32) if share else None


def _skin(points: np.ndarray) -> np.ndarray:
    """Mask (`_SIDE`, `_SIDE`) bool of a face with landmarks `points`, without its edge and the lips."""
    oval, lips = np.zeros((2, _SIDE, _SIDE), np.uint8)
    for mask, which in ((oval, OVAL_POINTS), (lips, LIP_POINTS)):
        hull = cv2.convexHull(np.rint(points[which] * _SIDE - 0.5).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, (1,))
    inside, around = (np.ones((2 * margin + 1, 2 * margin + 1), np.uint8) for margin in _MARGINS)
    return cv2.erode(oval, inside) > cv2.dilate(lips, around)
