"""The form of a face crop: what part of a frame it shows, its size, and its hidden part."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from media.errors import InputError
from media.landmarks import NOSE_BASE, TRACKED, edges_of, position_of, positions_of, select131, tracked
from media.place import Place

FRAMINGS = ("landmark_box", "dinet", "upright")
PICTURE = ("framing", "margin", "height", "width")  # the fields on which a crop's pixels depend

_RELEASED_MARGIN = 5  # px of the frame, in the released code

# DINet's framing, from the points that stand for 29 (bridge of the nose), 33 (nose base), the chin, and 48 and 54
# (corners of the mouth) of the 68 points (DINet's data processing).
_BRIDGE, _CHIN, _MOUTH_CORNERS = position_of(195), position_of(152), [position_of(61), position_of(291)]
_BASE = position_of(NOSE_BASE)
_DINET_MARGIN = 0.05  # of the radius
_DINET_HEIGHT, _DINET_ABOVE = 3.25, 1.0  # in radii: the crop's height, and its part above the bridge of the nose

# The upright framing. A crop's height is some multiple of the root mean square distance of the upper face's landmarks
# from their mean: this radius follows neither the jaw nor, by more than 2 %, a turn of the head. With these values
# the nose's tip lies above the middle and the mouth below it, and an open mouth's chin lies within the crop.
_UPPER_FACE = positions_of(
    edges_of("nose", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "face_oval_upper")
)
_EYES = [positions_of(edges_of(side)) for side in ("right_eye", "left_eye")]  # as the person has them
_UPRIGHT_HEIGHT, _UPRIGHT_BELOW = 4.6, 0.85  # in radii: the crop's height, and its centre below the landmarks' mean
_TILTED = math.radians(8), math.radians(14)  # a face that is tilted by less is level; by more, it is turned upright
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


def _tilt(points: np.ndarray) -> float:
    """The angle by which a crop is turned with a face: its eye line's, or less if the face is almost level."""
    landmarks = select131(np.asarray(points, np.float64))
    right, left = (landmarks[eye].mean(axis=0) for eye in _EYES)
    angle = math.atan2(left[1] - right[1], left[0] - right[0])
    return angle * min(max((abs(angle) - _TILTED[0]) / (_TILTED[1] - _TILTED[0]), 0.0), 1.0)


@dataclass(frozen=True)
class CropForm:
    """The form of a face crop: the part of a frame that it shows, its size, and its hidden part.

    Raises:
        InputError: a field has a value that it cannot have; the message names the field.
    """

    # px of the crop; a name (stsa, stsa-256, g4g, g4g-128, g4g-64, upright) in place of the section `crop` sets all
    height: int = 128
    width: int = 128  # px of the crop
    # The part of the frame. landmark_box (STSA): the box of the 131 landmarks and a margin, stretched to the crop.
    # dinet (G4G): keeps the aspect ratio. upright: rotated by the eye line and framed by the upper face.
    framing: str = "landmark_box"
    # Added on each side, share of the box's width or height (landmark_box, upright) or of the radius (dinet); null is
    # 5 px of the frame (landmark_box), 0 (upright), 0.05 (dinet).
    margin: float | None = None
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

    def coarse(self) -> "CropForm":
        """This form at the smallest integer fraction of its size that is as large as STSA's, or itself."""
        part = max(1, min(self.height // CropForm.height, self.width // CropForm.width))
        return dataclasses.replace(self, height=self.height // part, width=self.width // part)

    def place(self, points: np.ndarray, window: np.ndarray | None = None, level: bool = False) -> Place:
        """The crop's place in a frame, in pixels; it may reach beyond the frame.

        Args:
            points: (478, 2) mesh points or (132, 2) tracked ones, in pixels of the frame. landmark_box also takes the
                (131, 2) landmarks.
            window: (T, 478 or 132, 2), the points of a window's frames, of which dinet takes the largest scale. None:
                of this frame alone.
            level: turn landmark_box and dinet with a face that is tilted by more than 8 degrees; from 14 degrees on the
                crop shows it upright. upright always does.
        """
        angle = _tilt(points) if level and self.framing != "upright" else 0.0
        if angle:
            return self._tilted(np.asarray(points, np.float64), window, angle)
        points = np.asarray(points, np.float64)
        if self.framing == "landmark_box":
            return self._landmark_box(select131(points))
        points = points if len(points) == len(TRACKED) else tracked(points)
        if self.framing == "dinet":
            others = points[None] if window is None else np.asarray(window, np.float64)
            return self._dinet(points, others if others.shape[1] == len(TRACKED) else tracked(others))
        return self._upright(points)

    def _tilted(self, points: np.ndarray, window: np.ndarray | None, angle: float) -> Place:
        """The place in the frame, turned about the middle of `points` by -`angle`, turned back."""
        x, y = points.mean(axis=0).tolist()
        pivot = Place(x - 1, y - 1, x + 1, y + 1, angle)
        others = None if window is None else pivot.turned(np.asarray(window, np.float64), -angle)
        place = self.place(pivot.turned(points, -angle), others)
        middle = np.array([place.left + place.right, place.top + place.bottom]) / 2
        x, y = (pivot.turned(middle, angle) - middle).tolist()
        return Place(place.left + x, place.top + y, place.right + x, place.bottom + y, angle)

    def _landmark_box(self, landmarks: np.ndarray) -> Place:
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        margin = _RELEASED_MARGIN if self.margin is None else self.margin * (high - low)
        left, top, right, bottom = np.floor([*(low - margin), *(high + margin)]).tolist()  # whole pixels, as released
        return Place(left, top, max(right, left + 1), max(bottom, top + 1))

    def _dinet(self, points: np.ndarray, window: np.ndarray) -> Place:
        corners = window[:, _MOUTH_CORNERS, 0]
        extents = np.stack([window[:, _CHIN, 1] - window[:, _BRIDGE, 1], corners[:, 1] - corners[:, 0]])
        radius = max(float(extents.max()), 1.0) / 2 * (1 + (_DINET_MARGIN if self.margin is None else self.margin))
        height = _DINET_HEIGHT * radius
        across = height * self.width / self.height / 2
        x, top = float(points[_BASE, 0]), float(points[_BRIDGE, 1]) - _DINET_ABOVE * radius
        return Place(x - across, top, x + across, top + height)

    def _upright(self, points: np.ndarray) -> Place:
        upper = points[_UPPER_FACE]
        mean = upper.mean(axis=0)
        radius = max(float(np.sqrt(((upper - mean) ** 2).sum(axis=1).mean())), 1.0)
        right, left = (points[eye].mean(axis=0) for eye in _EYES)
        angle = float(np.arctan2(left[1] - right[1], left[0] - right[0]))
        down = np.array([-np.sin(angle), np.cos(angle)])
        x, y = (mean + _UPRIGHT_BELOW * radius * down).tolist()
        height = _UPRIGHT_HEIGHT * radius * (1 + 2 * (self.margin or 0))
        half_width, half_height = height * self.width / self.height / 2, height / 2
        return Place(x - half_width, y - half_height, x + half_width, y + half_height, angle)

    def difference(self, other: "CropForm", fields: Sequence[str] | None = None) -> str:
        """Name of the first of `fields` (None: all) in which two forms differ; empty if they agree."""
        names = _FIELDS if fields is None else fields
        return next((name for name in names if getattr(self, name) != getattr(other, name)), "")


_FIELDS = tuple(field.name for field in dataclasses.fields(CropForm))

STSA = CropForm()

_G4G = CropForm(height=416, width=320, framing="dinet", hidden=(32 / 320, 128 / 416, 288 / 320, 384 / 416))

#: The named forms, for `crop: NAME` in a network's config.
CROPS = {
    "stsa": STSA,
    "stsa-256": CropForm(height=256, width=256),
    "g4g": _G4G,  # the mouth region has 256x256 pixels
    "g4g-128": dataclasses.replace(_G4G, height=208, width=160),  # the same part of the frame, its mouth 128x128
    "g4g-64": dataclasses.replace(_G4G, height=104, width=80),
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
