"""benchmarks.sharpness: its gradient, its mask, and what it says of a dub that is known."""

import cv2
import numpy as np
import pytest
from faces import HEIGHT, WIDTH, empty, portraits, write_frames

from benchmarks.sharpness import encoded, gradient_magnitude, hidden_part, pasted_part, scaled, scaled_size, sharpness
from media.crop import STSA, CropForm
from media.errors import InputError
from media.face import FaceTracker
from media.landmarks import select131
from media.place import Place
from media.video import probe


def test_the_gradient_of_a_ramp_is_its_slope():
    down, across = np.mgrid[:32, :40]
    ramp = np.repeat((3 * across + 4 * down)[..., None], 3, axis=2).astype(np.uint8)
    assert gradient_magnitude(ramp)[1:-1, 1:-1] == pytest.approx(5)


def test_the_pasted_part_is_what_is_pasted():
    with FaceTracker() as tracker:
        face = tracker.find(portraits(1)[0])[0]
    mask = pasted_part((HEIGHT, WIDTH), STSA.place(face.landmarks), face.landmarks, STSA)
    rows, columns = np.nonzero(mask)
    x1, y1, x2, y2 = face.box
    assert (y1 + y2) // 2 <= rows.min() and rows.max() < y2 and x1 <= columns.min() and columns.max() < x2
    assert mask[int(select131(face.landmarks)[:, 1].max()) - 12].any()


def test_the_hidden_part_is_the_rectangle_of_the_form():
    frame = np.zeros((100, 80, 3), np.uint8)
    frame[45:65, 20:50] = 255
    part = hidden_part(frame, Place(10, 25, 60, 85), CropForm(hidden=(0.2, 1 / 3, 0.8, 2 / 3)))
    assert part.shape == (20, 30, 3) and part.min() == 255


def test_a_blurred_dub_is_less_sharp_than_its_source(tmp_path):
    frames = portraits(4)
    source = write_frames(tmp_path / "source.mp4", frames)
    soft = write_frames(tmp_path / "soft.mp4", [cv2.GaussianBlur(frame, (9, 9), 2) for frame in frames])
    same, blurred = sharpness(source, source, STSA), sharpness(source, soft, STSA)
    assert same["dub / source"] == 1 and same["SSIM"] == pytest.approx(1)
    assert blurred["source"] == same["source"] and blurred["dub / source"] < 0.8
    assert blurred["PSNR"] < 40 and blurred["SSIM"] < 0.99
    assert 60 < same["face px"] < WIDTH


def test_a_video_is_scaled_to_the_width_of_its_face(tmp_path):
    assert scaled_size(empty(), 100, 50) == (WIDTH // 2, HEIGHT // 2)
    source = write_frames(tmp_path / "source.mp4", portraits(3))
    own = sharpness(source, source, STSA)["face px"]
    scaled(source, tmp_path / "small.mp4", 80, 1)
    assert probe(tmp_path / "small.mp4").width == pytest.approx(WIDTH * 80 / own, abs=4)
    assert sharpness(tmp_path / "small.mp4", tmp_path / "small.mp4", STSA)["face px"] == pytest.approx(80, abs=3)
    faceless = write_frames(tmp_path / "empty.mp4", [empty()] * 2)
    with pytest.raises(InputError, match="shows no face; give another"):
        scaled(faceless, tmp_path / "small.mp4", 80, 1)
    with pytest.raises(InputError, match="shows no face that is large enough"):
        sharpness(faceless, faceless, STSA)


@pytest.mark.slow
def test_an_enlarged_video_shows_the_face_within_1920x1080(tmp_path):
    source = write_frames(tmp_path / "source.mp4", portraits(2))
    scaled(source, tmp_path / "large.mp4", 800, 1)
    info = probe(tmp_path / "large.mp4")
    assert info.width <= 1920 and info.height == 1080
    encoded(tmp_path / "large.mp4", tmp_path / "encoded.mp4", 1)
    values = sharpness(tmp_path / "large.mp4", tmp_path / "encoded.mp4", STSA)
    assert values["face px"] == pytest.approx(800, rel=0.06)
    assert 0.8 < values["dub / source"] < 1.05
