"""Remake the bundled portrait, of NASA and in the public domain, under a moving camera, and the bundled sentence.

    pip install scikit-image && apt-get install flite
    python -m scripts.make_assets

Writes assets/portrait.mp4 (7 s, 448x448, silent) and assets/speech.wav (7.6 s). assets/README.md gives their origin.
"""

import math
import subprocess
from pathlib import Path

import cv2
import numpy as np

from media.timeline import FPS
from media.video import VideoWriter

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SENTENCE = (
    "Hello, and welcome. The mouth you are watching never spoke these words: "
    "a small network has learned to move it with the sound of my voice."
)
SECONDS, SIZE = 7, 448
FACE_CENTRE, VIEW = (226.0, 136.0), 250.0  # of the portrait, in pixels


def portrait_frame(portrait: np.ndarray, time: float) -> np.ndarray:
    """The frame at `time` seconds: a view of the face that drifts, zooms and tilts slightly."""
    zoom = SIZE / VIEW * (1 + 0.04 * math.sin(2 * math.pi * time / 7))
    tilt = 2.5 * math.sin(2 * math.pi * time / 5)
    x = FACE_CENTRE[0] + 6 * math.sin(2 * math.pi * time / 4)
    y = FACE_CENTRE[1] + 3 * math.sin(2 * math.pi * time / 3)
    matrix = np.asarray(cv2.getRotationMatrix2D((x, y), tilt, zoom), np.float64)
    matrix[:, 2] += SIZE / 2 - np.array([x, y])
    return cv2.warpAffine(portrait, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def main() -> None:
    from skimage.data import astronaut

    portrait = astronaut()
    with VideoWriter(ASSETS / "portrait.mp4", SIZE, SIZE, FPS) as video:
        for frame in range(SECONDS * FPS):
            video.write(portrait_frame(portrait, frame / FPS))
    subprocess.run(["flite", "-voice", "slt", "-t", SENTENCE, "-o", str(ASSETS / "speech.wav")], check=True)


if __name__ == "__main__":
    main()
