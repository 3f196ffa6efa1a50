"""The light of a face: fades, shade, films without colour."""

import cv2
import numpy as np
import pytest
from faces import portrait

from dubbing.light import brightened, brightening, evenly_lit, shade, usual, well_lit
from dubbing.paste import match_colour
from media.crop import CROPS, STSA
from media.face import FaceTracker
from media.heatmap import LIP_POINTS
from media.landmarks import OVAL_POINTS, select131
from media.place import crop_face


@pytest.fixture(scope="module")
def face() -> tuple[np.ndarray, np.ndarray]:
    """A crop, and its 131 landmarks in units of the crop."""
    with FaceTracker() as tracker:
        points = tracker.find(portrait())[0].landmarks
    place = STSA.place(points)
    return crop_face(portrait(), place, STSA.shape), place.to_crop(select131(points))


@pytest.fixture
def crop(face) -> np.ndarray:
    return face[0]


def test_similar_light_is_left_and_a_face_in_the_dark_is_brightened():
    assert [brightening(level, 100.0) for level in (99, 100, 101, np.nan)] == [1, 1, 1, 1]
    assert brightening(100.0, np.nan) == 1
    levels = np.array([0.0, 1, 3, 10, 30, 60, 79, 126, 200])
    factors = np.array([brightening(level, 100.0) for level in levels])
    assert (np.diff(factors) <= 0).all() and factors[0] < 20
    np.testing.assert_allclose(factors[3:] * levels[3:], 100, rtol=0.03)  # a network may keep the references' light
    picture = np.array([[[0, 10, 200]]], np.uint8)
    assert brightened(picture, 2.0).tolist() == [[[0, 20, 255]]] and brightened(picture, 1.0) is picture


def test_frames_in_the_dark_are_no_references():
    lights = np.array([100.0, 98, 50, 3, 101, np.nan])
    assert well_lit(lights).tolist() == [True, True, False, False, True, True]
    assert well_lit(np.full(3, np.nan)).all() and np.isnan(usual(np.full(3, np.nan)))
    assert well_lit(np.full(3, 4.0)).all() and usual(np.full(3, 4.0)) > 20  # a video that is dark throughout
    assert usual(np.array([100.0, 90, 95])) == 95


def test_a_face_half_in_a_shadow_is_no_reference():
    face = np.random.default_rng(0).integers(80, 160, (10, 16, 3)).astype(np.float32)
    fade = np.linspace(1, 0.05, 12)[:, None, None, None] * face  # as bright as it was made to be, on both sides
    assert evenly_lit(fade).all()
    looks = np.stack([face] * 20)
    for i, edge in enumerate(range(1, 16), start=5):
        looks[i, :, :edge] *= 0.4
    even = evenly_lit(looks)
    assert even[:5].all() and not even[9:18].any()


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1])
def test_shade_paints_no_black_lips(crop, share):
    """A face that was generated in other light than its frame's, with dark lips."""
    made = crop.copy()
    made[90:110, 40:90] = made[90:110, 40:90] * 0.4
    dark = (made * share).round().astype(np.uint8)
    matched = match_colour(made, dark, STSA).astype(float)
    assert matched[90:110, 40:90].mean() == pytest.approx(dark[90:110, 40:90].mean(), rel=0.25, abs=1)
    assert matched[70:].mean() == pytest.approx(dark[70:].mean(), rel=0.1)
    assert (matched[90:110, 40:90] > 0.3 * dark[90:110, 40:90]).all()


@pytest.mark.parametrize("edge", [0.35, 0.5, 0.6])
@pytest.mark.parametrize("colour", [(1, 1, 1), (1, 0.9, 0.7)])
def test_a_shadow_s_edge_on_the_face_goes_on_in_the_generated_part(face, edge, colour):
    crop, points = face
    across = 1 / (1 + np.exp(-(np.arange(128) / 128 - edge) / 0.02))
    light = 0.35 + 0.65 * across[:, None] ** np.array(colour)
    source = (crop * light / 2).round().astype(np.uint8)
    cheeks = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillConvexPoly(cheeks, cv2.convexHull(np.rint(points[OVAL_POINTS] * 128).astype(np.int32)), (1,))
    lower = cv2.erode(cheeks, np.ones((13, 13), np.uint8))[64:] > 0
    shaded = shade(crop, source, 2.0, points, 64)
    assert shaded is not None
    lit = brightened(crop, shaded / 2)
    errors = np.abs(lit.astype(float) - source)[64:][lower]
    assert errors.mean() < 3 and np.quantile(errors, 0.95) < 10
    assert np.abs(crop / 2.0 - source)[64:][lower].mean() > 8  # without it


def test_what_is_spoken_does_not_change_the_light_of_a_face(face):
    crop, points = face
    assert shade(crop, crop, 1.0, points, 64) is None
    spoken = crop.copy()
    mouth = int(points[LIP_POINTS, 1].mean() * 128)
    spoken[mouth:] = spoken[mouth:] // 4
    assert shade(spoken, crop, 1.0, points, 64) is None and shade(crop, spoken, 1.0, points, 64) is None
    half = (crop * 0.5).astype(np.uint8)
    assert shade(crop, half, 2.0, points, 64) is None
    assert shade(crop, crop, 1.0, points - 5, 64) is None  # no skin in the crop


@pytest.mark.parametrize("form", ["stsa", "g4g"])
def test_a_film_without_colour_stays_without(crop, form):
    made = cv2.resize(crop, CROPS[form].shape[::-1])
    grey = np.repeat(cv2.cvtColor(made, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    matched = match_colour(made, grey, CROPS[form]).astype(int)
    assert np.ptp(matched, axis=-1).max() <= 1
    assert np.abs(matched[..., 0] - grey[..., 0]).mean() < 4  # as bright as it was made
    sepia = np.clip(grey * np.array([1.07, 0.95, 0.8]) + [4, 0, 0], 0, 255).round().astype(np.uint8)
    toned = match_colour(made, sepia, CROPS[form]).astype(int)
    ratio = (toned[..., 0] - toned[..., 2])[toned[..., 1] > 60] / (sepia[..., 0].astype(int) - sepia[..., 2]).mean()
    assert ratio.min() > 0.3 and np.abs(toned - sepia).mean() < 6
    np.testing.assert_array_equal(match_colour(made, made, CROPS[form]), made)


def test_colour_in_few_rows_counts(crop):
    """A quarter of the rows is looked at first: grey there, or colourful there alone, they tell nothing."""
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    for first in range(4):
        mixed = crop.copy()
        mixed[first::4] = grey[first::4]
        np.testing.assert_array_equal(match_colour(mixed, mixed, STSA), mixed)


@pytest.mark.parametrize("saturation", [0.1, 0.16, 0.25])
def test_a_pale_picture_s_faces_are_as_pale(crop, saturation):
    """What a float64 fit to all pixels gives."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    pale = (grey + saturation * (crop - grey)).round().astype(np.uint8)
    shown = cv2.cvtColor(pale, cv2.COLOR_RGB2YCrCb)[~STSA.hidden_mask()].astype(np.float64)
    powers = np.vander(shown[:, 0] / 255, 3)
    fit, errors, *_ = np.linalg.lstsq(powers, shown[:, 1:] - 128, rcond=None)
    share = np.clip((np.sqrt(errors.sum() / (2 * len(shown))) - 0.7) / 0.6, 0, 1)
    made = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2YCrCb)
    toned = (np.vander(made[..., 0].ravel(), 3) @ fit).reshape(*made.shape[:2], 2) / 255 + 0.5
    made[..., 1:] = share * made[..., 1:] + (1 - share) * toned
    expected = np.clip(cv2.cvtColor(made, cv2.COLOR_YCrCb2RGB) * 255, 0, 255)
    same_light = crop.copy()  # above the mouth it is the source, so that no light is matched
    same_light[:64] = pale[:64]
    matched = match_colour(same_light, pale, STSA)[64:]
    assert np.abs(matched - expected[64:]).max() <= 0.51
