"""Faces at any angle and at the border: finds those that are upside down, or cut by the border of the frame.

MediaPipe's detector finds faces up to 90 degrees from upright. Beyond that it finds none, or its mesh lies upright over
an inverted face. The detector's score of the face, turned upright by its mesh, tells such a mesh.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from media.crop import CropForm
from media.face import Face, face_of, mesh_points, opened, roll, silence, window
from media.place import Place, crop_face, overlap, shrunk_crop

_EVERY = 12  # a face is examined in every twelfth frame, and wherever it looks wrong
_EMPTY = 5  # of the frames without a face, every fifth is searched in all directions
_UPRIGHT = 0.82  # score of the detector; upright faces have a higher one, others a lower one
_CUT = 0.65  # least score of a face that is cut by the border
_BETTER = 0.1  # by so much the score of the inverted face is higher
_SAME_PLACE = 0.3  # overlap of two boxes of a face
_SIDE = 128  # px of the picture that the detector takes
_PADDING = 0.3  # of the frame's longer side: margin in which its border is repeated
_FITTED = 512  # px of the picture that the mesh is fitted to

# Weights of an upright face's grey levels, the left half, standardised, rows from top to bottom: a linear discriminant
# of right meshes and of those that lie over inverted faces.
_APPEARANCE = CropForm(height=16, width=16, framing="upright")
_WEIGHTS = np.array(
    [
        [5, -5, 3, 10],
        [-1, -7, -6, 4],
        [-2, 0, -10, -3],
        [2, 4, 7, 1],
        [2, 2, 2, -6],
        [1, -2, 6, -7],
        [3, -4, 0, 7],
        [-2, -2, 0, -2],
    ]
)
_BIAS, _WRONG = -17.4, 15.0  # of the discriminant; a lower value is examined


def looks_wrong(frame: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether a face with mesh points (478, 2) in `frame` (H, W, 3) uint8 may be no upright face's mesh."""
    crop = shrunk_crop(frame, _APPEARANCE.place(landmarks), _APPEARANCE.shape)
    levels = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
    levels = (levels + levels[:, ::-1]) / 2
    levels = (levels - levels.mean()) / max(float(levels.std()), 1.0)
    return float((levels[:, :4] * _WEIGHTS).sum()) + _BIAS < _WRONG


class TurnedFaces:
    """Corrects the faces that a `FaceTracker` found in consecutive frames. Holds MediaPipe's networks while open.

    Args:
        faces: maximum number of faces to find in a frame.
    """

    def __init__(self, faces: int):
        self._faces = faces
        self._number = 0
        self._examined: list[tuple[int, np.ndarray, bool]] = []  # frame, box, whether it was searched for
        self._empty = 0
        self._graphs: dict[str, Any] = {}

    def _graph(self, name: str) -> Any:
        """The network `name`: detector, mesh (of all faces of a picture) or close_mesh (of one). Loaded when needed."""
        if name not in self._graphs:
            with opened():
                from mediapipe.python.solutions import face_detection, face_mesh

                if name == "detector":
                    graph = face_detection.FaceDetection(model_selection=0, min_detection_confidence=0.1)
                else:
                    faces = self._faces if name == "mesh" else 1
                    graph = face_mesh.FaceMesh(static_image_mode=True, max_num_faces=faces, refine_landmarks=True)
                graph.process(np.zeros((64, 64, 3), np.uint8))  # loads the network, which writes to stderr
            self._graphs[name] = graph
        return self._graphs[name]

    def close(self) -> None:
        for graph in self._graphs.values():
            graph.close()

    def corrected(self, frame: np.ndarray, found: list[Face], interpolated: bool = False) -> list[Face]:
        """The faces of the next frame (H, W, 3) uint8, of which `FaceTracker.find` found some.

        interpolated: the faces follow from those of the frames next to it, which are examined.
        """
        frame = np.ascontiguousarray(frame)
        self._number += 1
        self._examined = [each for each in self._examined if self._number - each[0] < _EVERY]
        if found:
            self._empty = 0
            return [self._righted(frame, face, interpolated) for face in found]
        hint = any(searched for _, _, searched in self._examined)
        self._empty += 1
        return self._searched(frame) if hint or self._empty % _EMPTY == 1 else []

    def _righted(self, frame: np.ndarray, face: Face, interpolated: bool) -> Face:
        """`face`, or the one that is there upside down."""
        known = [searched for _, box, searched in self._examined if overlap(box, face.box) > _SAME_PLACE]
        suspect = any(known)
        if not known and not interpolated:
            suspect = self._number % _EVERY == 1 or looks_wrong(frame, face.landmarks)
        if not suspect:
            return face
        angle = roll(face.landmarks)
        place = window(face.landmarks, angle)
        score = self._score(frame, place)
        turned = _turned(place, math.pi)
        if score < _UPRIGHT and self._score(frame, turned) > max(score + _BETTER, _UPRIGHT):
            meshes = self._meshes("close_mesh", crop_face(frame, turned, (_FITTED, _FITTED)))
            if meshes:
                other = face_of(turned.to_frame(meshes[0] / _FITTED), frame.shape)
                self._examined.append((self._number, other.box, True))
                return other
        self._examined.append((self._number, face.box, False))
        return face

    def _searched(self, frame: np.ndarray) -> list[Face]:
        """The faces that are found in the frame with a margin, at which a face is whole, upright or turned."""
        margin = round(_PADDING * max(frame.shape[:2]))
        padded = cv2.copyMakeBorder(frame, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        height, width = padded.shape[:2]
        for quarters in (0, 2, 1, 3):
            faces = []
            for mesh in self._meshes("mesh", np.ascontiguousarray(np.rot90(padded, quarters))):
                x, y = mesh.T
                # np.rot90 turns anticlockwise: by a quarter, x, y of the turned picture are y, width - x of the frame.
                points = {0: (x, y), 1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]
                other = face_of(np.stack(points, axis=1) - margin, frame.shape)
                place = window(other.landmarks, roll(other.landmarks))
                scores = [self._score(frame, _turned(place, quarter * math.pi / 2)) for quarter in range(4)]
                if scores[0] > _CUT and scores[0] == max(scores):
                    faces.append(other)
            if faces:
                self._examined += [(self._number, face.box, True) for face in faces]
                return faces
        return []

    def _meshes(self, name: str, picture: np.ndarray) -> list[np.ndarray]:
        graph = self._graph(name)
        with silence:  # MediaPipe warns at its first face
            return mesh_points(graph, picture)

    def _score(self, frame: np.ndarray, place: Place) -> float:
        found = self._graph("detector").process(shrunk_crop(frame, place, (_SIDE, _SIDE))).detections or []
        return max((detection.score[0] for detection in found), default=0.0)


def _turned(place: Place, angle: float) -> Place:
    return dataclasses.replace(place, angle=place.angle + angle)
