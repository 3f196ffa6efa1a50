"""`CropForm`: what a crop shows, what it hides, and which values it refuses."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from dubbing.paste import match_colour, paste_face, paste_weight
from media.crop import (
    CROPS,
    PICTURE,
    STSA,
    CropForm,
    check_same_crop,
    named_crop,
)
from media.errors import InputError
from media.landmarks import ORDER, OVAL_POINTS
from media.place import Place, crop_face


def landmarks(low=(40.0, 30.0), high=(80.0, 90.0)) -> np.ndarray:
    """(131, 2) points that fill the box between two corners."""
    inside = np.random.RandomState(0).rand(len(ORDER), 2)
    inside[0], inside[1] = 0, 1
    return np.array(low) + inside * (np.array(high) - low)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (None, [35, 25, 85, 95]),  # the released 5 px
        (0.0, [40, 30, 80, 90]),
        (0.25, [30, 15, 90, 105]),  # of 40 px and of 60 px
    ],
)
def test_landmark_box_is_the_landmarks_bounds_and_a_margin(margin, expected):
    form = CropForm(margin=margin)
    place = form.place(landmarks())
    assert place == Place(*expected) and place.box(200, 200) == tuple(expected)
    assert place.box(84, 50) is None  # it leaves such a frame
    assert form.place(landmarks() + 0.75) == place  # whole pixels
    mesh = np.full((478, 2), 1e6)  # only the 131 count
    mesh[list(ORDER)] = landmarks()
    assert form.place(mesh) == place


def test_crop_has_the_forms_shape():
    frame = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)
    crop = crop_face(frame, Place(10, 5, 40, 25), (20, 30))
    np.testing.assert_array_equal(crop, frame[5:25, 10:40])
    assert crop_face(frame, Place(10, 5, 40, 25), CROPS["g4g"].shape).shape == (416, 320, 3)


@pytest.mark.parametrize("side", [1, 2, 5, 64, 101, 128, 255])
def test_stsa_hides_the_rows_from_half_the_height_on(side):
    form = CropForm(height=side, width=side + 3)
    expected = np.zeros(form.shape, bool)
    expected[side // 2 :] = True
    np.testing.assert_array_equal(form.hidden_mask(), expected)


def test_a_pixel_that_the_rectangle_touches_is_hidden():
    rows, columns = CropForm(height=7, width=10, hidden=(0.15, 2 / 7, 0.75, 0.5)).hidden_pixels
    assert (rows, columns) == (slice(2, 4), slice(1, 8))


def test_named_forms():
    assert CROPS["stsa"] == CropForm() == STSA
    assert (STSA.shape, STSA.framing, STSA.guidance) == ((128, 128), "landmark_box", 128)
    assert CROPS["stsa-256"] == dataclasses.replace(STSA, height=256, width=256)
    # DINet with S = 256: the mouth is S x S pixels, S/2 from the top and S/8 from the left.
    assert CROPS["g4g"].shape == (416, 320)
    assert CROPS["g4g"].hidden_pixels == (slice(128, 384), slice(32, 288))
    assert (CROPS["g4g"].framing, CROPS["upright"].framing) == ("dinet", "upright")
    assert CROPS["upright"].shape == (256, 256)
    with pytest.raises(
        InputError, match=r"^crop=stsa-512 is unknown; use stsa, stsa-256, g4g, g4g-128, g4g-64, upright"
    ):
        named_crop("stsa-512")


@pytest.mark.parametrize("name", CROPS)
def test_every_form_can_be_written_down_and_read(name):
    text = json.dumps(dataclasses.asdict(CROPS[name]))
    assert CropForm.read(json.loads(text), "here") == CROPS[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 0),
        ("height", 12.5),
        ("width", True),
        ("width", "128"),
        ("guidance", -1),
        ("framing", "tight"),
        ("margin", -0.1),
        ("margin", float("nan")),
        ("hidden", (0, 0.5, 1)),
        ("hidden", (0, 0.5, 1, 1.2)),
        ("hidden", (0.6, 0, 0.4, 1)),
        ("hidden", (0, 1, 1, 1)),
        ("hidden", "half"),
        ("hidden", (0, "a", 1, 1)),
    ],
)
def test_a_field_that_cannot_be_is_named(name, value):
    with pytest.raises(InputError, match=rf"^crop\.{name}="):
        CropForm(**{name: value})
    with pytest.raises(InputError, match=rf"^clip file c: crop\.{name}="):
        CropForm.read({name: value}, "clip file c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"side": 128}, "crop has no field side"), ([1], r"crop is \[1\]"), ("stsa", "crop is 'stsa'")],
)
def test_what_is_no_form_is_refused(fields, message):
    with pytest.raises(InputError, match=f"^here: {message}"):
        CropForm.read(fields, "here")


def test_forms_are_compared_field_by_field():
    wider = dataclasses.replace(STSA, hidden=(0, 0.4, 1, 1), width=160)
    assert STSA.difference(STSA) == ""
    assert (STSA.difference(wider), STSA.difference(wider, PICTURE)) == ("width", "width")
    assert STSA.difference(dataclasses.replace(wider, width=128), PICTURE) == ""
    check_same_crop(STSA, "a", CropForm(), "b", "do this")
    with pytest.raises(
        InputError, match=r"^a has crop\.hidden=\[0\.0, 0\.5, .*, b has \[0\.0, 0\.4, 1\.0, 1\.0\]; do this$"
    ):
        check_same_crop(STSA, "a", wider, "b", "do this", ["hidden"])
    with pytest.raises(InputError, match=r"^a has crop\.margin=null, b has 0.1; do this$"):
        check_same_crop(STSA, "a", CropForm(margin=0.1), "b", "do this")


def contour(box: np.ndarray) -> np.ndarray:
    """(131, 2) landmarks whose oval is the circle in `box`."""
    points = np.tile((box[:2] + box[2:]) / 2, (len(ORDER), 1)).astype(np.float64)
    angles = np.linspace(0, 2 * np.pi, len(OVAL_POINTS), endpoint=False)
    points[OVAL_POINTS] += np.stack([np.cos(angles), np.sin(angles)], 1) * (box[2:] - box[:2]) / 2
    return points


@pytest.mark.parametrize("form", [STSA, CROPS["g4g"], CropForm(hidden=(0.25, 0.125, 0.5, 0.75))])
def test_only_the_hidden_rectangle_is_pasted(form):
    box = np.array([20, 10, 180, 218])
    place = Place(*box.tolist())
    (x1, y1, x2, y2), part = paste_weight((240, 200), place, contour(box), form)
    assert x1 >= 20 and y1 >= 10 and x2 <= 180 and y2 <= 218
    weight = np.zeros((240, 200), np.float32)
    weight[y1:y2, x1:x2] = part
    weight = weight[10:218, 20:180]
    left, top, right, bottom = np.array(form.hidden) * [160, 208, 160, 208]
    inside = np.zeros((208, 160), bool)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    assert (weight[~inside] == 0).all()
    centre = round((top + bottom) / 2), round((left + right) / 2)
    assert weight[centre] == 1
    frame = np.full((240, 200, 3), 90, np.uint8)
    face = np.full((*form.shape, 3), 90, np.uint8)
    face[form.hidden_mask()] = 200
    pasted = paste_face(frame, match_colour(face, np.full_like(face, 90), form), place, contour(box), form)
    np.testing.assert_array_equal(pasted[10:218, 20:180][~inside], 90)
    assert (pasted[10:218, 20:180][centre] == 200).all()


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("side", [60, 160, 330, 700])
def test_the_weights_edge_is_the_released_gaussian(side, angle):
    box = np.array([20, 20, 20 + side, 20 + side])
    place = Place(20, 20, 20 + side, 20 + side, angle)
    frame = (side + 40, side + 40)
    hull, hidden = (np.zeros(frame, np.uint8) for _ in range(2))
    cv2.fillConvexPoly(hull, cv2.convexHull(np.rint(contour(box)[OVAL_POINTS]).astype(np.int32)), (1,))
    if angle:
        corners = place.to_frame(np.array([[0, 0.5], [1, 0.5], [1, 1], [0, 1]]))
        cv2.fillConvexPoly(hidden, np.rint(corners - 0.5).astype(np.int32), (1,))
    else:
        hidden[20 + side // 2 : 20 + side, 20 : 20 + side] = 1
    reach = max(1, round(10 * side / 256))
    width = 2 * reach + 1
    mask = cv2.erode(hull & hidden, np.ones((width, width), np.uint8))
    expected = cv2.GaussianBlur(mask.astype(np.float64), (width, width), 11 / 21 * width)
    (x1, y1, x2, y2), part = paste_weight(frame, place, contour(box), STSA)
    weight = np.zeros(frame)
    weight[y1:y2, x1:x2] = part
    difference = np.abs(weight - expected)
    assert np.quantile(difference, 0.99) < 0.02
    assert difference.max() < 0.02 + 1 / width  # the polygons' pixels differ by one here and there


@pytest.mark.parametrize("name", ["stsa", "stsa-256", "g4g"])
def test_colour_is_matched_above_the_hidden_rectangle(name):
    form = CROPS[name]
    source = cv2.resize(np.random.RandomState(0).randint(60, 190, (9, 7, 3), np.uint8), form.shape[::-1])
    face = source + np.uint8(20)
    face[form.hidden_mask()] = 100  # says nothing of the shift
    shift = match_colour(face, source, form).astype(int) - face
    assert (shift == -20).all()


def test_colour_stays_where_nothing_above_is_visible():
    face, source = np.zeros((2, 128, 128, 3), np.uint8) + np.array([[[[3]]], [[[9]]]], np.uint8)
    np.testing.assert_array_equal(match_colour(face, source, CropForm(hidden=(0, 0, 1, 0.5))), face)
