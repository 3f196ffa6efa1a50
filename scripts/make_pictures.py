"""Make the README's pictures, assets/strip.png and assets/dubbed.webp, from the demo's output.

    bash scripts/demo.sh && .venv/bin/python -m scripts.make_pictures

Each row of the strip shows the source, the predicted heatmap, the generated crop and the dubbed frame. The animation
shows the source beside the dub, with the words that the dub says.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from media.timeline import FPS
from media.video import read_frames

ROOT = Path(__file__).resolve().parent.parent
TIMES = (0.3, 2.5, 5.3)  # seconds, of the strip's rows
EVERY = 2  # every EVERY-th frame is in the animation
SUBTITLES = (  # seconds at which the sentences of assets/speech.wav begin
    (0.2, "Hello, and welcome."),
    (1.6, "The mouth you are watching never spoke these words:"),
    (4.1, "a small network has learned to move it with the sound of my voice."),
)
LINE = 28  # px, height of a line of text


def with_text(source: np.ndarray, dub: np.ndarray, words: str) -> Image.Image:
    """Source and dub (H, W, 3) side by side, their names above and the words below."""
    height, width, _ = dub.shape
    picture = Image.new("RGB", (2 * width, height + 2 * LINE), "black")
    picture.paste(Image.fromarray(np.hstack([source, dub])), (0, LINE))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=16)
    for name, x in (("source", width // 2), ("dubbed", 3 * width // 2)):
        draw.text((x, LINE // 2), name, fill="white", font=font, anchor="mm")
    draw.text((width, height + 3 * LINE // 2), words, fill="white", font=font, anchor="mm")
    return picture


def main() -> None:
    panels = list(read_frames(ROOT / "out" / "side_by_side.mp4"))
    width = next(read_frames(ROOT / "out" / "dubbed.mp4")).shape[1]
    rows = [panels[round(time * FPS)] for time in TIMES]
    Image.fromarray(np.vstack(rows)).save(ROOT / "assets" / "strip.png", optimize=True)

    pictures = []
    for number in range(0, len(panels), EVERY):
        words = [text for start, text in SUBTITLES if number / FPS >= start][-1:]
        frame = panels[number]
        pictures.append(with_text(frame[:, :width], frame[:, -width:], "".join(words)))
    pictures[0].save(
        ROOT / "assets" / "dubbed.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=1000 * EVERY // FPS,
        loop=0,
        quality=80,
        method=4,
    )


if __name__ == "__main__":
    main()
