"""Face tracking: finds the faces of a frame with MediaPipe and follows one through a video."""

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from media.landmarks import select131
from media.place import Place, crop_face, overlap

_SMALL = 0.2  # fraction of the frame's longer side; the mesh of a narrower face is fitted twice
_EYE_CORNERS = [33, 263]  # MediaPipe ids: outer corners of the right and left eye
_MARGIN = 5  # px of the frame, around the landmarks in a face's box
_TILTED = math.radians(12)  # the mesh of a face that is tilted by more is fitted again, upright
_FITTED = 512  # px of the picture that it is fitted to
_SAME_MESH = 0.1  # mean distance, in the face's longer side, up to which the second mesh is of the same face
_SMALLEST = 8  # px; a box with a shorter side is not used as a face


@dataclass(frozen=True)
class Face:
    """One face of a frame.

    landmarks: (478, 2) float32, MediaPipe's mesh points, x and y in pixels of the frame; they may lie outside it.
    box: (4,) int32, x1 y1 x2 y2: the box of the 131 landmarks, 5 px wider on each side, clipped to the frame.
    """

    landmarks: np.ndarray
    box: np.ndarray


class FaceTracker:
    """Finds the face in each frame of a video. A context manager; holds MediaPipe's networks while open.

    Each frame is searched on its own (MediaPipe's static mode), so its mesh points do not depend on where reading
    starts. Only the choice among several faces depends on the previous frame. Where MediaPipe's short-range detector
    finds no face, the full-range detector searches, and the mesh is fitted to an enlarged crop around what it finds.

    Args:
        faces: maximum number of faces to find in a frame.
    """

    def __init__(self, faces: int = 1):
        with opened():
            from mediapipe.python.solutions import face_detection, face_mesh

            self._mesh = face_mesh.FaceMesh(static_image_mode=True, max_num_faces=faces, refine_landmarks=True)
            self._close_mesh = face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)
            self._detector = face_detection.FaceDetection(model_selection=1, min_detection_confidence=0.5)
            for graph in (self._mesh, self._close_mesh, self._detector):
                graph.process(np.zeros((64, 64, 3), np.uint8))  # loads the networks, which write to stderr
        self._faces = faces
        self._warned = False
        self._last: np.ndarray | None = None

    def __enter__(self) -> "FaceTracker":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        for graph in (self._mesh, self._close_mesh, self._detector):
            graph.close()

    def track(self, frame: np.ndarray) -> Face | None:
        """The face of `frame` (H, W, 3) uint8 RGB, or None if there is none.

        Among several faces, the one that overlaps most with the last face returned; the largest if none overlaps.
        """
        found = self.find(frame)
        if not found:
            return None
        face = found[0]
        if self._last is not None and len(found) > 1:
            overlaps = [overlap(other.box, self._last) for other in found]
            if max(overlaps) > 0:
                face = found[int(np.argmax(overlaps))]
        self._last = face.box
        return face

    def find(self, frame: np.ndarray) -> list[Face]:
        """All faces of `frame` (H, W, 3) uint8 RGB, at most `faces` of them, the largest first."""
        frame = np.ascontiguousarray(frame)
        # MediaPipe warns once, at its first face. Afterwards stderr stays open for other threads' progress bars.
        with contextlib.nullcontext() if self._warned else silence:
            points = [self._levelled(frame, self._steadied(frame, each)) for each in mesh_points(self._mesh, frame)]
            if not points:
                windows = self._windows(frame)
                points = [found for window in windows for found in self._look_closely(frame, window)]
        self._warned = self._warned or bool(points)
        found = [face_of(each, frame.shape) for each in points]
        found = [face for face in found if (face.box[2:] - face.box[:2]).min() >= _SMALLEST]
        return sorted(found, key=lambda face: -int(np.prod(face.box[2:] - face.box[:2])))

    def _windows(self, frame: np.ndarray) -> list[np.ndarray]:
        """Square windows x1 y1 x2 y2, clipped to the frame, around the full-range detector's faces, largest first.

        The detector's input is 192 px. If it finds nothing in a large frame, it runs on overlapping parts of the frame.
        """
        height, width = frame.shape[:2]
        boxes = self._detections(frame)
        side = int(0.6 * max(height, width))
        if not boxes and side >= 192:
            for y in _tiles(height, side):
                for x in _tiles(width, side):
                    boxes += [
                        box + np.array([x, y, x, y]) for box in self._detections(frame[y : y + side, x : x + side])
                    ]
        windows: list[np.ndarray] = []
        for box in boxes:
            centre, half = (box[:2] + box[2:]) / 2, 1.25 * (box[2:] - box[:2]).max()
            window = np.concatenate([np.floor(centre - half), np.ceil(centre + half)])
            window = np.clip(window, 0, [width, height, width, height]).astype(int)
            new = all(overlap(window, other) < 0.3 for other in windows)  # overlapping parts may show the same face
            if new and (window[2:] - window[:2]).min() >= _SMALLEST:
                windows.append(window)
        return sorted(windows, key=lambda window: -int(np.prod(window[2:] - window[:2])))[: self._faces]

    def _detections(self, picture: np.ndarray) -> list[np.ndarray]:
        """Boxes x1 y1 x2 y2, in pixels, that the full-range detector finds."""
        height, width = picture.shape[:2]
        found = self._detector.process(np.ascontiguousarray(picture)).detections or []
        boxes = [detection.location_data.relative_bounding_box for detection in found]
        corners = [(box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height) for box in boxes]
        return [np.array(box) * [width, height, width, height] for box in corners]

    def _steadied(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Fit the mesh of a small face again, in a window around it; other faces' points are returned unchanged.

        The detector takes the whole frame at 128 px, so a small face's mesh is coarse and jitters between frames. For a
        face a tenth of the frame wide, the second fit halves the jitter.
        """
        height, width = frame.shape[:2]
        low, high = points.min(axis=0), points.max(axis=0)
        if high[0] - low[0] >= _SMALL * max(width, height):
            return points
        centre, half = (low + high) / 2, (high - low).max()
        window = np.concatenate([np.floor(centre - half), np.ceil(centre + half)])
        window = np.clip(window, 0, [width, height, width, height]).astype(int)
        if (window[2:] - window[:2]).min() < _SMALLEST:
            return points
        closer = self._look_closely(frame, window)
        same = closer and overlap(_bounds(closer[0], width, height), _bounds(points, width, height)) > 0.3
        return closer[0] if same else points

    def _levelled(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Fit the mesh of a tilted face again, in a window that shows it upright; other points are returned unchanged.

        The detector is less exact for tilted faces, and the mesh of one differs from that of the same face upright.
        """
        angle = roll(points)
        if abs(angle) < _TILTED:
            return points
        place = window(points, angle)
        closer = mesh_points(self._close_mesh, crop_face(frame, place, (_FITTED, _FITTED)))
        if not closer:
            return points
        level = place.to_frame(closer[0] / _FITTED)
        size = (points.max(axis=0) - points.min(axis=0)).max()
        return level if np.linalg.norm(level - points, axis=1).mean() < _SAME_MESH * size else points

    def _look_closely(self, frame: np.ndarray, window: np.ndarray) -> list[np.ndarray]:
        x1, y1, x2, y2 = window
        crop = np.ascontiguousarray(frame[y1:y2, x1:x2])
        scale = max(1.0, 512 / max(crop.shape[:2]))
        if scale > 1:
            crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        size = np.array([x2 - x1, y2 - y1]) / [crop.shape[1], crop.shape[0]]
        return [points * size + [x1, y1] for points in mesh_points(self._close_mesh, crop)]


def face_of(points: np.ndarray, shape: tuple[int, ...]) -> Face:
    """The face with mesh points (478, 2), in pixels of a frame of `shape` (H, W, ...)."""
    return Face(points.astype(np.float32), _bounds(points, shape[1], shape[0]).astype(np.int32))


def roll(points: np.ndarray) -> float:
    """The angle of the eye line of mesh points (478, 2), in radians, clockwise in the picture."""
    right, left = points[_EYE_CORNERS]
    return math.atan2(left[1] - right[1], left[0] - right[0])


def window(points: np.ndarray, angle: float) -> Place:
    """A square around mesh points (478, 2), twice as wide as the face, turned by `angle`."""
    low, high = points.min(axis=0), points.max(axis=0)
    (x, y), half = ((low + high) / 2).tolist(), float((high - low).max())
    return Place(x - half, y - half, x + half, y + half, angle)


def _bounds(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """`Face.box` of mesh points before truncation: (4,) float64."""
    landmarks = select131(np.asarray(points, np.float64))
    sides = np.concatenate([landmarks.min(axis=0) - _MARGIN, landmarks.max(axis=0) + _MARGIN])
    return np.clip(sides, 0, [width, height, width, height])


def _tiles(length: int, side: int) -> list[int]:
    """Starts of windows of `side` that cover `length` and overlap by a third or more."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * 2 / 3))) + 1
    return np.linspace(0, length - side, count).astype(int).tolist()


def mesh_points(mesh, frame: np.ndarray) -> list[np.ndarray]:
    """Mesh points in pixels of `frame`, one (478, 2) float64 array per face."""
    size = np.array([frame.shape[1], frame.shape[0]], np.float64)
    faces = mesh.process(frame).multi_face_landmarks or []
    points = [np.array([(point.x, point.y) for point in face.landmark]) * size for face in faces]
    return [each for each in points if np.isfinite(each).all()]


class _Silence:
    """Discards the process's stderr, which MediaPipe's C++ code writes to, while any thread is inside this context.

    MediaPipe has no switch for its messages. Threads share stderr, so they also share one redirection.
    """

    def __init__(self):
        self._lock, self._users, self._kept = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            sys.stderr.flush()
            try:
                self._kept = os.dup(2)
            except OSError:  # no stderr at all
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._kept is not None:
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = None


silence = _Silence()
_one_at_a_time = threading.Lock()  # MediaPipe does not document that two threads may set it up at once


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """The context in which MediaPipe's networks are set up."""
    with silence, _one_at_a_time:
        yield
