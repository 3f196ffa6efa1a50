"""LipLMD: how far the generated lips are from the true ones."""

import numpy as np


def lip_landmark_distance(generated: np.ndarray, reference: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Normalized lip landmarks distance; lower is better, identical lips give 0.

    The paper gives no formula. Here it is the mean Euclidean distance over MediaPipe's 40 lip points (outer and inner
    contour), in units of the reference video's face box: x in its width and y in its height.

    Args:
        generated, reference: (..., 40, 2) lip points in pixels of the frame.
        box: (..., 4) the reference's face box, x1 y1 x2 y2 in the same pixels.

    Returns:
        (...) distances.
    """
    box = np.asarray(box, np.float64)
    size = (box[..., 2:] - box[..., :2])[..., None, :]
    offset = (np.asarray(generated, np.float64) - np.asarray(reference, np.float64)) / size
    return np.linalg.norm(offset, axis=-1).mean(axis=-1)
