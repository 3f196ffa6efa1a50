"""The report's pictures: each clip's best and worst frame, and a small video next to the true one."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from media.crop import STSA
from media.errors import InputError
from media.face import Face
from media.heatmap import draw_heatmap
from media.landmarks import select131
from media.place import crop_face
from media.timeline import FPS
from media.video import VideoWriter, probe
from metrics.pairs import Batch, FramePair, Pair
from metrics.scoring import ClipResult
from metrics.tables import METRICS

RANKING = ("lpips", "ssim", "psnr", "mse", "liplmd")  # the first computed one ranks the frames
SIDE = 192  # px, of a shot
HEIGHT = 160  # px, of a preview
SECONDS = 10  # of a preview
PREVIEWS = 40  # embedded in a report at most; more make it too large to open


@dataclass(frozen=True)
class Shot:
    """One frame of a clip.

    Attributes:
        metric, value: the metric that ranks the frame, and its value.
        truth, generated, true_heatmap, heatmap: JPEG bytes; a heatmap is None if no face was found or tracked.
    """

    method: str
    clip: str
    index: int
    metric: str
    value: float
    truth: bytes
    generated: bytes
    true_heatmap: bytes | None
    heatmap: bytes | None


@dataclass(frozen=True)
class Preview:
    """The beginning of a clip, the truth on the left and the generated video on the right: MP4 bytes."""

    method: str
    clip: str
    width: int
    height: int
    video: bytes


@dataclass
class Gallery:
    """Collects shots and previews while `metrics.evaluation` reads the frames."""

    best: list[Shot] = field(default_factory=list)
    worst: list[Shot] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)

    def start(self, method: str, pair: Pair) -> None:
        self._method, self._pair = method, pair
        self._frames: list[np.ndarray] = []
        self._shown = 0  # videos side by side in a preview
        self._extremes: dict[bool, tuple[float, str, FramePair, str]] = {}

    def update(self, batch: Batch, values: dict[str, np.ndarray]) -> None:
        if len(self.previews) < PREVIEWS:
            for pair in batch.pairs[: SECONDS * FPS - len(self._frames)]:
                shown = [frame for frame in (pair.reference, pair.generated) if frame is not None]
                if not self._frames or len(shown) == self._shown:
                    self._shown = len(shown)
                    self._frames.append(np.hstack([_shrink(frame) for frame in shown]))
        metric = next((name for name in RANKING if name in values), None)
        if metric is None or np.isnan(values[metric]).all():
            return
        goodness = values[metric] if METRICS[metric].higher_is_better else -values[metric]
        for best in (True, False):
            place = int(np.nanargmax(goodness) if best else np.nanargmin(goodness))
            kept = self._extremes.get(best)
            if kept is None or (goodness[place] > kept[0] if best else goodness[place] < kept[0]):
                self._extremes[best] = (float(goodness[place]), metric, batch.compared[place], batch.region)

    def finish(self, result: ClipResult | None) -> None:
        """End a clip; a clip that was left out (None) adds nothing."""
        if result is not None:
            for best, shots in ((True, self.best), (False, self.worst)):
                if best in self._extremes:
                    shots.append(self._shot(*self._extremes[best]))
            if self._frames:
                self.previews.append(self._preview())
        self._frames, self._extremes = [], {}

    def _shot(self, goodness: float, metric: str, pair: FramePair, region: str) -> Shot:
        def image(frame: np.ndarray | None) -> bytes:
            assert frame is not None  # the batch compares no pair without a reference
            if region == "face":
                assert pair.reference_face is not None  # the batch compares no pair without it
                return _jpeg(crop_face(frame, STSA.place(pair.reference_face.landmarks), (SIDE, SIDE)))
            return _jpeg(_shrink(frame, SIDE))

        def heatmap(face: Face | None) -> bytes | None:
            if face is None or pair.reference_face is None:
                return None
            points = STSA.place(pair.reference_face.landmarks).to_crop(select131(face.landmarks))
            return _jpeg(np.repeat((draw_heatmap(points, size=SIDE)[..., None] * 255).astype(np.uint8), 3, axis=2))

        return Shot(
            self._method,
            self._pair.name,
            pair.index,
            metric,
            goodness if METRICS[metric].higher_is_better else -goodness,
            image(pair.reference),
            image(pair.generated),
            heatmap(pair.reference_face),
            heatmap(pair.generated_face),
        )

    def _preview(self) -> Preview:
        paths = [path for path in (self._pair.generated, self._pair.reference) if path is not None]
        sound = next((path for path in paths if probe(path).has_sound), None)
        try:
            return self._with_sound(sound)
        except InputError:  # the sound cannot be read; the scores do without it too
            return self._with_sound(None)

    def _with_sound(self, sound: Path | None) -> Preview:
        height, width = self._frames[0].shape[:2]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "preview.mp4"
            with VideoWriter(path, width, height, sound=sound, duration=len(self._frames) / FPS, crf=30) as writer:
                for frame in self._frames:
                    writer.write(frame)
            return Preview(self._method, self._pair.name, width, height, path.read_bytes())


def _shrink(frame: np.ndarray, height: int = HEIGHT) -> np.ndarray:
    """`frame` at `height` and an even width."""
    width = 2 * max(1, round(frame.shape[1] * height / frame.shape[0] / 2))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
