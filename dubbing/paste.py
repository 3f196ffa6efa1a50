"""Pastes a generated face into its frame: matches its colour to the frame's, then pastes its lower half."""

import cv2
import numpy as np

from media.crop import paste_face

UPPER = 0.5  # fraction of the crop's height, from the top: input of the networks, not pasted


def paste(
    frame: np.ndarray, face: np.ndarray, source: np.ndarray, box: np.ndarray, landmarks: np.ndarray
) -> np.ndarray:
    """Copy `frame` (H, W, 3) uint8 and paste the lower half of `face` (S, S, 3) uint8 into the copy.

    source (S, S, 3) uint8 is the frame's own crop; box (4,) and landmarks (131, 2) are in pixels of the frame. Pixels
    outside the face's contour keep their values.
    """
    return paste_face(frame, match_colour(face, source), box, landmarks, upper=UPPER)


def match_colour(face: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shift the colour of `face` to that of `source`, both (S, S, 3) uint8. Their upper halves show the same content.

    The shift is the difference of the upper halves near the seam: the median along the height, smoothed across the
    face, so that light from one side is matched as well.
    """
    size = face.shape[0]
    band = slice(size * 3 // 8, size // 2)
    difference = source[band].astype(np.float32) - face[band]
    # The median, because a few wrong pixels (a strand of hair, an eyelid) must not colour the cheek.
    shift = np.median(difference, axis=0)[None]
    shift = cv2.blur(shift, (size // 4 | 1, 1), borderType=cv2.BORDER_REPLICATE)
    return np.clip(face + shift, 0, 255).round().astype(np.uint8)
