"""The place of a face crop in its frame, and cutting the crop out there."""

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Place:
    """A rectangle of a frame, which may be turned about its centre and may reach beyond the frame.

    left, top, right, bottom: its sides before it is turned, in pixels of the frame; left < right and top < bottom.
    angle: radians, clockwise in the picture; 0 is upright.
    """

    left: float
    top: float
    right: float
    bottom: float
    angle: float = 0.0

    @property
    def width(self) -> float:
        """In pixels of the frame."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels of the frame."""
        return self.bottom - self.top

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels of the frame."""
        return self.width, self.height

    def box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom as integers, if the crop is a plain slice of a frame of `width` by `height`."""
        sides = (self.left, self.top, self.right, self.bottom)
        inside = self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height
        if self.angle or not inside or any(side != int(side) for side in sides):
            return None
        return int(self.left), int(self.top), int(self.right), int(self.bottom)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Convert points (..., 2) from pixels of the frame to units of the crop, [0, 1] inside it; float32."""
        points = self.turned(np.asarray(points, np.float64), -self.angle)
        return ((points - [self.left, self.top]) / [self.width, self.height]).astype(np.float32)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_crop`; float64."""
        points = np.asarray(points, np.float64) * [self.width, self.height] + [self.left, self.top]
        return self.turned(points, self.angle)

    def turned(self, points: np.ndarray, angle: float) -> np.ndarray:
        """Points (..., 2) in pixels of the frame, turned by `angle` about the place's centre."""
        if not angle:
            return points
        centre = np.array([self.left + self.right, self.top + self.bottom]) / 2
        cosine, sine = math.cos(angle), math.sin(angle)
        return (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre

    @property
    def corners(self) -> np.ndarray:
        """(4, 2) float64 pixels of the frame: the crop's upper left, upper right, lower right and lower left corner."""
        return self.to_frame(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]))

    def within(self, box: np.ndarray, scale: tuple[float, float]) -> "Place":
        """This place in a picture of the part `box` (4,) of the frame, resized by `scale` (across, down).

        A turned place keeps its form only where both scales are equal.
        """
        (x, y), (across, down) = box[:2], scale
        left, right = ((side - x) * across for side in (self.left, self.right))
        top, bottom = ((side - y) * down for side in (self.top, self.bottom))
        return Place(left, top, right, bottom, self.angle)

    def part(self, left: float, top: float, right: float, bottom: float) -> "Place":
        """The part of this place within such sides, in units of the crop."""
        (x, y), wide, tall = self.to_frame(np.array([left + right, top + bottom]) / 2), right - left, bottom - top
        across, down = wide * self.width / 2, tall * self.height / 2
        return Place(x - across, y - down, x + across, y + down, self.angle)

    def matrix(self, width: int, height: int) -> np.ndarray:
        """(2, 3) float64: from pixel centres of the crop at `width` by `height` to pixel centres of the frame."""
        origin, across, down = self.to_frame(np.array([[0, 0], [1, 0], [0, 1]]))
        linear = np.stack([(across - origin) / width, (down - origin) / height], axis=1)
        return np.concatenate([linear, (origin + linear @ [0.5, 0.5] - 0.5)[:, None]], axis=1)


def crop_face(frame: np.ndarray, place: Place, shape: tuple[int, int]) -> np.ndarray:
    """Cut `place` out of `frame` (H, W, 3) uint8 and resize it to `shape` (height, width): (height, width, 3).

    A frame of one channel (H, W) gives (height, width).

    Pixels beyond the frame repeat its border.
    """
    height, width = shape
    box = place.box(frame.shape[1], frame.shape[0])
    if box is not None:
        left, top, right, bottom = box
        return resize(frame[top:bottom, left:right], width, height)
    # Read at a multiple of the crop's size, at which no pixel of the frame is passed over, and averaged from there.
    across, down = (max(1, math.ceil(n - 1e-9)) for n in (place.width / width, place.height / height))
    read = cv2.warpAffine(
        frame,
        place.matrix(width * across, height * down),
        (width * across, height * down),
        flags=(cv2.INTER_CUBIC if across == down == 1 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return read if across == down == 1 else cv2.resize(read, (width, height), interpolation=cv2.INTER_AREA)


def shrunk_crop(frame: np.ndarray, place: Place, shape: tuple[int, int]) -> np.ndarray:
    """`crop_face` for a small `shape`: a large face is halved first while it stays twice that size, which is faster."""
    halvings = int(math.log2(max(1.0, place.height / (2 * shape[0]))))
    side, limits, corners = 2**halvings, np.array(frame.shape[1::-1]), place.corners
    low, high = (np.clip(line, 0, limits) for line in (np.floor(corners.min(axis=0)), corners.max(axis=0)))
    high = np.minimum(low + np.ceil((high - low) / side) * side, limits)
    low = np.maximum(high - np.ceil((high - low) / side) * side, 0)
    (x1, y1), (x2, y2) = (line.astype(int) for line in (low, low + (high - low) // side * side))
    if not halvings or x2 <= x1 or y2 <= y1:
        return crop_face(frame, place, shape)
    part = frame[y1:y2, x1:x2]
    for _ in range(halvings):
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return crop_face(part, place.within(low, (1 / side, 1 / side)), shape)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize: area averaging when shrinking, so that fine texture does not alias; cubic when enlarging."""
    shrinks = image.shape[0] * image.shape[1] > width * height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2, in [0, 1]."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None), dtype=np.float64)
    union = np.prod(a[2:] - a[:2], dtype=np.float64) + np.prod(b[2:] - b[:2], dtype=np.float64) - shared
    return float(shared / union) if union > 0 else 0.0
