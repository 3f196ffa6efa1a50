"""Who is who: people in any light, missed frames, dissolves, people who cross; faces at any angle and at the border."""

import cv2
import numpy as np
import pytest
from conftest import ROOT
from faces import HEIGHT, WIDTH, empty, portrait, portraits, write_frames
from media_files import write_sound

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub
from dubbing.looks import SAME_LOOK, Shots, differences, look, small_face, thumbnail
from dubbing.motion import motion
from dubbing.people import Person, Scene, observe, people_of, without_mouth
from dubbing.tracks import Linker, Track
from media.crop import CROPS
from media.face import FaceTracker, face_of
from media.heatmap import LIP_POINTS
from media.landmarks import select131, tracked
from media.turned import TurnedFaces
from media.video import read_frames

QUIET = DubOptions(progress=None)


@pytest.fixture(scope="module")
def two() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two people's pictures, (224, 240, 3) uint8, and mesh points (478, 2): Grace Hopper and the bundled portrait."""
    other = next(read_frames(ROOT / "assets" / "portrait.mp4"))
    pictures = portrait(), cv2.resize(other, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    with FaceTracker() as tracker:
        return [(picture, tracker.find(picture)[0].landmarks) for picture in pictures]


def linked(frames: list[tuple[np.ndarray, list[np.ndarray]]]) -> Scene:
    """The scene of pictures with the mesh points that are found in each."""
    shots, linker = Shots(), Linker()
    for picture, meshes in frames:
        cut = shots.add(thumbnail(picture))
        faces = [face_of(points, picture.shape) for points in meshes]
        linker.add(picture, faces, [small_face(picture, points) for points in meshes], cut)
    shots.end()
    return Scene(people_of(linker.tracks, shots), shots.cuts, linker.frames)


def seen(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    return look(small_face(picture, points))


def test_a_look_is_the_same_in_any_light(two):
    (hopper, hers), (collins, his) = two
    looks = [seen(hopper, hers)[None], seen(collins, his)[None]]
    assert differences(*looks).min() > 2 * SAME_LOOK
    for share in (0.5, 0.2, 0.08):
        dim = [seen((picture * share).round().astype(np.uint8), points)[None] for picture, points in two]
        assert max(differences(a, b).max() for a, b in zip(dim, looks, strict=True)) < SAME_LOOK / 2
        assert differences(dim[0], looks[1]).min() > SAME_LOOK
    warm = np.clip(hopper * 0.6 + [30, 15, 5], 0, 255).astype(np.uint8)
    assert differences(seen(warm, hers)[None], looks[0]).max() < SAME_LOOK


def test_a_person_in_half_the_light_is_the_same_person(two):
    (hopper, hers), (collins, his) = two
    dark = hopper // 3
    scene = linked([(hopper, [hers])] * 4 + [(dark, [hers])] * 4 + [(collins, [his])] * 3 + [(dark, [hers])] * 3)
    assert [person.frames for person in scene.people] == [[*range(8), *range(11, 14)], [8, 9, 10]]


@pytest.mark.parametrize("missed", [1, 3, 5])
def test_a_few_missed_frames_are_bridged(two, missed):
    (hopper, hers), _ = two
    blurred = cv2.blur(hopper, (15, 1))
    frames = [(hopper, [hers])] * 6 + [(blurred, [])] * missed + [(hopper, [np.add(hers, [6, 0])])] * 6
    person = linked(frames).people[0]
    assert person.frames == list(range(12 + missed)) and person.unsure == set(range(6, 6 + missed))
    middle = person.points[6 + missed // 2]
    np.testing.assert_allclose(middle, np.add(tracked(hers), [6 * (missed // 2 + 1) / (missed + 1), 0]), atol=1e-3)


def test_what_is_not_bridged(two):
    (hopper, hers), _ = two
    gaps: tuple[list[tuple[np.ndarray, list[np.ndarray]]], ...] = [(hopper, [])] * 6, [(empty(), [])] * 2
    for gap in gaps:  # a longer gap; a picture of something else, between cuts
        person = linked([(hopper, [hers])] * 4 + gap + [(hopper, [hers])] * 4).people[0]
        assert person.frames == [*range(4), *range(4 + len(gap), 8 + len(gap))] and not person.unsure
    covered = hopper.copy()  # the whole face, within the shot
    x, y = hers.mean(axis=0).astype(int)
    covered[y - 70 : y + 60, x - 50 : x + 50] = (90, 60, 40)
    person = linked([(hopper, [hers])] * 4 + [(covered, [])] * 3 + [(hopper, [hers])] * 4).people[0]
    assert person.frames == [*range(4), *range(7, 11)]


def test_a_covered_face_and_a_wrong_one_are_no_further_people(two):
    (hopper, hers), _ = two
    covered = hopper.copy()
    x, y = hers[[33, 133, 159, 145]].mean(axis=0).astype(int)
    covered[y - 30 : y + 45, x - 40 : x + 18] = (70, 130, 60)
    noisy = hers + np.random.default_rng(0).normal(0, 1, hers.shape)
    wrong = (hers - hers.mean(axis=0)) * [1, 0.6] + hers.mean(axis=0) + [0, 25]  # a mesh that lies wrong
    for picture, mesh, count in ((covered, noisy, 4), (hopper, wrong, 2)):
        scene = linked([(hopper, [hers])] * 8 + [(picture, [mesh])] * count + [(hopper, [hers])] * 8)
        assert [person.frames for person in scene.people] == [list(range(16 + count))]
    scene = linked([(hopper, [hers])] * 8 + [(hopper, [hers, hers * 0.5])] + [(hopper, [hers])] * 8)
    assert len(scene.people) == 1  # a face that is seen for one frame


def test_people_who_cross_and_return_are_the_same_two(two):
    """She passes before him; he is hidden for six frames. Then she leaves, and comes back on the other side."""
    (hopper, hers), (collins, his) = two
    frames = []
    for k in range(40):
        canvas = np.full((HEIGHT, 3 * WIDTH, 3), 120, np.uint8)
        canvas[:, WIDTH : 2 * WIDTH] = collins
        meshes = [np.add(his, [WIDTH, 0])]
        x = min(20 * k, 2 * WIDTH) if k < 28 else None if k < 34 else 0
        if x is not None:
            canvas[:, x : x + WIDTH] = hopper
            meshes.append(np.add(hers, [x, 0]))
            if abs(x - WIDTH) < 70:
                meshes.pop(0)
        frames.append((canvas, meshes))
    scene = linked(frames)
    assert len(scene.people) == 2
    her, him = sorted(scene.people, key=lambda person: person.boxes[0][0])
    assert her.frames == [*range(28), *range(34, 40)]
    assert him.frames[:7] == list(range(7)) and him.frames[-20:] == list(range(20, 40))
    assert all(abs(box[0] - him.boxes[0][0]) < 3 for box in him.boxes)


def test_a_slow_dissolve_leads_to_another_person(two):
    (hopper, hers), (collins, his) = two
    shares = np.clip((np.arange(34) - 10) / 13, 0, 1)
    frames = []
    for share in shares:
        picture = ((1 - share) * hopper + share * collins).round().astype(np.uint8)
        frames.append((picture, [(1 - share) * hers + share * his]))
    scene = linked(frames)
    assert len(scene.people) == 2 and len(scene.cuts) == 2 and 15 <= scene.cuts[1] <= 18
    first, second = scene.people
    assert first.frames == list(range(scene.cuts[1])) and second.frames == list(range(scene.cuts[1], 34))
    assert set(range(12, 17)) <= first.unsure | second.unsure <= set(range(9, 25))

    black = np.zeros_like(hopper)
    for ends in ((hopper, black), (hopper, hopper // 3), (hopper, np.roll(hopper, 30, axis=1))):
        shots = Shots()
        for share in shares:
            shots.add(thumbnail(((1 - share) * ends[0] + share * ends[1]).round().astype(np.uint8)))
        assert not shots.dissolves or (ends[1] is not black and ends[1] is not hopper // 3)


def test_a_dissolve_between_people_who_move_leads_to_another_person(two):
    """The pictures move, so that no frame is a mixture of two others; the faces in them are aligned."""
    (hopper, hers), (collins, his) = two
    shares = np.clip((np.arange(40) - 14) / 12, 0, 1)
    frames = []
    for k, share in enumerate(shares):
        x = 2 * k - 40
        picture = ((1 - share) * hopper + share * collins).round().astype(np.uint8)
        frames.append((np.roll(picture, x, axis=1), [(1 - share) * hers + share * his + [x, 0]]))
    scene = linked(frames)
    assert len(scene.people) == 2 and len(scene.cuts) == 2 and 17 <= scene.cuts[1] <= 23
    first, second = scene.people
    assert first.frames == list(range(scene.cuts[1])) and second.frames == list(range(scene.cuts[1], 40))
    assert set(range(17, 23)) <= first.unsure | second.unsure


def test_the_light_of_a_face_whose_eyes_are_covered_is_that_of_the_frames_around_it(two):
    (hopper, hers), _ = two
    frames = []
    for k in range(12):
        picture = hopper.copy()
        if k in (5, 6):
            picture[int(hers[10, 1]) : int(hers[195, 1])] = 20
        frames.append((picture, [hers]))
    (person,) = linked(frames).people
    assert person.frames == list(range(12)) and {5, 6} <= person.unsure
    assert seen(frames[5][0], hers).mean() < 0.6 * seen(hopper, hers).mean()
    np.testing.assert_allclose(person.lights, person.lights[0], rtol=0.02)


def test_the_source_s_mouth_goes_over_into_the_generated_one_at_a_gap(two):
    (hopper, hers), _ = two
    person = Person()
    for frame in (*range(10), *range(20, 30), *range(30, 36)):
        person.extend(one(frame, hers, hopper))
    m = motion(person, np.ones(40, bool), [0, 30], 40)
    np.testing.assert_allclose(m.weights[:7], 1)  # the video begins
    np.testing.assert_allclose(m.weights[7:10], [0.75, 0.5, 0.25])
    np.testing.assert_allclose(m.weights[20:24], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(m.weights[26:33], 1)  # a cut
    np.testing.assert_allclose(m.weights[33:36], [0.75, 0.5, 0.25])
    shorter = motion(
        person, np.arange(40) < 8, [0, 30], 8
    )  # of the video, only what the sound lasts is dubbed and shown
    np.testing.assert_allclose(shorter.weights, 1)
    np.testing.assert_array_equal(m.poses[5], m.places[5].to_crop(m.landmarks[5]))
    kept = motion(person, np.arange(40) < 8, [0, 30], 40)  # the rest of the video goes on with its own mouth
    np.testing.assert_allclose(kept.weights[5:8], [0.75, 0.5, 0.25])


@pytest.mark.parametrize("name", ["stsa", "g4g", "upright"])
def test_the_crop_of_a_tilted_face_is_that_of_the_upright_one(two, name):
    (_, points), _ = two
    points = points.astype(np.float64)
    level = points - points.mean(axis=0)
    form = CROPS[name]
    expected = form.place(level).to_crop(select131(level))
    for degrees in (-170, -90, -30, 20, 60, 135, 180):
        angle = np.radians(degrees)
        turned = level @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 300
        place = form.place(turned, level=True)
        np.testing.assert_allclose(place.to_crop(select131(turned)), expected, atol=0.05)
    if name != "upright":
        assert form.place(level + 300, level=True) == form.place(level + 300)


def one(frame: int, points: np.ndarray, picture: np.ndarray) -> Track:
    """A track of one frame."""
    return Track([frame], [tracked(points)], [face_of(points, picture.shape).box], [seen(picture, points)], [None])


def turn(picture: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned clockwise about its middle, in a square as wide as its diagonal, and the (2, 3) matrix."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    matrix = np.add(matrix, [[0, 0, (side - width) / 2], [0, 0, (side - height) / 2]])
    return cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE), matrix


@pytest.mark.parametrize("degrees", [20, 75, 120, 150, 180, 270])
def test_a_face_is_found_at_any_angle(two, degrees):
    tracker, turned = FaceTracker(), TurnedFaces(1)
    for picture, points in two:
        frame, matrix = turn(picture, degrees)
        expected = points @ matrix[:, :2].T + matrix[:, 2]
        found = turned.corrected(frame, tracker.find(frame))
        error = np.linalg.norm(found[0].landmarks - expected, axis=1).mean() / np.ptp(points[:, 0])
        assert error < 0.04
    tracker.close()
    turned.close()


def test_an_upright_face_is_left_as_it_is_found(two):
    turned = TurnedFaces(1)
    for picture, points in two * 3:
        faces = [face_of(points, picture.shape)]
        assert turned.corrected(picture, faces)[0] is faces[0]
    assert turned.corrected(empty(), []) == []
    turned.close()


def test_a_face_at_the_border_is_dubbed_throughout_or_not_at_all(two, tmp_path):
    (hopper, hers), _ = two
    left, right = hers[:, 0].min(), hers[:, 0].max()
    cut = [picture[:, round(left + 0.35 * (right - left)) :] for picture in portraits(8)]
    cut = [np.ascontiguousarray(picture[:, : picture.shape[1] // 2 * 2]) for picture in cut]
    scene = observe(cut, workers=1)
    assert [person.frames for person in scene.people] == [list(range(8))]
    assert not without_mouth(scene.people[0]).any()

    person, picture = Person(), hopper
    for frame, share in enumerate([0.9, 0.6, 0.45, 0.6, 0.45, 0.6, 0.8, 0.6]):
        mouth = np.sort(select131(hers)[LIP_POINTS][:, 1])
        shifted = np.add(hers, [0, HEIGHT - float(np.interp(share, np.linspace(0, 1, len(mouth)), mouth))])
        person.extend(one(frame, shifted, picture))
    assert without_mouth(person).tolist() == [False, False, True, True, True, True, False, False]

    low = portrait(dy=round(HEIGHT + 14 - hers[[0, 17], 1].mean()))  # the mouth is below the picture
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.24)
    for frames, said in (([hopper] * 6, ""), ([hopper] * 3 + [low] * 3, "3 frames show a face whose mouth is outside")):
        video = write_frames(tmp_path / "video.mp4", frames)
        summary = dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), QUIET)
        assert said in str(summary) and ("outside" in str(summary)) == bool(said)


def test_references_of_somebody_else_are_said(two, tmp_path):
    (hopper, _), (collins, _) = two
    video, same, other = (
        write_frames(tmp_path / f"{name}.mp4", frames)
        for name, frames in (("video", [hopper] * 3), ("same", portraits(3)), ("other", [collins] * 3))
    )
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.12)
    for references, said in ((same, False), (other, True)):
        options = DubOptions(progress=None, references=references)
        summary = str(dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), options))
        assert ("warning: nobody in references" in summary) == said
