"""Blur of a face: a generated mouth is blurred as the rest of the frame's face is, by motion or out of focus.

The power of the gradients of a crop's visible part, across and down, is compared with that of the references, blurred
by Gaussians of several widths. Not in the papers.
"""

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from media.crop import CropForm
from media.place import resize

_SHARP = 0.4  # a face with more of the references' power is not blurred
_WIDTHS = np.array([0, 0.7, 1.2, 2, 3, 5, 8, 13]) / 128  # of the crop's width
_ROUNDS = 4


def _power(luma: np.ndarray, form: CropForm) -> np.ndarray:
    """(2,) mean square of the gradients across and down of the luma (H, W) uint8 above the hidden part."""
    shown = luma[: form.hidden_pixels[0].start].astype(np.float32)
    return np.array([np.square(np.diff(shown, axis=axis)).mean() for axis in (1, 0)])


def _luma(crop: np.ndarray, form: CropForm) -> np.ndarray:
    """The luma of a crop (h, w, 3) uint8 at the size of `form`."""
    luma = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
    return luma if luma.shape == form.shape else resize(luma, form.width, form.height)


class Sharpness:
    """How sharp a person's references (N, H, W, 3) uint8 are, and how much of it blurs of several widths leave."""

    def __init__(self, references: Sequence[np.ndarray], form: CropForm):
        self._form = form.coarse()
        lumas = [_luma(each, self._form) for each in references]
        self._powers = np.zeros((2, len(_WIDTHS), len(_WIDTHS)))  # direction, width across, width down
        for (i, across), (j, down) in itertools.product(enumerate(_WIDTHS), enumerate(_WIDTHS)):
            self._powers[:, i, j] = np.mean(
                [_power(blurred(each, (across, down)), self._form) for each in lumas], axis=0
            )

    def blur(self, crop: np.ndarray) -> tuple[float, float]:
        """Standard deviations, across and down, of the blur that `crop` (H, W, 3) uint8 has; in units of its width."""
        power = _power(_luma(crop, self._form), self._form)
        if (power >= _SHARP * self._powers[:, 0, 0]).all():
            return 0.0, 0.0
        across = down = 0.0
        for _ in range(_ROUNDS):  # a blur in one direction takes power from the other's gradients too
            across = _width(power[0], _between(self._powers[0], down))
            down = _width(power[1], _between(self._powers[1].T, across))
        return across, down


def _between(powers: np.ndarray, width: float) -> np.ndarray:
    """Powers (widths, widths of the other direction) at `width` of the other direction: (widths,)."""
    return np.array([np.interp(width, _WIDTHS, row) for row in powers])


def _width(power: float, powers: np.ndarray) -> float:
    """The width at which `powers`, which fall, are `power`; from `_SHARP` of the first one on it grows from 0."""
    if power >= _SHARP * powers[0]:
        return 0.0
    found, least = (float(np.interp(-each, -powers, _WIDTHS)) for each in (power, _SHARP * powers[0]))
    return math.sqrt(max(found**2 - least**2, 0.0))


def sharpness(references: Sequence[np.ndarray], form: CropForm) -> Sharpness | None:
    """`Sharpness`, or None for a form that shows nothing above its hidden part."""
    return Sharpness(references, form) if form.hidden_pixels[0].start > 1 else None


def blurred(picture: np.ndarray, blur: tuple[float, float]) -> np.ndarray:
    """`picture` (h, w[, 3]) uint8, blurred by a Gaussian with such standard deviations, in units of its width."""
    if not any(blur):
        return picture
    across, down = (max(each * picture.shape[1], 1e-3) for each in blur)
    return cv2.GaussianBlur(picture, (0, 0), across, sigmaY=down, borderType=cv2.BORDER_REPLICATE)
