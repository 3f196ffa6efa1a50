"""Finding, cutting out and pasting faces, on the bundled portrait and against the reference pipeline."""

import os
import subprocess
import sys
import threading
from itertools import islice

import cv2
import numpy as np
import pytest
from conftest import ROOT
from faces import empty, portrait

from dubbing.paste import paste_face
from media.crop import STSA, CropForm
from media.face import Face, FaceTracker, silence
from media.landmarks import ORDER, OVAL_POINTS, select131
from media.place import Place, crop_face, overlap
from media.references import CANDIDATES, by_lip_opening, choose_references, covering_references, lip_opening
from media.video import read_frames

WHOLE = CropForm(hidden=(0, 0, 1, 1))  # which pastes the whole crop


@pytest.fixture(scope="module")
def tracker():
    with FaceTracker(faces=3) as tracker:
        yield tracker


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return next(read_frames(ROOT / "assets" / "portrait.mp4"))


@pytest.fixture(scope="module")
def face(tracker, frame) -> Face:
    return tracker.track(frame)


@pytest.mark.parametrize("number", [0, 60, 120])
def test_box_and_landmarks_equal_the_reference_pipeline(pipeline, number):
    points = pipeline[f"frame{number}.mediapipe"] * 256
    place = STSA.place(points)
    assert place.box(256, 256) == tuple(pipeline[f"frame{number}.box_xyxy"])
    # The reference's own units are those of the box before it is cut at whole pixels: half a pixel at most, on average.
    expected = pipeline[f"frame{number}.landmarks"]
    bounds = np.concatenate([select131(points).min(axis=0) - 5, select131(points).max(axis=0) + 5])
    np.testing.assert_allclose(Place(*bounds).to_crop(points), expected, atol=1e-6)


def test_the_tracker_equals_the_reference_pipeline(shared, pipeline, tracker):
    picture = next(islice(read_frames(shared / "clips" / "drive" / "template.mp4", fps=30), 60, None))
    found = tracker.track(picture)
    error = np.abs(found.landmarks / 256 - pipeline["frame60.mediapipe"])
    assert error.mean() < 1e-3 and error.max() < 6e-3  # MediaPipe's networks round as the processor does
    assert np.abs(found.box - pipeline["frame60.box_xyxy"]).max() <= 2


def test_a_frame_gives_the_same_landmarks_wherever_reading_starts(frame, face, tracker):
    tracker.track(portrait())
    np.testing.assert_array_equal(tracker.track(frame).landmarks, face.landmarks)
    with FaceTracker() as other:
        found = other.track(frame)
        assert found is not None
        np.testing.assert_array_equal(found.landmarks, face.landmarks)


def test_a_frame_without_a_face_gives_none(tracker, frame):
    for picture in (empty(), np.zeros_like(frame), np.zeros((4, 6, 3), np.uint8), frame[:100]):
        assert tracker.track(picture) is None
    assert tracker.track(frame) is not None


@pytest.mark.parametrize("part", [0.04, 0.06, 0.15])
def test_small_faces_are_found_where_they_are(frame, face, tracker, part):
    """A face of a twenty-fifth of the frame's width and more, by its landmarks in the large picture."""
    side = 1400
    scale = part * side / np.ptp(face.landmarks[:, 0])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((side, side, 3), 90, np.uint8)
    canvas[700 : 700 + small.shape[0], 300 : 300 + small.shape[1]] = small
    found = tracker.track(canvas)
    assert found is not None
    error = np.linalg.norm(found.landmarks - (face.landmarks * scale + [300, 700]), axis=1).mean()
    assert error < 0.05 * part * side


def test_of_two_faces_the_largest_is_taken_and_then_followed(frame):
    small = cv2.resize(frame, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.zeros((448, 448 + 270, 3), np.uint8)
    both[:, :448], both[: small.shape[0], 448 : 448 + small.shape[1]] = frame, small
    grown = np.zeros_like(both)  # the other one comes closer, this one steps back, where each was
    grown[: small.shape[0], 100 : 100 + small.shape[1]] = small
    grown[:, 448:] = frame[:, 90:360]
    with FaceTracker(faces=2) as tracker:
        found = tracker.find(both)
        assert len(found) == 2 and found[0].box[0] < 300 < found[1].box[0]
        first = tracker.track(both)
        assert first is not None and overlap(first.box, found[0].box) == 1
        assert len(tracker.find(grown)) == 2
        second = tracker.track(grown)
        assert second is not None and second.box[0] < 400


def test_mediapipe_says_nothing_on_stderr():
    code = (
        "import sys; from media.face import FaceTracker; from media.video import read_frames\n"
        "with FaceTracker() as tracker: print(tracker.track(next(read_frames('assets/portrait.mp4'))) is not None)\n"
        "print('own words', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("True\n", "own words\n")


def test_stderr_is_silent_as_long_as_anyone_asks_for_it(capfd):
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with silence:
            inside.set()
            leave.wait(10)
            os.write(2, b"the other")

    with silence:
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)  # at once, not after the first
        os.write(2, b"both")
    leave.set()
    thread.join()
    os.write(2, b"nobody")
    assert capfd.readouterr().err == "nobody"


def test_crops_and_their_units_agree(frame, face):
    """A mark drawn in the frame lies in the crop where `to_crop` says."""
    marked = frame.copy()
    x, y = np.rint(face.landmarks[13]).astype(int)  # between the lips
    cv2.circle(marked, (int(x), int(y)), 5, (0, 255, 0), -1)
    marked_black = cv2.circle(frame.copy(), (int(x), int(y)), 5, (0, 0, 0), -1)
    place = STSA.place(face.landmarks)
    mark = np.abs(crop_face(marked, place, STSA.shape).astype(int) - crop_face(marked_black, place, STSA.shape)).sum(
        axis=-1
    )
    rows, columns = np.indices(mark.shape) + 0.5
    centre = np.array([(mark * columns).sum(), (mark * rows).sum()]) / mark.sum() / 128
    np.testing.assert_allclose(centre, place.to_crop(np.array([x, y]) + 0.5), atol=0.004)


def hull_mask(shape, landmarks) -> np.ndarray:
    """True inside the convex hull of the face oval and within a pixel of it, by half-planes."""
    hull = cv2.convexHull(select131(landmarks)[OVAL_POINTS].astype(np.float32))[:, 0]
    rows, columns = np.indices(shape)
    inside = np.ones(shape, bool)
    centre = hull.mean(axis=0)
    for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        normal = np.array([a[1] - b[1], b[0] - a[0]]) / np.linalg.norm(b - a)
        normal *= np.sign(normal @ (centre - a))
        inside &= normal[0] * (columns - a[0]) + normal[1] * (rows - a[1]) > -1.5
    return inside


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_pasting_changes_nothing_outside_the_contour(frame, face, scale):
    frame = cv2.resize(frame, None, fx=scale, fy=scale)
    landmarks = face.landmarks * scale
    pasted = paste_face(frame, np.full((128, 128, 3), 255, np.uint8), STSA.place(landmarks), landmarks, WHOLE)
    inside = hull_mask(frame.shape[:2], landmarks)
    np.testing.assert_array_equal(pasted[~inside], frame[~inside])
    x, y = landmarks[4].astype(int)
    assert (pasted[y, x] == 255).all()  # the tip of the nose is all of the pasted face
    assert np.mean(pasted[inside] == 255) > 0.5


def test_a_pasted_edge_has_no_step(frame, face):
    """White into black rises over the edge in small steps, in proportion to the face."""
    for scale in (1, 2):
        landmarks = face.landmarks * scale
        black = np.zeros((448 * scale, 448 * scale, 3), np.uint8)
        white = np.full((128, 128, 3), 255, np.uint8)
        pasted = paste_face(black, white, STSA.place(landmarks), landmarks, WHOLE).astype(int)
        steps = np.abs(np.diff(pasted[..., 0], axis=0)).max(), np.abs(np.diff(pasted[..., 0], axis=1)).max()
        assert max(steps) < 255 / (5 * scale)


def test_pasting_a_face_s_own_crop_shows_no_seam(frame, face):
    place = STSA.place(face.landmarks)
    pasted = paste_face(frame, crop_face(frame, place, (512, 512)), place, face.landmarks, WHOLE)
    assert np.abs(pasted.astype(int) - frame).mean() < 0.5
    assert np.abs(pasted.astype(int) - frame).max() < 25


def test_the_upper_part_can_be_left_as_it_is(frame, face):
    pasted = paste_face(frame, np.full((64, 64, 3), 255, np.uint8), STSA.place(face.landmarks), face.landmarks, STSA)
    middle = face.box[1] + (face.box[3] - face.box[1]) // 2
    np.testing.assert_array_equal(pasted[: middle - 1], frame[: middle - 1])
    assert (pasted[middle:] != frame[middle:]).any()


def test_a_face_cut_by_the_frame_is_pasted_up_to_the_frame_s_edge(frame, face):
    """At the frame's own edge there is nothing to blend into."""
    left = int(face.landmarks[4, 0])
    cut, landmarks = np.ascontiguousarray(frame[:, left:]), face.landmarks - [left, 0]
    pasted = paste_face(cut, np.full((128, 128, 3), 255, np.uint8), STSA.place(landmarks), landmarks, WHOLE)
    assert (pasted[int(face.landmarks[4, 1]), :3] == 255).all()


def test_references_go_from_closed_to_open_in_equal_steps():
    openings = np.array([5, 1, np.nan, 9, 3, 7, 0, 8, 2, 6, 4], float)
    np.testing.assert_array_equal(openings[choose_references(openings, 4)], [0, 3, 6, 9])
    np.testing.assert_array_equal(openings[choose_references(openings, 10)], range(10))
    assert len(choose_references(np.array([2.0, np.nan]), 5)) == 5
    with pytest.raises(ValueError, match="no frame"):
        choose_references(np.array([np.nan]))


def test_equally_open_mouths_go_by_time():
    openings = np.array([2.0, 1, np.nan, 1, 3, 1, 2])
    np.testing.assert_array_equal(by_lip_opening(np.array([6, 5, 4, 3, 1, 0, 3]), openings), [1, 3, 3, 5, 0, 6, 4])
    np.testing.assert_array_equal(choose_references(openings, 6), [1, 3, 5, 0, 6, 4])
    faces = np.random.default_rng(1).uniform(0.3, 0.7, (6, 131, 2))
    lips = [ORDER.index(0), ORDER.index(17)]
    faces[:, lips] = [[0.5, 0.6], [0.5, 0.7]]
    np.testing.assert_array_equal(covering_references(faces, 6), range(6))


def test_covering_references_show_every_kind_of_face():
    """Three heads held in three ways, the rarest with tracking lost once: one of each, the most closed mouth first."""
    random = np.random.default_rng(0)
    heads = random.uniform(0.3, 0.7, (3, 131, 2))
    kinds = np.array([0] * 50 + [1] * 30 + [2] * 10)
    faces = heads[kinds] + random.normal(0, 0.003, (90, 131, 2))
    faces = np.concatenate([faces, random.uniform(0, 1, (1, 131, 2))])
    chosen = covering_references(faces, 3)
    assert sorted(kinds[chosen]) == [0, 1, 2] and 90 not in chosen
    assert (np.diff(lip_opening(faces[chosen])) >= 0).all()

    def cost(which):
        return np.linalg.norm(faces[:, None] - faces[None, which], axis=(2, 3)).min(axis=1).sum()

    single = covering_references(faces, 1)
    assert cost(single) == pytest.approx(min(cost([position]) for position in range(91)))
    assert cost(covering_references(faces, 5)) < cost(choose_references(lip_opening(faces), 5))
    assert len(covering_references(faces[:2], 5)) == 5 and set(covering_references(faces[:2], 5)) == {0, 1}
    times = CANDIDATES // 90 + 1  # of a longer video, not every frame is considered
    longer = np.repeat(faces[:90], times, axis=0)
    assert sorted(kinds[covering_references(longer, 3) // times]) == [0, 1, 2]
    with pytest.raises(ValueError, match="no frame"):
        covering_references(faces[:0])


def test_lip_opening_is_the_distance_of_the_outer_lips():
    points = np.zeros((2, 478, 2))
    points[:, 0], points[:, 17] = (3, 0), (0, 4)
    np.testing.assert_allclose(lip_opening(points), 5)
    np.testing.assert_allclose(lip_opening(points[:, list(ORDER)]), 5)
    with pytest.raises(ValueError, match="478"):
        select131(np.zeros((68, 2)))
