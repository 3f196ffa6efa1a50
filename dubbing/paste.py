"""A generated face in its frame: its colour matched to the frame's, then pasted into the lower half of the face."""

import cv2
import numpy as np

from media.crop import paste_face

UPPER = 0.5  # the part of the crop's height, from the top, that the networks are given and that stays the source's


def paste(
    frame: np.ndarray, face: np.ndarray, source: np.ndarray, box: np.ndarray, landmarks: np.ndarray
) -> np.ndarray:
    """A copy of `frame` (H, W, 3) uint8 whose lower half of the face is `face` (S, S, 3) uint8.

    source (S, S, 3) uint8 is the frame's own crop; box (4,) and landmarks (131, 2) are in pixels of the frame. Outside
    the face's contour every pixel keeps its value.
    """
    return paste_face(frame, match_colour(face, source), box, landmarks, upper=UPPER)


def match_colour(face: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shift the colour of `face` by what its upper half, which shows the same as the source's, is off by.

    The shift is the difference of the two upper halves near the seam, averaged along the seam's height and smoothed
    across the face, so that light from one side is matched as well. Both (S, S, 3) uint8.
    """
    size = face.shape[0]
    band = slice(size * 3 // 8, size // 2)
    difference = source[band].astype(np.float32) - face[band]
    # A wrong pixel here and there (a strand of hair, a lid) must not colour the cheek: the median along the height.
    shift = np.median(difference, axis=0)[None]
    shift = cv2.blur(shift, (size // 4 | 1, 1), borderType=cv2.BORDER_REPLICATE)
    return np.clip(face + shift, 0, 255).round().astype(np.uint8)
