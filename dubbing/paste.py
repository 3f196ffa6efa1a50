"""Pastes a generated face into its frame: matches its colour to the frame's, then pastes the part that was hidden."""

import cv2
import numpy as np

from media.crop import CropForm
from media.landmarks import OVAL_POINTS, select131
from media.place import Place, resize

_GAINS = 0.05, 3.0  # least and most that a generated face is scaled by
_SCALED = 1.4, 2.0  # levels that differ by less than the first factor are shifted, by more than the second, scaled
_DARK = 1.0  # grey levels, added to those that are divided, against noise in the dark
# Root mean square distance of the colour differences from one tone, in grey levels: up to the first value a picture is
# black and white or toned, from the second on it is colourful.
_TONED = 0.7, 1.3
_CORE = 0.6, 0.17  # share of the reach, and of the weight, of the smaller of two means that soften the edge
_ROWS = 4  # every so many rows are looked at first for the tone


def match_colour(face: np.ndarray, source: np.ndarray, form: CropForm) -> np.ndarray:
    """Bring the colour of `face` to that of `source`, both (h, w, 3) uint8. What is not hidden is the same in both.

    The levels are compared in a band just above the hidden rectangle: their medians along the height, smoothed across
    the face, so that light from one side is matched as well. The difference is added; where it is
    large, the levels are scaled, so that shade paints no lips black. A form that hides the top row too has no such
    band, and `face` is returned unchanged.

    Where what `source` shows is black and white, or toned in one colour, so is the result.
    """
    seam = form.hidden_pixels[0].start
    if seam == 0:
        return face
    band = slice(seam * 3 // 4, seam)
    theirs, ours = source[band], face[band]
    # The median, because a few wrong pixels (a strand of hair, an eyelid) must not colour the cheek.
    levels = [_median(each.astype(np.float32)) + _DARK for each in (theirs, ours)]
    ratio = _across(levels[0] / levels[1], form)
    gain = (ratio ** np.interp(np.abs(np.log(ratio)), np.log(_SCALED), (0, 1))).clip(*_GAINS).astype(np.float32)
    shift = _across(_median(theirs - ours * gain), form)
    matched = face * gain
    matched += shift
    np.clip(matched, 0, 255, out=matched)
    tone = _tone(source, ~form.hidden_mask())
    if tone is not None:
        matched = _toned(matched, *tone)
    return np.rint(matched, out=matched).astype(np.uint8)


def _median(rows: np.ndarray) -> np.ndarray:
    """The median of float32 levels (n, w, 3) over the rows, (w, 3): `np.median`'s, in a fourth of its time."""
    ordered, middle = np.sort(rows, axis=0), len(rows) // 2
    return (ordered[(len(rows) - 1) // 2] + ordered[middle]) / np.float32(2)


def _across(levels: np.ndarray, form: CropForm) -> np.ndarray:
    """Levels (w, 3) of columns, smoothed over a quarter of the width: (1, w, 3)."""
    return cv2.blur(levels[None], (form.width // 4 | 1, 1), borderType=cv2.BORDER_REPLICATE)


def _tone(source: np.ndarray, shown: np.ndarray) -> tuple[float, np.ndarray] | None:
    """How much of its own colours a face in `source` (h, w, 3) uint8 has, and the (3, 2) tone of the rest.

    None where `source` is colourful, of which what is `shown` (h, w) counts.
    """
    # The rows between add to the squared distances from the tone, so that a fourth of the rows often tells.
    spread, fit = _fitted(source[::_ROWS], shown[::_ROWS])
    if spread < _TONED[1] * np.sqrt(_ROWS):
        spread, fit = _fitted(source, shown)
    share = min(max((spread - _TONED[0]) / (_TONED[1] - _TONED[0]), 0.0), 1.0)
    return None if share == 1 else (share, fit)


def _fitted(picture: np.ndarray, shown: np.ndarray) -> tuple[float, np.ndarray]:
    """The distance of the pixels of `picture` (h, w, 3) uint8 that are `shown` (h, w) from one tone, and the tone.

    In a toned picture both colour differences follow from the luma; a parabola with (3, 2) coefficients is fitted to
    them. The distance is the root mean square, in grey levels.
    """
    pixels = np.compress(shown.ravel(), picture.reshape(-1, 3), axis=0)
    planes = cv2.split(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2YCrCb))
    luma, *others = (plane[0].astype(np.intp) for plane in planes)  # what bincount would make of them, each time
    counts, levels = np.bincount(luma, minlength=256)[:, None], np.arange(256)
    sums = np.stack([np.bincount(luma, each, 256) for each in others], axis=1) - 128 * counts
    squares = sum(float(np.bincount(each, minlength=256) @ (levels - 128) ** 2) for each in others)
    means, powers, used = sums / np.maximum(counts, 1), np.vander(levels / 255, 3), np.sqrt(counts)
    fit, *_ = np.linalg.lstsq(powers * used, means * used, rcond=None)
    errors = squares - (counts * means**2).sum() + (counts * (means - powers @ fit) ** 2).sum()
    return float(np.sqrt(max(errors, 0) / (2 * len(pixels)))), fit


def _toned(face: np.ndarray, share: float, fit: np.ndarray) -> np.ndarray:
    """`face` (h, w, 3) float32 with `share` of its own colours, and the tone `fit` (3, 2) for the rest."""
    made = cv2.cvtColor(face / 255, cv2.COLOR_RGB2YCrCb)
    tone = (np.vander(made[..., 0].ravel(), 3) @ fit).reshape(*made.shape[:2], 2) / 255 + 0.5
    made[..., 1:] = share * made[..., 1:] + (1 - share) * tone
    return np.clip(cv2.cvtColor(made, cv2.COLOR_YCrCb2RGB) * 255, 0, 255)


def paste_face(
    frame: np.ndarray,
    face: np.ndarray,
    place: Place,
    landmarks: np.ndarray,
    form: CropForm,
    strength: float = 1.0,
    visible: tuple[Place, np.ndarray] | None = None,
) -> np.ndarray:
    """Paste the hidden part of `face` into `frame` at `place`, blended inside the face's contour.

    The blending weight is 0 outside the convex hull of the face oval: pixels there keep their exact values. Inside, it
    rises over a blurred edge. STSA's code blurs 21 px with sigma 11. Here the blur scales with the place and
    has these values for one of 256 px.

    Args:
        frame: (H, W, 3) uint8.
        face: (h, w, 3) uint8, of any size.
        place: where the face belongs.
        landmarks: (478, 2), (132, 2) or (131, 2), pixels of the frame; they give the contour.
        form: only its `hidden` rectangle is pasted.
        strength, visible: factors of the weight, as in `dubbing.occlusion.Covered`.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    blended = frame.copy()
    (left, top, right, bottom), weight = paste_weight((frame.shape[0], frame.shape[1]), place, landmarks, form)
    if strength != 1:
        weight *= np.float32(strength)
    if visible is not None and weight.size:
        weight *= _share(*visible, (left, top, right, bottom))
    if not weight.any():
        return blended
    region = np.ascontiguousarray(frame[top:bottom, left:right])
    made = _placed(face, place, frame.shape, (left, top, right, bottom))
    blended[top:bottom, left:right] = cv2.blendLinear(made, region, weight, 1 - weight)
    return blended


def _placed(face: np.ndarray, place: Place, shape: tuple[int, ...], box: tuple[int, int, int, int]) -> np.ndarray:
    """`face` as it lies at `place` in a frame of `shape` (H, W, 3), in the part `box` of the frame."""
    left, top, right, bottom = box
    whole = place.box(shape[1], shape[0])
    if whole is not None:
        made = resize(face, whole[2] - whole[0], whole[3] - whole[1])
        return np.ascontiguousarray(made[top - whole[1] : bottom - whole[1], left - whole[0] : right - whole[0]])
    wide, tall = (max(1, min(n, round(side))) for n, side in zip(face.shape[1::-1], place.size, strict=True))
    if (tall, wide) != face.shape[:2]:  # so that shrinking does not alias
        face = resize(face, wide, tall)
    matrix = place.matrix(wide, tall)
    matrix[:, 2] -= [left, top]
    size = (right - left, bottom - top)
    return cv2.warpAffine(face, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _share(place: Place, visible: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The values of `visible` (h, w) at `place` for each pixel of the part `box` of the frame; 1 beyond the place."""
    left, top, right, bottom = box
    matrix = place.matrix(visible.shape[1], visible.shape[0])
    matrix[:, 2] -= [left, top]
    size = (right - left, bottom - top)
    return cv2.warpAffine(
        visible, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1,)
    )


def paste_whole(frame: np.ndarray, face: np.ndarray, place: Place, landmarks: np.ndarray) -> np.ndarray:
    """Paste all of `face` into `frame` at `place`, inside the face's contour, as STSA's authors do in their evaluation.

    Nothing is hidden and no colour is matched. The weight is the convex hull of the face oval, blurred over 21 px with
    sigma 11 at any size of the face, as in the released code.

    Args:
        frame: (H, W, 3) uint8.
        face: (h, w, 3) uint8, of any size.
        place: where the face belongs.
        landmarks: (478, 2), (132, 2) or (131, 2), pixels of the frame.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    blended, (left, top, right, bottom) = frame.copy(), _covered(place, frame.shape)
    if right <= left or bottom <= top:
        return blended
    hull = cv2.convexHull(_rounded(select131(np.asarray(landmarks))[OVAL_POINTS]))
    mask = cv2.GaussianBlur(_polygon((frame.shape[0], frame.shape[1]), hull), (21, 21), 11)
    weight = mask[top:bottom, left:right].astype(np.float32) / 255
    made = _placed(face, place, frame.shape, (left, top, right, bottom))
    region = np.ascontiguousarray(frame[top:bottom, left:right])
    blended[top:bottom, left:right] = cv2.blendLinear(made, region, weight, 1 - weight)
    return blended


def _covered(place: Place, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the part of a frame of `shape` (H, W, ...) that `place` covers."""
    corners, (height, width) = place.corners, shape[:2]
    low, high = np.floor(corners.min(axis=0) + 1e-6), np.ceil(corners.max(axis=0) - 1e-6)
    x1, y1, x2, y2 = (int(side) for side in np.clip([*low, *high], 0, [width, height, width, height]))
    return x1, y1, x2, y2


def paste_weight(
    shape: tuple[int, int], place: Place, landmarks: np.ndarray, form: CropForm
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Weight of the face pasted at `place` into a frame of `shape` (H, W).

    Returns:
        x1, y1, x2, y2 of the part of the frame that may have a weight, and the weight of each of its pixels,
        (y2 - y1, x2 - x1) float32: 0 outside the face's contour and the hidden rectangle.
    """
    hull = cv2.convexHull(_rounded(select131(np.asarray(landmarks))[OVAL_POINTS]))
    x1, y1, x2, y2 = _shared(_covered(place, shape), _bounds(hull[:, 0]), _bounds(_hidden_corners(place, form)))
    if x2 <= x1 or y2 <= y1:
        return (x1, y1, x1, y1), np.zeros((0, 0), np.float32)
    # The hull first shrinks by the blur's reach, so that the blurred edge ends at the hull.
    reach = max(1, round(10 * max(place.size) / 256))
    origin = np.array([x1 - reach, y1 - reach])
    size = (y2 - y1 + 2 * reach, x2 - x1 + 2 * reach)
    mask = _polygon(size, hull - origin.astype(np.int32))
    # Nothing is pasted beyond the hidden rectangle, so the edge lies inside it, except along the frame's border.
    mask &= _hidden(size, place, origin, form)

    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return (x1, y1, x2, y2), _softened(cv2.erode(mask, kernel), reach)[reach:-reach, reach:-reach]


def _softened(mask: np.ndarray, reach: int) -> np.ndarray:
    """`mask` (h, w) of 0 and 255, blurred over 2 reach + 1 px: (h, w) float32 in [0, 1].

    The released code's Gaussian ends at 0.95 times its deviation. Two means take a tenth of its time and differ by less
    than 0.02.
    """
    whole, core = (cv2.blur(mask, (2 * r + 1, 2 * r + 1)) for r in (reach, round(_CORE[0] * reach)))
    return cv2.addWeighted(whole, (1 - _CORE[1]) / 255, core, _CORE[1] / 255, 0, dtype=cv2.CV_32F)


def _hidden(shape: tuple[int, int], place: Place, origin: np.ndarray, form: CropForm) -> np.ndarray:
    """Mask of the hidden rectangle in a picture of `shape` whose first pixel is the frame's at `origin`."""
    left, top, right, bottom = form.hidden
    if place.angle:
        return _polygon(shape, _rounded(_hidden_corners(place, form) - origin - 0.5))
    mask = np.zeros(shape, np.uint8)
    x, y = round(place.left) - int(origin[0]), round(place.top) - int(origin[1])
    wide, tall = (round(side) for side in place.size)
    rows = slice(max(0, y + round(top * tall)), max(0, y + tall - round((1 - bottom) * tall)))
    columns = slice(max(0, x + round(left * wide)), max(0, x + wide - round((1 - right) * wide)))
    mask[rows, columns] = 255
    return mask


def _hidden_corners(place: Place, form: CropForm) -> np.ndarray:
    """(4, 2) corners of the hidden rectangle, in pixels of the frame."""
    left, top, right, bottom = form.hidden
    return place.to_frame(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))


def _bounds(points: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels that a polygon with corners `points` (N, 2) may touch."""
    low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 2
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _shared(*boxes: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of what all of `boxes` cover; x2 <= x1 or y2 <= y1 if that is nothing."""
    x1, y1 = (max(box[i] for box in boxes) for i in (0, 1))
    return x1, y1, min(box[2] for box in boxes), min(box[3] for box in boxes)


def _rounded(points: np.ndarray) -> np.ndarray:
    return np.rint(points).astype(np.int32)


def _polygon(shape: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, corners, (255,))
    return mask
