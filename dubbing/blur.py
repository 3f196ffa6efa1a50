"""Blur of a face: a generated mouth is blurred as the rest of the frame's face is, by motion or out of focus.

The power of the gradients of a crop's visible part, across and down, is compared with that of the references, blurred
by Gaussians of several widths. Not in the papers.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from media.crop import CropForm

_SHARP = 0.4  # a face with more of the references' power is not blurred
_WIDTHS = np.array([0, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16]) / 128  # of the crop's width


def _power(crop: np.ndarray, form: CropForm) -> np.ndarray:
    """(2,) mean square of the gradients across and down of the luma above the hidden part."""
    luma = cv2.cvtColor(crop[: form.hidden_pixels[0].start], cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.array([np.square(np.diff(luma, axis=axis)).mean() for axis in (1, 0)])


class Sharpness:
    """How sharp a person's references (N, H, W, 3) uint8 are."""

    def __init__(self, references: Sequence[np.ndarray], form: CropForm):
        self._form = form
        self._powers = np.zeros((2, len(_WIDTHS)))
        for i, width in enumerate(_WIDTHS):
            for axis, blur in enumerate(((width, 0.0), (0.0, width))):
                self._powers[axis, i] = np.mean([_power(blurred(each, blur), form)[axis] for each in references])

    def blur(self, crop: np.ndarray) -> tuple[float, float]:
        """Standard deviations, across and down, of the blur that `crop` (H, W, 3) uint8 has; in units of its width."""
        across, down = (
            self._width(power, powers) for power, powers in zip(_power(crop, self._form), self._powers, strict=True)
        )
        return across, down

    def _width(self, power: float, powers: np.ndarray) -> float:
        if power >= _SHARP * powers[0]:
            return 0.0
        found, least = (np.interp(-each, -powers, _WIDTHS) for each in (power, _SHARP * powers[0]))
        return float(np.sqrt(max(found**2 - least**2, 0.0)))


def sharpness(references: Sequence[np.ndarray], form: CropForm) -> Sharpness | None:
    """`Sharpness`, or None for a form that shows nothing above its hidden part."""
    return Sharpness(references, form) if form.hidden_pixels[0].start > 1 else None


def blurred(picture: np.ndarray, blur: tuple[float, float]) -> np.ndarray:
    """`picture` (h, w, 3) uint8, blurred by a Gaussian with such standard deviations, in units of its width."""
    if not any(blur):
        return picture
    across, down = (max(each * picture.shape[1], 1e-3) for each in blur)
    return cv2.GaussianBlur(picture, (0, 0), across, sigmaY=down, borderType=cv2.BORDER_REPLICATE)
