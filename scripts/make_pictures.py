"""Make the README's pictures, assets/strip.png and assets/dubbed.gif, from the demo's output.

    bash scripts/demo.sh && .venv/bin/python -m scripts.make_pictures

Each row of the strip shows the source, the predicted heatmap, the generated crop and the dubbed frame.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from media.timeline import FPS
from media.video import read_frames

ROOT = Path(__file__).resolve().parent.parent
ROWS, PANEL = 3, 224  # of the strip: rows, and a panel's side in pixels
SECONDS, EVERY = 5, 2  # of the animation: its length in seconds; every EVERY-th frame is kept


def main() -> None:
    panels = list(read_frames(ROOT / "out" / "side_by_side.mp4"))
    times = np.linspace(0, len(panels) - 1, ROWS + 2).round().astype(int)[1:-1]
    rows = [cv2.resize(panels[i], (4 * PANEL, PANEL), interpolation=cv2.INTER_AREA) for i in times]
    Image.fromarray(np.vstack(rows)).save(ROOT / "assets" / "strip.png", optimize=True)

    dubbed = [frame for frame, _ in zip(read_frames(ROOT / "out" / "dubbed.mp4"), range(SECONDS * FPS), strict=False)]
    small = [cv2.resize(frame, (PANEL, PANEL), interpolation=cv2.INTER_AREA) for frame in dubbed[::EVERY]]
    palette = Image.fromarray(np.hstack(small[:4])).quantize(128)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    duration = 1000 * EVERY // FPS
    pictures[0].save(
        ROOT / "assets" / "dubbed.gif",
        save_all=True,
        append_images=pictures[1:],
        duration=duration,
        loop=0,
        optimize=True,
    )


if __name__ == "__main__":
    main()
