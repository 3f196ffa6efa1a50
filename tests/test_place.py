"""Places of crops: framings against independent computations, cutting and pasting of turned and overhanging ones."""

import cv2
import numpy as np
import pytest
from conftest import ROOT
from scipy.ndimage import map_coordinates

from dubbing.paste import paste_face, paste_weight
from media.crop import CROPS, STSA, CropForm
from media.face import Face, FaceTracker
from media.heatmap import LIPS, POSE
from media.landmarks import ORDER, TRACKED, positions_of, select131, tracked
from media.place import Place, crop_face, shrunk_crop
from media.video import read_frames


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return next(read_frames(ROOT / "assets" / "portrait.mp4"))


@pytest.fixture(scope="module")
def face(frame) -> Face:
    with FaceTracker() as tracker:
        found = tracker.track(frame)
    assert found is not None
    return found


def turned(points: np.ndarray, degrees: float, centre: np.ndarray) -> np.ndarray:
    """Points turned clockwise in the picture."""
    along = np.exp(1j * np.radians(degrees)) * ((points - centre) @ [1, 1j])
    return np.stack([along.real, along.imag], axis=-1) + centre


def test_dinets_framing_is_its_formula(face):
    """DINet's box from the 68 points that MediaPipe's stand for."""
    points = face.landmarks.astype(np.float64)
    y29, x33, chin, corners = points[195, 1], points[2, 0], points[152, 1], points[[61, 291], 0]
    r = 1.05 / 2 * max(chin - y29, corners[1] - corners[0])
    place = CROPS["g4g"].place(points)
    expected = (x33 - r - r / 4, y29 - r, x33 + r + r / 4, y29 + 2 * r + r / 4)
    np.testing.assert_allclose((place.left, place.top, place.right, place.bottom), expected)
    assert place.angle == 0 and place.width / place.height == pytest.approx(320 / 416)
    assert CROPS["g4g"].place(tracked(points)) == place
    # One scale a window: that of the mouth that is open widest. The place still follows the frame's own nose.
    opened = points.copy()
    opened[152, 1] += 20
    shared = CROPS["g4g"].place(points, np.stack([points, opened]))
    r = 1.05 / 2 * (chin + 20 - y29)
    np.testing.assert_allclose((shared.width, shared.height, shared.top), (2.5 * r, 3.25 * r, y29 - r))
    smaller = CropForm(height=104, width=80, framing="dinet")  # the same part of the frame at another size
    assert smaller.place(points) == place


@pytest.mark.parametrize(("side", "bound"), [(16, 3.5), (64, 1.0), (100, 1.0)])
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
def test_a_shrunk_crop_is_the_crop_of_the_whole_frame(frame, side, bound, angle):
    large = cv2.resize(frame, None, fx=2.3, fy=2.3, interpolation=cv2.INTER_CUBIC)
    height, width = large.shape[:2]
    for x, y in ((width / 2, height / 2), (width - 60.5, height - 31)):  # inside, and beyond a corner
        place = Place(x - 201, y - 203, x + 202, y + 200, angle)
        shrunk, whole = (cut(large, place, (side, side)).astype(float) for cut in (shrunk_crop, crop_face))
        assert np.sqrt(np.square(shrunk - whole).mean()) < bound


def test_a_shrunk_crop_of_a_ramp_is_the_ramp():
    y, x = np.mgrid[:120, :120]
    ramp = np.stack([2 * x, 2 * y, x + y], axis=-1).astype(np.uint8)
    place = Place(7, 10, 107, 110, 0.1)  # halved twice, from pixels that are no multiples of four
    across, down = place.to_frame((np.mgrid[:16, :16][::-1].transpose(1, 2, 0) + 0.5) / 16).transpose(2, 0, 1) - 0.5
    expected = np.stack([2 * across, 2 * down, across + down], axis=-1)
    np.testing.assert_allclose(shrunk_crop(ramp, place, (16, 16))[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1)


@pytest.mark.parametrize("degrees", [0, 15, 60, 135, 180, -90])
def test_an_upright_crop_turns_with_the_head_and_not_with_the_jaw(face, degrees):
    form, points = CROPS["upright"], face.landmarks.astype(np.float64)
    units = form.place(points).to_crop(select131(points))
    rolled = turned(points * 1.7, degrees, np.array([300.0, 200.0]))
    np.testing.assert_allclose(form.place(rolled).to_crop(select131(rolled)), units, atol=1e-5)
    eyes = units[[ORDER.index(33), ORDER.index(263)]]
    assert eyes[0, 0] < eyes[1, 0] and abs(eyes[0, 1] - eyes[1, 1]) < 0.03
    lips = positions_of(LIPS)
    assert units[ORDER.index(4), 1] < 0.5 < units[lips, 1].min() and units[:, 1].max() < 0.95  # the mouth is hidden
    opened = points.copy()
    others = np.setdiff1d(np.arange(478), np.array(ORDER)[positions_of(POSE)])
    opened[others, 1] += 30
    assert form.place(opened) == form.place(points)
    place = form.place(points)
    assert place.width == pytest.approx(place.height)


@pytest.mark.parametrize("name", CROPS)
def test_points_return_from_the_crop(face, name):
    place, points = CROPS[name].place(face.landmarks), face.landmarks.astype(np.float64)
    np.testing.assert_allclose(place.to_frame(place.to_crop(points)), points, atol=1e-3)
    np.testing.assert_allclose(place.to_crop(place.corners), [[0, 0], [1, 0], [1, 1], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(CROPS[name].place(tracked(points)).to_crop(points), place.to_crop(points), atol=1e-6)
    assert select131(tracked(points)).shape == (131, 2) and len(TRACKED) == 132
    inner = place.within(np.array([20, 10, 220, 210]), (0.5, 0.5))
    np.testing.assert_allclose(inner.to_crop((points - [20, 10]) / 2), place.to_crop(points), atol=1e-6)


@pytest.mark.parametrize(
    "place",
    [
        Place(60.3, 40.6, 190.9, 171.2, 0.4),
        Place(60.3, 40.6, 190.9, 171.2, np.pi),
        Place(-30, 50, 100, 200),  # leaves the frame
        Place(150.5, 180.25, 270.5, 300.25, -0.7),
    ],
)
def test_a_crop_shows_the_frame_where_the_place_says(frame, place):
    """Against SciPy's own sampling of a smooth frame."""
    smooth = cv2.GaussianBlur(frame, (0, 0), 3)
    crop = crop_face(smooth, place, (64, 96))
    rows, columns = np.indices((64, 96)) + 0.5
    points = place.to_frame(np.stack([columns / 96, rows / 64], axis=-1)) - 0.5
    where = [points[..., 1], points[..., 0]]
    for channel in range(3):
        expected = map_coordinates(smooth[..., channel].astype(float), where, order=1, mode="nearest")
        assert np.abs(crop[..., channel] - expected).max() < 3


def test_shrinking_averages(frame):
    """A turned crop of fine texture is its mean, as an upright one is."""
    texture = np.zeros((400, 400, 3), np.uint8)
    texture[::2, ::2] = 255
    texture[1::2, 1::2] = 255
    for angle in (0.0, 0.3):
        crop = crop_face(texture, Place(80.5, 80, 320.5, 320, angle), (48, 48))
        assert np.abs(crop.astype(int) - 127).max() < 12, angle


def test_a_slice_is_cut_to_the_bit(frame):
    expected = cv2.resize(frame[30:190, 50:180], (128, 128), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(crop_face(frame, Place(50, 30, 180, 190), (128, 128)), expected)


@pytest.mark.parametrize("name", ["stsa", "g4g", "upright"])
@pytest.mark.parametrize("degrees", [0, 30, 180])
def test_pasting_a_frame_s_own_crop_shows_no_seam(frame, face, name, degrees):
    height, width = frame.shape[:2]
    centre = np.array([width, height]) / 2
    matrix = cv2.getRotationMatrix2D(tuple(centre - 0.5), -degrees, 1)
    rolled = cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    points, form = turned(face.landmarks.astype(np.float64), degrees, centre), CROPS[name]
    place = form.place(points)
    own = crop_face(rolled, place, (512, 512))
    pasted = paste_face(rolled, own, place, points, form)
    assert np.abs(pasted.astype(int) - rolled).mean() < 0.3
    assert np.abs(pasted.astype(int) - rolled).max() < 40
    marked = paste_face(rolled, np.full_like(own, 255), place, points, form)
    changed = (marked != rolled).any(axis=2)
    rows, columns = np.nonzero(changed)
    units = place.to_crop(np.stack([columns, rows], axis=-1) + 0.5)
    left, top, right, bottom = form.hidden
    slack = 1.5 / place.height
    assert (units >= np.array([left, top]) - slack).all() and (units <= np.array([right, bottom]) + slack).all()
    if name == "upright" or not degrees:  # the other framings do not turn with the head
        x, y = points[[13, 14]].mean(axis=0).astype(int)
        assert (marked[y, x] == 255).all()  # the mouth


def test_a_place_beyond_the_frame_pastes_nothing(frame, face):
    away = Place(500, 500, 600, 600, 0.2)
    box, weight = paste_weight((100, 100), away, face.landmarks, STSA)
    assert weight.size == 0 and box[0] == box[2]
    np.testing.assert_array_equal(
        paste_face(frame, frame[:64, :64], Place(-300, 0, -200, 90), face.landmarks, STSA), frame
    )


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_part_of_a_place_lies_where_its_corners_do(angle):
    place = Place(12.5, 30, 112.5, 90, angle)
    corners = np.array([[0.2, 0.5], [0.9, 0.5], [0.9, 1], [0.2, 1]])
    part = place.part(0.2, 0.5, 0.9, 1.0)
    np.testing.assert_allclose(part.corners, place.to_frame(corners), atol=1e-9)
    assert place.part(0, 0, 1, 1) == place
