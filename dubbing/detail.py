"""Adds the detail that a generated face lacks, from the frame itself and from the references.

A network's crop is smaller than the face in a large frame, and a generated crop is softer than a real one. The
frame's own face, and each reference warped by the network's flow, are compared with the generated face. Where they
agree with it, their detail replaces its own. Not in the papers.

Detail is the luma that a picture loses when it is shrunk to a quarter of the crop's size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dubbing import light
from media.crop import CropForm
from media.place import Place, resize

_SHRUNK = 4  # a crop is so many times as wide as the picture that holds no detail
_LONGEST = 480  # px of the faces that detail is taken from; a larger face is shrunk to it first
# Agreement: root mean square differences of a candidate and the generated face, in grey levels.
_OWN = 6.0  # at this difference, the frame's own face has a share of 0.6
_REFERENCES = 2.0  # a reference that differs by this much, where the best one does not at all, has 0.6 of its share
_TRUSTED = 9.0  # where the candidates differ by this much, they lend 0.6 of their detail
_MOST = 2  # references that lend detail to a face
_LEAST = 0.04  # smaller shares of a reference count as none, which saves time
# Factor of the blend's power to the candidates', for faces (crops) of such widths in px: encoding removes part of it
# again, more of a small face.
_STRENGTHS = {130: 1.7, 340: 1.17}
_GAIN = 3.0  # most that the blend is amplified by
_SAME = 0.95  # a face that is shrunk by less than this factor is only resampled
_CUBIC = 2  # px that cubic interpolation reads on each side
_ZERO = 127  # the level that stores no detail
_NOISE = 0.05  # squared grey levels, added to the power that is divided by
# Widths, in units of the crop's width.
_NEIGHBOURHOOD = 9 / 128  # over which differences are averaged
_SHADING = 33 / 128  # of the mean that is subtracted from a difference: light does not count
_SOFTNESS = 7 / 128  # of the mean that is compared, outside the mouth: texture does not count
_MARGIN = 7 / 128  # twice the margin around the lips within which it does count
_BLENDED = 5 / 128  # over which shares and power are averaged


@dataclass
class Candidate:
    """A real face, from which detail can be taken. Faces are compared at the size (H, W) of `CropForm.coarse`.

    luma: (H, W) float32, of the face in the network's form, grey levels.
    detail: (h, w) float32, grey levels: the detail of the same part of the frame at the frame's resolution. A
        reference's is uint8, `_ZERO` higher, because that is faster to warp.
    power: (H, W) float32, squared grey levels: the mean square of `detail`.
    size: width and height of the whole face at the resolution of `detail`.
    """

    luma: np.ndarray
    detail: np.ndarray
    power: np.ndarray
    size: tuple[int, int]


def candidate(frame: np.ndarray, place: Place, crop: np.ndarray, form: CropForm, brightening: float = 1.0) -> Candidate:
    """The reference at `place` in `frame` (H, W, 3) uint8, whose crop of `form` is `crop` (h, w, 3) uint8.

    brightening: the factor by which `crop` is brighter than the frame.
    """
    size, coarse = _size(place), form.coarse()
    detail = _detail(_cut(frame, place, size), (form.width // _SHRUNK, form.height // _SHRUNK)) * np.float32(
        brightening
    )
    power = cv2.resize(detail * detail, (coarse.width, coarse.height), interpolation=cv2.INTER_AREA)
    stored = (detail + _ZERO).clip(0, 255).round().astype(np.uint8)
    return Candidate(_compared(_luma(crop), coarse), stored, power, size)


def own_candidate(
    frame: np.ndarray, place: Place, crop: np.ndarray, form: CropForm, brightening: float | np.ndarray = 1.0
) -> Candidate:
    """As `candidate`, of the face to dub: `detail` (float32) and `power` are of its hidden part alone.

    `brightening` may be that of the crop's columns, (n, 3).
    """
    size, coarse = _size(place), form.coarse()
    rows, columns = _scaled(form, *size[::-1])
    across, down = (np.array([s.start, s.stop]) / side for s, side in zip((columns, rows), size, strict=True))
    part = place.part(across[0], down[0], across[1], down[1])
    luma = _cut(frame, part, (columns.stop - columns.start, rows.stop - rows.start))
    left, top, right, bottom = form.hidden
    small = round((right - left) * form.width / _SHRUNK), round((bottom - top) * form.height / _SHRUNK)
    detail = _detail(luma, small)
    if isinstance(brightening, np.ndarray):
        detail *= light.columns(brightening, size[0])[columns].mean(axis=1)
    elif brightening != 1:
        detail *= np.float32(brightening)
    lines, places = coarse.hidden_pixels
    compared = places.stop - places.start, lines.stop - lines.start
    power = cv2.resize(detail * detail, compared, interpolation=cv2.INTER_AREA)
    return Candidate(_compared(_luma(crop), coarse), detail, power, size)


def _size(place: Place) -> tuple[int, int]:
    """Width and height of the face at `place` at the resolution of its detail."""
    scale = min(1.0, _LONGEST / max(place.size))
    width, height = (max(1, round(scale * side)) for side in place.size)
    return width, height


def _cut(frame: np.ndarray, place: Place, size: tuple[int, int]) -> np.ndarray:
    """The luma of `place` in `frame` (H, W, 3) uint8 with width and height `size`, (h, w) float32.

    A face that is larger than `size` is shrunk before it is turned, which is faster.
    """
    corners, (height, width) = place.corners, frame.shape[:2]
    low, high = np.floor(corners.min(axis=0)) - _CUBIC, np.ceil(corners.max(axis=0)) + _CUBIC
    x1, y1 = (int(side) for side in np.clip(low, 0, [width - 1, height - 1]))
    x2, y2 = (int(side) for side in np.clip(high, [x1 + 1, y1 + 1], [width, height]))
    luma = cv2.cvtColor(np.ascontiguousarray(frame[y1:y2, x1:x2]), cv2.COLOR_RGB2GRAY)
    scale, scales, method = max(a / b for a, b in zip(size, place.size, strict=True)), (1.0, 1.0), cv2.INTER_CUBIC
    if scale < _SAME:
        shrunk = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
        luma = cv2.resize(luma, shrunk, interpolation=cv2.INTER_AREA)
        scales, method = (shrunk[0] / (x2 - x1), shrunk[1] / (y2 - y1)), cv2.INTER_LINEAR
    matrix = place.within(np.array([x1, y1]), scales).matrix(*size)
    flags = method | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(luma, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def add_detail(
    face: np.ndarray,
    own: Candidate,
    lips: np.ndarray,
    references: Sequence[Candidate],
    flow: np.ndarray | None,
    form: CropForm,
) -> np.ndarray:
    """Add detail to the hidden part of a generated face.

    Args:
        face: (H, W, 3) uint8, generated, in the colours of the frame.
        own: `own_candidate`, the face in the frame.
        lips: (K, 2) points around its mouth, in units of the crop.
        references: N of the same person.
        flow: (N, 2, rows, columns) float32, for each pixel of the hidden part the point x, y of each reference, in
            [-1, 1] between the crop's outer edges; None leaves the references out.

    Returns:
        (h, w, 3) uint8: the face at `own.size`.
    """
    coarse, (width, height) = form.coarse(), own.size
    hidden, compared = form.hidden_pixels, coarse.hidden_pixels
    luma, mouth = _luma(face), _mouth(lips, coarse)[compared]
    points = (
        [] if flow is None else [_pixels(_resized(each, (mouth.shape[0], mouth.shape[1])), coarse) for each in flow]
    )
    shares, trust = _shares(_compared(luma, coarse)[compared], own, mouth, references, points, coarse)

    part = _scaled(form, height, width)
    size = (part[1].stop - part[1].start, part[0].stop - part[0].start)
    lost = _detail(luma, (form.width // _SHRUNK, form.height // _SHRUNK))[hidden]
    # Where no candidate agrees with the face, its own detail stays.
    kept = lost * cv2.resize(1 - trust, lost.shape[::-1])
    blend = np.asarray(cv2.resize(kept, size, interpolation=cv2.INTER_CUBIC), np.float32)
    blend += own.detail * cv2.resize(trust * shares[0], size)
    power = shares[0] * own.power
    for reference, where, share in zip(references, points, shares[1:], strict=False):
        if share.any():
            power += share * _read(reference.power, where)
            _add_warped(blend, reference.detail, where, trust * share, coarse)
    # What differs cancels in a blend, so it is amplified to the candidates' power.
    blend *= cv2.resize(_gain(blend, power * _strength(own.size), coarse), size)

    base = face.copy()
    base[hidden] = cv2.subtract(face[hidden], cv2.merge([lost] * 3), dtype=cv2.CV_8U)
    result = resize(base, width, height)
    result = result.copy() if result is base else result
    levels = cv2.merge([blend.round().astype(np.int16)] * 3)
    result[part] = cv2.add(result[part], levels, dtype=cv2.CV_8U)
    return result


def _luma(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _compared(luma: np.ndarray, coarse: CropForm) -> np.ndarray:
    """`luma` (h, w) float32 at the size at which faces are compared."""
    return luma if luma.shape == coarse.shape else resize(luma, coarse.width, coarse.height)


def _resized(flow: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`flow` (2, rows, columns) float32 at `shape`: (2, *shape)."""
    if flow.shape[1:] == shape:
        return flow
    return np.stack([cv2.resize(each, shape[::-1], interpolation=cv2.INTER_AREA) for each in flow])


def _detail(luma: np.ndarray, small: tuple[int, int]) -> np.ndarray:
    """What `luma` (h, w) float32 loses at the width and height `small`."""
    height, width = luma.shape
    if width <= small[0] or height <= small[1]:
        return np.zeros_like(luma)
    shrunk = cv2.resize(luma, small, interpolation=cv2.INTER_AREA)
    return luma - cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)


def _pixels(points: np.ndarray, form: CropForm) -> np.ndarray:
    """Points (2, ...) in [-1, 1] in pixels of the crop, (2, ...) float32."""
    return np.stack([(points[0] + 1) * (form.width / 2) - 0.5, (points[1] + 1) * (form.height / 2) - 0.5])


def _scaled(form: CropForm, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the hidden rectangle in a face of `height` by `width`."""
    left, top, right, bottom = form.hidden
    return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))


def _read(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`picture` at the points (2, h, w), in its pixels."""
    return cv2.remap(picture, points[0], points[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _shares(
    face: np.ndarray,
    own: Candidate,
    mouth: np.ndarray,
    references: Sequence[Candidate],
    points: list[np.ndarray],
    form: CropForm,
) -> tuple[np.ndarray, np.ndarray]:
    """The share of each candidate's detail, the frame's first, and how far the face may be given it; both in [0, 1].

    `face` is the luma of the hidden part of the generated face. The shares (1 + N, rows, columns) of the hidden part
    add up to 1; the trust (rows, columns) is low where no candidate agrees with the face.
    """
    warped = [own.luma[form.hidden_pixels]]
    warped += [_read(reference.luma, where) for reference, where in zip(references, points, strict=False)]
    squares = np.stack([_difference(each, face, mouth, form) for each in warped])

    shares = np.empty_like(squares)
    shares[0] = np.exp(squares[0] / (-2 * _OWN**2))
    if points:
        # One reference at a place: a mean of several would double teeth.
        others = np.exp((squares[1:] - squares[1:].min(axis=0)) / (-2 * _REFERENCES**2))
        others *= (1 - shares[0]) / others.sum(axis=0)
        others[others.sum(axis=(1, 2)).argsort()[:-_MOST]] = 0
        shares[1:] = others * ((1 - shares[0]) / (others.sum(axis=0) + 1e-6))
    trust = _mean(np.exp((shares * squares).sum(axis=0) / (-2 * _TRUSTED**2)), _BLENDED, form)
    shares = np.stack([_mean(each, _BLENDED, form) for each in shares])
    shares[1:][shares[1:] < _LEAST] = 0
    shares /= shares.sum(axis=0) + 1e-6
    return shares, trust


def _mouth(lips: np.ndarray, form: CropForm) -> np.ndarray:
    """Mask of the mouth with points `lips` (K, 2) in units of the crop, and of a margin around it; (H, W) bool."""
    mask = np.zeros(form.shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(lips * form.shape[::-1] - 0.5).astype(np.int32)), (1,))
    side = _odd(_MARGIN, form)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0


def _difference(a: np.ndarray, b: np.ndarray, mouth: np.ndarray, form: CropForm) -> np.ndarray:
    """Mean squared difference of two lumas (h, w) around each pixel.

    A generated face lacks texture, which must not count, but for that in the `mouth` (h, w): edges that do not meet
    would be doubled there.
    """
    difference = a - b
    difference = np.where(mouth, difference, _mean(difference, _SOFTNESS, form))
    difference -= _mean(difference, _SHADING, form)
    return _mean(difference * difference, _NEIGHBOURHOOD, form)


def _odd(width: float, form: CropForm) -> int:
    """`width`, in units of the crop, in pixels: an odd number of them."""
    return round(width * form.width) | 1


def _mean(field: np.ndarray, width: float, form: CropForm) -> np.ndarray:
    """The mean of `field` (h, w) over the square of `width` around each pixel."""
    side = _odd(width, form)
    return cv2.blur(field, (side, side), borderType=cv2.BORDER_REFLECT)


def _add_warped(blend: np.ndarray, detail: np.ndarray, points: np.ndarray, share: np.ndarray, form: CropForm) -> None:
    """Add `share` of a reference's `detail`, warped to the crop's `points`, to `blend`, which is larger than both."""
    height, width = blend.shape
    rows, columns = (_extent(share.any(axis=axis), side) for axis, side in ((1, height), (0, width)))
    scales = detail.shape[1] / form.width, detail.shape[0] / form.height
    places = [(line + 0.5) * scale - 0.5 for line, scale in zip(points, scales, strict=True)]
    x, y, weight = (cv2.resize(each, (width, height))[rows, columns] for each in (*places, share))
    warped = cv2.remap(detail, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    blend[rows, columns] += weight * (warped.astype(np.float32) - _ZERO)


def _extent(used: np.ndarray, side: int) -> slice:
    """Where the true entries of `used` and their neighbours lie on a line of `side` pixels that is as long."""
    places = np.flatnonzero(used)
    scale = side / len(used)
    return slice(max(0, int((places[0] - 1) * scale)), min(side, math.ceil((places[-1] + 2) * scale)))


def _strength(size: tuple[int, int]) -> np.float32:
    """The factor of a face of `size` by `_STRENGTHS`."""
    return np.float32(np.interp(max(size), list(_STRENGTHS), list(_STRENGTHS.values())))


def _gain(blend: np.ndarray, power: np.ndarray, form: CropForm) -> np.ndarray:
    """The factor on `blend` that gives it the `power`, both of the hidden part: (rows, columns) float32, as `power`."""
    own = cv2.resize(blend * blend, power.shape[::-1], interpolation=cv2.INTER_AREA)
    own, power = (_mean(each, _BLENDED, form) for each in (own, power))
    return np.sqrt(np.clip(power / (np.maximum(own, 0) + _NOISE), 0, _GAIN**2))
