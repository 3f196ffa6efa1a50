"""The parts of dubbing that meet odd videos: playing back in bounded memory, people, gaps, cuts, threads."""

import itertools
import threading
from fractions import Fraction

import cv2
import numpy as np
import pytest
from conftest import ROOT
from faces import HEIGHT, WIDTH, empty, portrait, portraits, write_frames
from media_files import number_of, write_sound, write_video

from benchmarks.dubbing import SourcesOwnFaces
from benchmarks.flicker import flicker, regions
from dubbing import DubOptions, dub
from dubbing.looks import LOOK_SHAPE
from dubbing.motion import motion
from dubbing.paste import match_colour
from dubbing.people import Person, Scene, choose, observe, turned_away
from dubbing.source import Source, source_index
from dubbing.tracks import Track
from media.audio import audio_windows
from media.crop import STSA
from media.errors import InputError
from media.face import FaceTracker
from media.landmarks import select131, tracked
from media.stages import Clock, background
from media.video import read_frames


def test_playing_turns_round_at_both_ends():
    assert source_index(np.arange(10), 3).tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2]
    assert source_index(np.arange(4), 1).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("memory", [2**28, 5 * 64 * 64 * 3, 1])
def test_a_video_played_back_and_forth_shows_the_same_frames_whatever_the_memory(tmp_path, memory):
    path = write_video(tmp_path / "numbers.mp4", pictures=23, options={"g": "12", "bf": "2"})
    source = Source(path, 25, memory)
    scanned = [number_of(frame) for frame in source.scan()]
    assert scanned == list(range(23))
    played = [(index, number_of(frame)) for index, frame in source.play(60)]
    assert [index for index, _ in played] == source_index(np.arange(60), 23).tolist()
    assert all(index == number for index, number in played)
    assert number_of(source.frame(17)) == 17


@pytest.mark.parametrize(
    ("name", "codec", "options", "rate"),
    [
        ("closed.mp4", "libx264", {"g": "10", "bf": "3"}, 25),
        ("open.mp4", "libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}, 25),
        ("one_key.mkv", "libx264", {"g": "1000"}, Fraction(30000, 1001)),
        ("mpeg4.avi", "mpeg4", {}, 24),
        ("vp9.webm", "libvpx-vp9", {"g": "8", "cpu-used": "8", "deadline": "realtime"}, 30),
        ("stream.ts", "libx264", {"g": "10"}, 25),
    ],
)
def test_reading_from_the_middle_gives_the_frames_that_reading_through_gives(tmp_path, name, codec, options, rate):
    path = write_video(tmp_path / name, codec, pictures=45, rate=rate, options=options)
    whole = list(read_frames(path))
    for start in (1, 11, 20, len(whole) - 1):
        part = list(itertools.islice(read_frames(path, start=start), 3))
        assert len(part) == min(3, len(whole) - start)
        for got, expected in zip(part, whole[start:], strict=False):
            assert np.array_equal(got, expected), (name, start)
    assert list(read_frames(path, start=len(whole))) == []


@pytest.fixture(scope="module")
def two_faces() -> tuple[np.ndarray, np.ndarray]:
    """Two people, (224, 240, 3) uint8 each: Grace Hopper and the bundled portrait."""
    other = next(read_frames(ROOT / "assets" / "portrait.mp4"))
    return portrait(), cv2.resize(other, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _names(scene: Scene, who: dict[str, Person], **choice) -> list[str]:
    """For each frame the letters of the people who are dubbed there."""
    letters = {id(person): letter for letter, person in who.items()}
    return ["".join(sorted(letters[id(person)] for person in row)) for row in choose(scene, **choice)]


def test_people_are_told_apart_and_followed(two_faces):
    hopper, collins = two_faces
    side_by_side = np.concatenate([hopper, collins], axis=1)
    swapped = np.concatenate([collins, hopper], axis=1)  # a cut, after which they have changed places
    alone = np.concatenate([hopper, empty()], axis=1)
    nobody = np.concatenate([empty(), empty()], axis=1)
    scene = observe([side_by_side] * 3 + [nobody] + [swapped] * 2 + [alone], workers=2)
    assert scene.frames == 7 and scene.cuts == [0, 3, 4, 6]
    assert len(scene.people) == 2
    left, right = sorted(scene.people, key=lambda person: person.boxes[0][0])
    assert left.frames == [0, 1, 2, 4, 5, 6] and right.frames == [0, 1, 2, 4, 5]
    who = {"h": left, "c": right}

    assert _names(scene, who, face="left") == ["h", "h", "h", "", "h", "h", "h"]
    assert _names(scene, who, face="right") == ["c", "c", "c", "", "c", "c", ""]
    assert _names(scene, who, face="1") == _names(scene, who, face="right")
    assert _names(scene, who, face="all") == ["ch", "ch", "ch", "", "ch", "ch", "h"]
    assert _names(scene, who, at=(WIDTH + 120, 120)) == _names(scene, who, face="right")
    largest = "h" if left.area(0) > right.area(0) else "c"
    assert _names(scene, who)[:6] == [largest] * 3 + [""] + [largest] * 2
    assert _names(scene, who)[6] == "h"  # whoever is there, with references of their own
    for choice in ({"face": "2"}, {"at": (0, 0)}):
        with pytest.raises(InputError, match="--face"):
            choose(scene, **choice)


def _track(frame: int, points: np.ndarray) -> Track:
    """A track of one frame."""
    box = np.array([50, 50, 150, 150], np.int32)
    return Track([frame], [tracked(points.astype(np.float32))], [box], [np.zeros(LOOK_SHAPE, np.uint8)])


def _mesh(turn: float = 0.0) -> np.ndarray:
    """478 points of a face whose nose lies `turn` of half the width beside the middle."""
    points = np.random.default_rng(0).uniform(60, 140, (478, 2))
    points[234], points[454], points[1] = (50, 100), (150, 100), (100 + 50 * turn, 110)
    return points


def test_a_face_in_profile_counts_as_none():
    assert not turned_away(_mesh(0.0)) and not turned_away(_mesh(-0.7))
    assert turned_away(_mesh(0.95)) and turned_away(_mesh(-1.2))


def test_trembling_is_taken_out_without_lag_and_cuts_are_kept():
    random = np.random.default_rng(0)
    still = _mesh()
    person = Person()
    path = np.concatenate([10 * np.sin(np.arange(30) / 5), 40 + np.zeros(20)])  # a movement, a cut, a rest
    for frame in range(50):
        moved = still + np.array([path[frame], 0]) + random.normal(0, 0.5, still.shape)
        person.extend(_track(frame, moved))
    dubbed = np.ones(50, bool)
    smooth = motion(person, dubbed, [0, 30], 120)
    rough = motion(person, dubbed, [0, 30], 120, smooth=False)
    truth = select131(still)[None] + np.stack([path, np.zeros(50)], axis=1)[:, None]
    error = np.abs(smooth.landmarks - truth).mean(axis=(1, 2))
    assert error.mean() < 0.7 * np.abs(rough.landmarks - truth).mean()
    assert error[28:32].max() < 0.6  # nothing of the jump of 40 px is smeared
    shifts = [np.corrcoef(np.roll(smooth.landmarks[3:27, 0, 0], lag), path[3:27])[0, 1] for lag in (-1, 0, 1)]
    assert np.argmax(shifts) == 1

    # Played forward, back and forward again: runs end at the cut, and go on where the video turns round.
    assert smooth.rows[[0, 49, 50, 99, 100]].tolist() == [0, 49, 49, 0, 0]
    assert (smooth.first[5], smooth.last[5]) == (0, 29)
    assert (smooth.first[45], smooth.last[45]) == (30, 69)
    assert (smooth.first[100], smooth.last[100]) == (70, 119)


def test_frames_that_are_not_dubbed_part_the_runs():
    person = Person()
    for frame in (0, 1, 2, 4, 5):
        person.extend(_track(frame, _mesh()))
    dubbed = np.array([True, True, True, False, True, False])
    m = motion(person, dubbed, [0], 6)
    assert m.rows.tolist() == [0, 1, 2, -1, 3, -1]
    assert m.first.tolist() == [0, 0, 0, -1, 4, -1] and m.last.tolist() == [2, 2, 2, -1, 4, -1]


def test_the_pasted_colour_follows_the_frames():
    random = np.random.default_rng(0)
    source = cv2.GaussianBlur(random.integers(40, 200, (128, 128, 3)).astype(np.uint8), (0, 0), 4)
    tinted = np.clip(source.astype(int) + np.array([12, -9, 5]), 0, 255).astype(np.uint8)
    assert np.abs(match_colour(tinted, source, STSA).astype(int) - source).max() <= 1
    assert np.array_equal(match_colour(source, source, STSA), source)


def test_background_keeps_order_passes_errors_on_and_stops_when_nobody_reads():
    assert list(background(iter(range(100)), 3)) == list(range(100))

    def failing():
        yield 1
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        list(background(failing(), 2))

    closed = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    items = background(endless(), 2)
    assert next(items) == 0
    before = threading.active_count()
    items.close()
    assert closed.is_set() and threading.active_count() == before - 1


def test_the_clock_adds_up_over_threads():
    clock = Clock()
    for _ in clock.iterate("count", range(3)):
        with clock.time("work"):
            pass
    assert set(clock.seconds) == {"count", "work"} and all(value >= 0 for value in clock.seconds.values())


def test_pictures_at_another_rate_hear_the_sound_at_their_own_time():
    features = np.arange(400, dtype=np.float32)[:, None].repeat(80, axis=1)
    whole = audio_windows(features, "mel", np.arange(-3, 100))
    starts = [80 * (i - 2) // 25 for i in range(-3, 100)]  # REFERENCE: 16 features from floor(80 (i-2) / 25)
    inside = [i for i, start in enumerate(starts) if start >= 0]
    assert [int(whole[i, 0, 0]) for i in inside] == [starts[i] for i in inside]
    between = audio_windows(features, "mel", np.arange(50, 52, 0.25))[:, 0, 0]
    assert between.tolist() == [153, 154, 155, 156, 156, 157, 158, 159]


def test_pasting_adds_no_flicker(tmp_path):
    """The source's own faces, cropped, shrunk and pasted back, change from frame to frame as the source does."""
    pictures = [portrait(4 * np.sin(i / 6), 3 * np.cos(i / 7), 1.5) for i in range(30)]
    video = write_video(tmp_path / "video.mp4", pictures=pictures, options={"crf": "8"})
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=30 / 25)
    dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None))
    before, after = (np.stack(list(read_frames(path))).astype(np.float32) for path in (video, tmp_path / "out.mp4"))
    scene = observe(before[:1].astype(np.uint8), workers=1)
    x1, y1, x2, y2 = scene.people[0].boxes[0]
    lower = (slice(None), slice((y1 + y2) // 2, y2), slice(x1, x2))
    flicker = [np.abs(np.diff(x[lower], n=2, axis=0)).mean() for x in (before, after)]
    assert flicker[1] < 1.25 * flicker[0]
    assert np.abs(before - after)[lower].mean() < 4


def test_flicker_is_told_apart_by_where_it_is(tmp_path):
    pictures = portraits(6)
    with FaceTracker() as tracker:
        face = tracker.find(pictures[0])[0]
    cheeks = regions((HEIGHT, WIDTH), STSA.place(face.landmarks), select131(face.landmarks), STSA)["cheeks"]
    trembling = [picture.copy() for picture in pictures]
    for picture in trembling[::2]:
        picture[cheeks] = np.clip(picture[cheeks].astype(int) + 8, 0, 255)
    source, dubbed = (write_frames(tmp_path / name, x) for name, x in (("s.mp4", pictures), ("d.mp4", trembling)))
    found = flicker(source, [source, dubbed], STSA)
    assert set(found) == {"mouth", "cheeks", "contour", "rest"}
    assert all(before == same for before, same, _ in found.values())
    assert found["cheeks"][2] > found["cheeks"][0] + 1.5
    assert abs(found["mouth"][2] - found["mouth"][0]) < 0.5
    assert abs(found["rest"][2] - found["rest"][0]) < 0.2
