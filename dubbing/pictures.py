"""The picture of `--visualize`: source, heatmap, generated crop and result side by side."""

import cv2
import numpy as np

_HEIGHT = 512  # px, at most


def panel_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of `panel` for frames of `width` by `height`; both even."""
    tall = min(_HEIGHT, height) // 2 * 2 or 2
    wide = max(2, round(width * tall / height) // 2 * 2)
    return 2 * wide + 2 * tall, tall


def grey(heatmap: np.ndarray) -> np.ndarray:
    """A heatmap (S, S) in [0, 1] as a picture (S, S, 3) uint8."""
    return np.repeat((heatmap * 255).astype(np.uint8)[..., None], 3, axis=2)


def panel(source: np.ndarray, heatmap: np.ndarray, crop: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Place source (H, W, 3) uint8, heatmap (S, S) in [0, 1], crop (S, S, 3) uint8, result (H, W, 3) uint8 in a row."""
    total, tall = panel_size(source.shape[1], source.shape[0])
    wide = total // 2 - tall
    widths = (wide, tall, tall, wide)
    parts = (source, grey(heatmap), crop, result)
    resized = [cv2.resize(x, (w, tall), interpolation=cv2.INTER_AREA) for x, w in zip(parts, widths, strict=True)]
    return np.concatenate(resized, axis=1)
