"""The picture of `--visualize`: source, heatmap, generated crop and result side by side."""

import cv2
import numpy as np

_HEIGHT = 512  # px, at most


def panel_size(width: int, height: int, crop: tuple[int, int]) -> tuple[int, int]:
    """Width and height of `panel` for frames of `width` by `height` and crops of (height, width); both even."""
    (wide, face), tall = _widths(width, height, crop)
    return 2 * wide + 2 * face, tall


def _widths(width: int, height: int, crop: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Widths of a frame and of a crop in the panel, and its height; all even."""
    tall = min(_HEIGHT, height) // 2 * 2 or 2
    wide, face = (max(2, round(w * tall / h) // 2 * 2) for h, w in ((height, width), crop))
    return (wide, face), tall


def grey(heatmap: np.ndarray) -> np.ndarray:
    """A heatmap (S, S) in [0, 1] as a picture (S, S, 3) uint8."""
    return np.repeat((heatmap * 255).astype(np.uint8)[..., None], 3, axis=2)


def panel(source: np.ndarray, heatmap: np.ndarray, crop: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Place source (H, W, 3) uint8, heatmap (S, S) in [0, 1], crop (h, w, 3) uint8, result (H, W, 3) uint8 in a row.

    The heatmap shows the same part of the frame as the crop, and gets the crop's aspect ratio.
    """
    (wide, face), tall = _widths(source.shape[1], source.shape[0], (crop.shape[0], crop.shape[1]))
    widths = (wide, face, face, wide)
    parts = (source, grey(heatmap), crop, result)
    resized = [cv2.resize(x, (w, tall), interpolation=cv2.INTER_AREA) for x, w in zip(parts, widths, strict=True)]
    return np.concatenate(resized, axis=1)
