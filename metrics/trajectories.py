"""Draw Figure 4 of the paper: the path of a mouth corner through videos of heatmaps, sketches or faces.

    python -m metrics.trajectories "STSA=heatmaps.mp4" "IP-LAP=sketches.mp4" --output trajectories.png

The corner is located in each video's first frame and tracked with Lucas-Kanade. The figure shows the path over the
frame, and x and y over time. The path's length (how convoluted it is) and its jerk (how shaky it is) are printed. Its
points are written to a CSV file next to the figure.
"""

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from media.errors import InputError, Parser, command
from media.face import FaceTracker
from media.files import named_paths, replacing
from media.timeline import FPS
from media.video import read_frames
from metrics.plots import add_figure, legend_label, plain_text
from metrics.render import Cell, Grid, to_text

CORNERS = {"right": 61, "left": 291}  # MediaPipe mesh points; the person's right is on the left of the picture
_WINDOW = (21, 21)  # px, Lucas and Kanade's neighbourhood
_LEVELS = 3
_RETURN = 0.05  # of the longer side: largest error of a point tracked back to its origin
# Lips in a drawing of a face, in units of the picture. The line's centre lies in this rectangle (left, top, right,
# bottom), whatever the crop hides. It is wider than a nostril and less high than the jaw.
_LIPS = (0.25, 0.5, 0.75, 0.95)
_NARROWEST, _HIGHEST = 0.1, 0.5


@dataclass(frozen=True)
class Trajectory:
    """A point's path.

    Attributes:
        method: the method that made the video.
        first_frame: (H, W, 3) uint8 RGB, drawn behind the path.
        points: (F, 2) x, y in pixels; NaN from the frame on in which the point was lost.
    """

    method: str
    first_frame: np.ndarray
    points: np.ndarray

    @property
    def tracked(self) -> int:
        """Frames before the point was lost."""
        return int(np.isfinite(self.points[:, 0]).sum())


def path_length(points: np.ndarray) -> float:
    """Length in pixels of the path through the finite `points` (F, 2)."""
    points = points[np.isfinite(points).all(axis=1)]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def jerk(points: np.ndarray) -> float:
    """Mean norm of the third difference of `points` (F, 2) over time, in pixels a frame^3; NaN below four points.

    It is 0 at constant velocity or constant acceleration, and small for smooth motion.
    """
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 4:
        return float("nan")
    return float(np.linalg.norm(np.diff(points, n=3, axis=0), axis=1).mean())


def track_point(frames: Iterable[np.ndarray], start: np.ndarray) -> np.ndarray:
    """Track a point with pyramidal Lucas-Kanade (OpenCV), checking every step by tracking it back.

    Args:
        frames: (H, W, 3) uint8 RGB, one or more.
        start: (2,) x, y in pixels of the first frame.

    Returns:
        (F, 2) float64; NaN from the frame on in which the point was lost.
    """
    points, last = [np.asarray(start, np.float64)], None
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if last is not None:
            points.append(_step(last, grey, points[-1]))
        last = grey
    return np.stack(points)


def _step(last: np.ndarray, grey: np.ndarray, point: np.ndarray) -> np.ndarray:
    lost = np.full(2, np.nan)
    if not np.isfinite(point).all():
        return lost
    origin = point.astype(np.float32).reshape(1, 1, 2)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        last, grey, origin, np.empty_like(origin), winSize=_WINDOW, maxLevel=_LEVELS
    )
    if not found.all():
        return lost
    back, found, _ = cv2.calcOpticalFlowPyrLK(
        grey, last, moved, np.empty_like(moved), winSize=_WINDOW, maxLevel=_LEVELS
    )
    if not found.all() or np.linalg.norm(back - origin) > _RETURN * max(grey.shape):
        return lost
    return moved.reshape(2).astype(np.float64)


def mouth_corner(frame: np.ndarray, corner: str = "right") -> np.ndarray | None:
    """Locate a mouth corner in a frame: a mesh point of a face, or the end of the lips in a drawing of a face.

    Args:
        frame: (H, W, 3) uint8 RGB, of a face, or a heatmap or sketch of one crop.
        corner: the person's "right" or "left".

    Returns:
        (2,) x, y in pixels, or None if the frame shows neither.
    """
    drawn = _drawn_corner(frame, corner)
    if drawn is not None:
        return drawn
    with FaceTracker() as tracker:
        face = tracker.track(frame)
    return None if face is None else face.landmarks[CORNERS[corner]].astype(np.float64)


def _drawn_corner(frame: np.ndarray, corner: str) -> np.ndarray | None:
    """The corner in a heatmap or sketch: the outermost pixel of the lips, the widest line low in the middle."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if grey.mean() > 127:  # dark lines on white
        grey = 255 - grey
    if (grey > 40).mean() > 0.4:  # a photograph is grey all over, lines leave most of it empty
        return None
    height, width = grey.shape
    _, labels, stats, centres = cv2.connectedComponentsWithStats((grey > 100).astype(np.uint8), connectivity=8)
    found = {}
    for label, (left, top, wide, high, _) in enumerate(stats[1:], 1):  # 0 is the background
        x, y = centres[label] / (width, height)
        placed = _LIPS[0] < x < _LIPS[2] and _LIPS[1] < y < _LIPS[3]
        if placed and high < _HIGHEST * height and wide > _NARROWEST * width:
            found[label] = (left, top, left + wide, top + high)
    lines = {
        label: box
        for label, box in found.items()
        if not any(_is_jaw_around(labels == label, box, other) for other in found.values())
    }
    if not lines:
        return None
    lips = max(lines, key=lambda label: lines[label][2] - lines[label][0])
    rows, columns = np.nonzero(labels == lips)
    edge = columns.min() if corner == "right" else columns.max()
    return np.array([edge, rows[columns == edge].mean()], np.float64)


def _is_jaw_around(line: np.ndarray, box: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    """Whether `line` runs around `inner` at the sides and below, but not above, as the jaw does around the lips.

    Args:
        line: (H, W) bool, the pixels of one line.
        box, inner: x1 y1 x2 y2, the bounds of `line` and of another one.
    """
    around = box[0] < inner[0] and box[2] > inner[2] and box[1] < inner[3] < box[3]
    return around and not line[: inner[3], inner[0] : inner[2]].any()


def trajectory(method: str, video: Path, corner: str = "right", start: tuple[float, float] | None = None) -> Trajectory:
    """Track a mouth corner through a video, read as a stream at 25 fps.

    Raises:
        InputError: the video cannot be read, or its first frame shows no mouth and `start` is not given.
    """
    first = next(read_frames(video))
    origin = np.array(start, np.float64) if start is not None else mouth_corner(first, corner)
    if origin is None:
        raise InputError(f"video {video} shows no mouth in its first frame; give its corner with --start X Y")
    if not (0 <= origin[0] < first.shape[1] and 0 <= origin[1] < first.shape[0]):
        raise InputError(f"--start {start} lies outside {video}, which is {first.shape[1]}x{first.shape[0]}")
    return Trajectory(method, first, track_point(read_frames(video), origin))


def draw(trajectories: list[Trajectory], path: Path) -> None:
    """Write the figure: a column a method with the path over its frame; below, x and y over time of all of them."""
    from matplotlib.figure import Figure

    columns = max(2, len(trajectories))
    with plain_text():
        figure = Figure(figsize=(3.2 * columns, 6.4), layout="constrained")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.2, 1))[:, 0]
        for axes, each in zip(above.subplots(1, len(trajectories), squeeze=False)[0], trajectories, strict=True):
            axes.imshow(each.first_frame)
            axes.plot(*each.points.T, color="red", linewidth=1)
            axes.set_title(
                f"{each.method}: {path_length(each.points):.1f} px, jerk {jerk(each.points):.2f}", fontsize=9
            )
            axes.axis("off")
        for axis, (axes, name) in enumerate(zip(below.subplots(1, 2), ("x", "y"), strict=True)):
            for each in trajectories:
                times = np.arange(len(each.points)) / FPS
                axes.plot(times, each.points[:, axis], linewidth=1, label=legend_label(each.method))
            axes.set_xlabel("time (s)")
            axes.set_ylabel(f"{name} (px)")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def write_points(trajectories: list[Trajectory], path: Path) -> None:
    """Write method, frame, x and y of every point as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "frame", "x", "y"])
        for each in trajectories:
            writer.writerows(
                [each.method, frame, *point] for frame, point in enumerate(each.points) if point[0] == point[0]
            )


def summary(trajectories: list[Trajectory]) -> Grid:
    rows = []
    for each in trajectories:
        height, width = each.first_frame.shape[:2]
        numbers = (f"{path_length(each.points):.2f}", f"{jerk(each.points):.3f}")
        texts = (each.method, f"{width}x{height}", f"{each.tracked}/{len(each.points)}", *numbers)
        rows.append([Cell(text) for text in texts])
    header = ["Method", "Size", "Frames tracked", "Path length (px)", "Jerk (px/frame^3)"]
    sizes = {each.first_frame.shape for each in trajectories}
    notes = ["The videos differ in size, so their pixels do not compare."] if len(sizes) > 1 else []
    return Grid("Mouth corner, Lucas-Kanade", header, rows, notes=notes)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("videos", nargs="+", metavar="[NAME=]VIDEO", help="a video of heatmaps, sketches or faces")
    add_figure(parser, "trajectories.png")
    parser.add_argument("--corner", choices=CORNERS, default="right", help="the person's right (default) or left")
    parser.add_argument("--start", type=float, nargs=2, metavar=("X", "Y"), help="the corner in the first frame, in px")
    args = parser.parse_args(arguments)
    videos = named_paths("VIDEO", args.videos)
    trajectories = [trajectory(name, video, args.corner, args.start) for name, video in videos.items()]
    draw(trajectories, args.output)
    points = args.output.with_suffix(".csv")
    write_points(trajectories, points)
    print(to_text(summary(trajectories)))
    print(f"{len(trajectories)} trajectories drawn in {args.output}, their points in {points}")


if __name__ == "__main__":
    sys.exit(main())
