"""Figure 4: the mouth corner is found, followed and measured."""

import csv
import itertools
import re

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from faces import portrait, write_frames

from extensions.drawing import CurveDrawing
from media.crop import STSA
from media.face import FaceTracker
from media.heatmap import CONTENT, FULL_FACE, KEYPOINTS, LIPS, ORDER, draw_heatmap
from media.video import read_frames
from metrics import trajectories
from metrics.trajectories import jerk, mouth_corner, path_length, track_point


def test_length_and_jerk_of_known_paths():
    steady = np.stack([3.0 * np.arange(6), 4.0 * np.arange(6)], axis=1)
    assert path_length(steady) == pytest.approx(25)
    assert jerk(steady) == pytest.approx(0)
    falling = np.stack([np.zeros(6), np.arange(6) ** 2.0], axis=1)  # constant acceleration
    assert jerk(falling) == pytest.approx(0)
    cubic = np.stack([np.arange(6) ** 3.0, np.zeros(6)], axis=1)
    assert jerk(cubic) == pytest.approx(6)
    assert jerk(np.vstack([cubic, [[np.nan, np.nan]]])) == pytest.approx(6)
    assert np.isnan(jerk(steady[:3]))


def drawings(landmarks: np.ndarray, moves: list[tuple[float, float]]) -> list[np.ndarray]:
    """Heatmap pictures of a lower face, (128, 128, 3) uint8, moved by `moves` pixels, fractions of one too."""
    keypoints = np.stack([(landmarks + np.array(move) / 128)[list(ORDER)][KEYPOINTS] for move in moves])
    pictures = CurveDrawing()(torch.from_numpy(keypoints).float())[:, 0].numpy()
    return [np.repeat((255 * picture).astype(np.uint8)[..., None], 3, axis=2) for picture in pictures]


@pytest.fixture
def landmarks(pipeline) -> np.ndarray:
    """(478, 2) of a face, in its crop, drawn smaller so that it can move."""
    return pipeline["frame0.landmarks"] * 0.8 + 0.1


def test_the_corner_of_a_heatmap_is_the_end_of_its_lips(landmarks):
    picture = drawings(landmarks, [(0, 0)])[0]
    assert mouth_corner(picture, "right") == pytest.approx(landmarks[61] * 128, abs=3)
    assert mouth_corner(picture, "left") == pytest.approx(landmarks[291] * 128, abs=3)
    assert mouth_corner(255 - picture, "right") == pytest.approx(landmarks[61] * 128, abs=3)  # a sketch on white
    assert mouth_corner(np.zeros((64, 64, 3), np.uint8)) is None


def test_the_jaw_is_not_taken_for_the_lips():
    """Lips and jaw alone: the jaw too is a wide line low in the middle, its arms at the sides of the lips."""

    def picture(lip_height: int, arms: int) -> np.ndarray:
        canvas = np.zeros((128, 128, 3), np.uint8)
        for inner in (0, 3):  # the contours of the lips
            cv2.ellipse(canvas, (66, 90), (26 - inner, lip_height - inner), 0, 0, 360, (255,) * 3, 1)
        cv2.ellipse(canvas, (64, arms), (60, 124 - arms), 0, 0, 180, (255,) * 3, 1)
        return canvas

    for lip_height, arms in ((5, 70), (14, 88), (20, 94)):
        for shown in (picture(lip_height, arms), 255 - picture(lip_height, arms)):
            assert mouth_corner(shown, "right") == pytest.approx([40, 90], abs=2)
            assert mouth_corner(shown, "left") == pytest.approx([92, 90], abs=2)


def test_the_corner_is_found_in_drawings_of_real_faces(shared):
    videos = sorted((shared / "clips").glob("*/*.mp4"))
    if not videos:
        pytest.skip("the real clips are not here")
    found = 0
    for video in videos[::4]:
        with FaceTracker() as tracker:
            for frame in itertools.islice(read_frames(video), 0, 61, 30):
                face = tracker.track(frame)
                if face is None:
                    continue
                points = STSA.place(face.landmarks).to_crop(face.landmarks)
                for edges, size in itertools.product((CONTENT, LIPS, FULL_FACE), (128, 256)):
                    drawn = (255 * draw_heatmap(points, edges, size)).astype(np.uint8)
                    corner = mouth_corner(np.repeat(drawn[..., None], 3, axis=2))
                    # where lips droop, the corner is not quite the outermost pixel
                    assert corner is not None
                    assert corner / size == pytest.approx(points[61], abs=0.06), (video.name, len(edges), size)
                found += 1
    assert found >= 10


def test_the_corner_of_a_face_is_its_landmark():
    right, left = (mouth_corner(portrait(), side) for side in ("right", "left"))
    assert right is not None and left is not None
    assert 60 < right[0] < left[0] < 180
    assert abs(right[1] - left[1]) < 20


def test_the_track_follows_a_known_movement_and_a_lost_point_stays_lost(landmarks):
    moves = [(6 * np.sin(i / 5), 4 * np.cos(i / 4) - 4) for i in range(30)]
    pictures = drawings(landmarks, moves)
    start = landmarks[61] * 128
    track = track_point(pictures, start)
    assert track.shape == (30, 2)
    assert np.abs(track - start - moves).max() < 1
    noise = [np.random.RandomState(i).randint(0, 255, (128, 128, 3), dtype=np.uint8) for i in range(5)]
    lost = track_point([*pictures[:3], *noise, pictures[0]], start)
    assert np.isfinite(lost[:3]).all()
    assert np.isnan(lost[-1]).all()


def test_several_methods_in_one_figure(landmarks, tmp_path, capsys):
    smooth = [(5 * np.sin(i / 5), 0.0) for i in range(25)]
    draw = np.random.RandomState(0)
    shaky = [(x + draw.uniform(-1, 1), draw.uniform(-1, 1)) for x, _ in smooth]
    videos = {}
    for name, moves in (("smooth", smooth), ("shaky", shaky)):
        videos[name] = write_frames(tmp_path / f"{name}.mp4", drawings(landmarks, moves))
    figure = tmp_path / "figure.png"
    code = trajectories.main([*(f"{name}={path}" for name, path in videos.items()), "--output", str(figure)])
    assert code == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "128x128" in line}
    assert rows["smooth"][2] == rows["shaky"][2] == "25/25"
    assert float(rows["smooth"][3]) < float(rows["shaky"][3])
    assert float(rows["smooth"][4]) < 0.5 * float(rows["shaky"][4])
    assert cv2.imread(str(figure)).std() > 5
    points = list(csv.DictReader(figure.with_suffix(".csv").open(encoding="utf-8")))
    assert len(points) == 50
    assert float(points[0]["x"]) == pytest.approx(landmarks[61][0] * 128, abs=4)


def test_names_in_the_figure_are_drawn_as_they_are(landmarks, tmp_path):
    video = write_frames(tmp_path / "a.mp4", drawings(landmarks, [(0, 0)] * 3))
    paths = [trajectories.trajectory(name, video) for name in ("_a", "$x^$")]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        trajectories.draw(paths, tmp_path / "figure.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "figure.svg").read_text(encoding="utf-8"))
    assert [text.strip() for text in texts if text.strip() in ("_a", "$x^$")] == ["_a", "$x^$"] * 2
    assert sum(text.startswith("$x^$: ") for text in texts) == 1


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    plain = write_frames(tmp_path / "plain.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 3)
    for arguments, expected in (
        ([plain], "shows no mouth"),
        ([tmp_path / "none.mp4"], "none.mp4"),
        ([plain, "--start", 90, 10], "outside"),
        ([plain, "--output", tmp_path / "figure.bmp"], "--output"),
        ([plain, "--corner", "middle"], "--corner"),
    ):
        assert trajectories.main([str(each) for each in arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert expected in lines[0]
