"""The geometry of a face crop: its form, its place in the frame, cutting it out and pasting it back."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from media.errors import InputError
from media.landmarks import ORDER, OVAL_POINTS

FRAMINGS = ("landmark_box", "dinet", "upright")
PICTURE = ("framing", "margin", "height", "width")  # the fields on which a crop's pixels depend

_RELEASED_MARGIN = 5  # px of the frame, in the released code
_TOUCHES = 1e-6  # px; a pixel is hidden if the hidden rectangle reaches further into it


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return str(list(value) if isinstance(value, tuple) else value)


def _unusable(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"crop.{name}={_written(value)} cannot be; it is {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _touched(start: float, stop: float, length: int) -> slice:
    return slice(math.floor(start * length + _TOUCHES), math.ceil(stop * length - _TOUCHES))


@dataclass(frozen=True)
class CropForm:
    """The form of a face crop: the part of a frame that it shows, its size, and its hidden part.

    Raises:
        InputError: a field has a value that it cannot have; the message names the field.
    """

    height: int = 128  # px of the crop; a name (stsa, stsa-256, g4g, upright) in place of the section `crop` sets all
    width: int = 128  # px of the crop
    # The part of the frame. landmark_box (STSA): the box of the 131 landmarks and a margin, stretched to the crop.
    # dinet (G4G): keeps the aspect ratio. upright: rotated by the eye line and framed by the upper face.
    framing: str = "landmark_box"
    margin: float | None = None  # added to the box on each side, share of its width or height; null: 5 px of the frame
    # Left, top, right and bottom of the rectangle that is masked and generated, in units of the crop.
    hidden: tuple[float, float, float, float] = (0.0, 0.5, 1.0, 1.0)
    guidance: int = 128  # px, side of the heatmaps

    def __post_init__(self):
        for name in ("height", "width", "guidance"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise _unusable(name, value, "a number of pixels, 1 or more")
        if self.framing not in FRAMINGS:
            raise _unusable("framing", self.framing, " or ".join(FRAMINGS))
        if self.margin is not None and not (_is_number(self.margin) and 0 <= self.margin <= 1):
            raise _unusable("margin", self.margin, "a share of the box, 0 to 1, or null for 5 pixels of the frame")
        hidden = self.hidden
        rectangle = isinstance(hidden, Sequence) and len(hidden) == 4 and all(map(_is_number, hidden))
        if not rectangle or not (0 <= hidden[0] < hidden[2] <= 1 and 0 <= hidden[1] < hidden[3] <= 1):
            raise _unusable("hidden", hidden, "left, top, right and bottom in [0, 1], left < right and top < bottom")
        object.__setattr__(self, "hidden", tuple(map(float, hidden)))  # a config's list too

    @classmethod
    def square(cls, side: int) -> "CropForm":
        """STSA's form at another size, with heatmaps of that size; `size: N` in older configs."""
        return cls(height=side, width=side, guidance=side)

    @classmethod
    def read(cls, fields: Any, source: str) -> "CropForm":
        """The form whose `dataclasses.asdict` is `fields`; InputError, naming `source`, if there is none."""
        if not isinstance(fields, Mapping):
            raise InputError(f"{source}: crop is {fields!r:.60}; give a section with {', '.join(_FIELDS)}")
        unknown = [str(name) for name in fields if name not in _FIELDS]
        if unknown:
            raise InputError(f"{source}: crop has no field {unknown[0]}; it has {', '.join(_FIELDS)}")
        try:
            return cls(**fields)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def hidden_pixels(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels that the hidden rectangle touches; index (..., height, width) with them."""
        left, top, right, bottom = self.hidden
        return _touched(top, bottom, self.height), _touched(left, right, self.width)

    def hidden_mask(self) -> np.ndarray:
        """(height, width) bool: True where the crop is hidden and generated."""
        mask = np.zeros(self.shape, bool)
        mask[self.hidden_pixels] = True
        return mask

    def bounds(self, landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
        """Bounds of the crop, clipped to the frame: (4,) float64 x1 y1 x2 y2.

        Args:
            landmarks: (478, 2) or (131, 2), pixels of a frame of `width` by `height`.

        Raises:
            InputError: the framing cannot be cut; see `check_framing`.
        """
        self.check_framing()
        points = select131(np.asarray(landmarks, np.float64))
        low, high = points.min(axis=0), points.max(axis=0)
        margin = _RELEASED_MARGIN if self.margin is None else self.margin * (high - low)
        return np.clip(np.concatenate([low - margin, high + margin]), 0, [width, height, width, height])

    def box(self, landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
        """`bounds` truncated to whole pixels: (4,) int32 x1 y1 x2 y2, x2 and y2 exclusive."""
        return self.bounds(landmarks, width, height).astype(np.int32)

    def check_framing(self) -> None:
        """InputError where the framing cannot be cut out of a frame yet."""
        if self.framing != "landmark_box":
            raise InputError(
                f"crop.framing={self.framing} cannot be cut out of a frame yet; use landmark_box (crop=stsa, stsa-256)"
            )

    def difference(self, other: "CropForm", fields: Sequence[str] | None = None) -> str:
        """Name of the first of `fields` (None: all) in which two forms differ; empty if they agree."""
        names = _FIELDS if fields is None else fields
        return next((name for name in names if getattr(self, name) != getattr(other, name)), "")


_FIELDS = tuple(field.name for field in dataclasses.fields(CropForm))

STSA = CropForm()

#: The named forms, for `data_prep.preprocess --crop NAME` and `crop: NAME` in a network's config.
CROPS = {
    "stsa": STSA,
    "stsa-256": CropForm(height=256, width=256),
    "g4g": CropForm(height=416, width=320, framing="dinet", hidden=(32 / 320, 128 / 416, 288 / 320, 384 / 416)),
    "upright": CropForm(height=256, width=256, framing="upright"),
}


def named_crop(name: str) -> CropForm:
    """The entry of `CROPS`; InputError if there is none."""
    if name not in CROPS:
        raise InputError(f"crop={name} is unknown; use {', '.join(CROPS)}, or a section with its fields")
    return CROPS[name]


def check_same_crop(
    ours: CropForm, holder: str, theirs: CropForm, other: str, remedy: str, fields: Sequence[str] | None = None
) -> None:
    """InputError, naming `holder`, `other` and the field, where their forms differ in one of `fields` (None: all)."""
    name = ours.difference(theirs, fields)
    if name:
        mine, its = (_written(getattr(form, name)) for form in (ours, theirs))
        raise InputError(f"{holder} has crop.{name}={mine}, {other} has {its}; {remedy}")


_ORDER = np.array(ORDER)


def select131(landmarks: np.ndarray) -> np.ndarray:
    """Select the 131 landmarks, in `ORDER`, from (..., 478, 2) mesh points; (..., 131, 2) is returned unchanged."""
    if landmarks.shape[-2] == len(ORDER):
        return landmarks
    if landmarks.shape[-2] != 478:
        raise ValueError(f"landmarks must be (..., 478, 2) or (..., {len(ORDER)}, 2), not {landmarks.shape}")
    return landmarks[..., _ORDER, :]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2, in [0, 1]."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None), dtype=np.float64)
    union = np.prod(a[2:] - a[:2], dtype=np.float64) + np.prod(b[2:] - b[:2], dtype=np.float64) - shared
    return float(shared / union) if union > 0 else 0.0


def crop_face(frame: np.ndarray, box: np.ndarray, form: CropForm) -> np.ndarray:
    """Cut `box`, from `CropForm.box`, out of `frame` (H, W, 3) uint8: (form.height, form.width, 3)."""
    x1, y1, x2, y2 = (int(side) for side in box)
    return resize(frame[y1:y2, x1:x2], form.width, form.height)


def to_crop(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Convert landmarks (..., 2) from pixels of the frame to units of `box`, [0, 1] inside it; float32."""
    box = np.asarray(box, np.float64)
    return ((landmarks - box[:2]) / (box[2:] - box[:2])).astype(np.float32)


def paste_face(
    frame: np.ndarray, face: np.ndarray, box: np.ndarray, landmarks: np.ndarray, form: CropForm
) -> np.ndarray:
    """Paste the hidden part of `face` into `frame` at `box`, blended inside the face's contour.

    The blending weight is 0 outside the convex hull of the face oval: pixels there keep their exact values. Inside, it
    rises over a Gaussian-blurred edge. STSA's code blurs 21 px with sigma 11. Here the blur scales with the box and has
    these values for a box of 256 px.

    Args:
        frame: (H, W, 3) uint8.
        face: (h, w, 3) uint8, of any size.
        box: (4,) x1 y1 x2 y2 in the frame.
        landmarks: (478, 2) or (131, 2), pixels of the frame; they give the contour.
        form: only its `hidden` rectangle is pasted.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    x1, y1, x2, y2 = (int(side) for side in box)
    blended = frame.copy()
    if x2 <= x1 or y2 <= y1:
        return blended
    weight = paste_weight((frame.shape[0], frame.shape[1]), (x1, y1, x2, y2), landmarks, form)
    region = np.ascontiguousarray(frame[y1:y2, x1:x2])
    face = resize(face, x2 - x1, y2 - y1)
    blended[y1:y2, x1:x2] = cv2.blendLinear(face, region, weight, 1 - weight)
    return blended


def paste_weight(shape: tuple[int, int], box: tuple[int, ...], landmarks: np.ndarray, form: CropForm) -> np.ndarray:
    """Weight of the pasted face over its box, (y2 - y1, x2 - x1) float32: 0 outside contour and hidden rectangle."""
    x1, y1, x2, y2 = box
    height, width = shape
    # The hull first shrinks by the blur's reach, so that the blurred edge ends at the hull.
    reach = max(1, round(10 * max(x2 - x1, y2 - y1) / 256))
    contour = select131(np.asarray(landmarks))[OVAL_POINTS] - [x1 - reach, y1 - reach]
    hull = cv2.convexHull(np.rint(contour).astype(np.int32))
    mask = np.zeros((y2 - y1 + 2 * reach, x2 - x1 + 2 * reach), np.uint8)
    cv2.fillConvexPoly(mask, hull, (255,))
    # Nothing is pasted beyond the hidden rectangle, so the edge lies inside it, except along the frame's border.
    tall, wide = y2 - y1, x2 - x1
    left, top, right, bottom = form.hidden
    above, below = round(top * tall), round((1 - bottom) * tall)
    before, behind = round(left * wide), round((1 - right) * wide)
    mask[: reach + above if y1 > 0 or above else 0] = 0
    mask[mask.shape[0] - reach - below if y2 < height or below else mask.shape[0] :] = 0
    mask[:, : reach + before if x1 > 0 or before else 0] = 0
    mask[:, mask.shape[1] - reach - behind if x2 < width or behind else mask.shape[1] :] = 0

    side = 2 * reach + 1
    blurred = cv2.GaussianBlur(cv2.erode(mask, np.ones((side, side), np.uint8)), (side, side), 11 / 21 * side)
    return blurred[reach:-reach, reach:-reach].astype(np.float32) / 255


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize: area averaging when shrinking, so that fine texture does not alias; cubic when enlarging."""
    shrinks = image.shape[0] * image.shape[1] > width * height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
