"""Pastes a generated face into its frame: matches its colour to the frame's, then pastes the part that was hidden."""

import cv2
import numpy as np

from media.crop import CropForm, paste_face


def paste(
    frame: np.ndarray, face: np.ndarray, source: np.ndarray, box: np.ndarray, landmarks: np.ndarray, form: CropForm
) -> np.ndarray:
    """Copy `frame` (H, W, 3) uint8 and paste the hidden part of `face`, a (h, w, 3) uint8 crop, into the copy.

    source (h, w, 3) uint8 is the frame's own crop; box (4,) and landmarks (131, 2) are in pixels of the frame. Pixels
    outside the face's contour, and outside `form`'s hidden rectangle, keep their values.
    """
    return paste_face(frame, match_colour(face, source, form), box, landmarks, form)


def match_colour(face: np.ndarray, source: np.ndarray, form: CropForm) -> np.ndarray:
    """Shift the colour of `face` to that of `source`, both (h, w, 3) uint8. What is not hidden is the same in both.

    The shift is the difference in a band just above the hidden rectangle: the median along the height, smoothed across
    the face, so that light from one side is matched as well. A form that hides the top row too has no such band, and
    `face` is returned unchanged.
    """
    seam = form.hidden_pixels[0].start
    if seam == 0:
        return face
    band = slice(seam * 3 // 4, seam)
    difference = source[band].astype(np.float32) - face[band]
    # The median, because a few wrong pixels (a strand of hair, an eyelid) must not colour the cheek.
    shift = np.median(difference, axis=0)[None]
    shift = cv2.blur(shift, (form.width // 4 | 1, 1), borderType=cv2.BORDER_REPLICATE)
    return np.clip(face + shift, 0, 255).round().astype(np.uint8)
