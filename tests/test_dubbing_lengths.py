"""The part of the video that is dubbed, the length of the output, and the progress that a dub reports."""

import numpy as np
import pytest
from faces import empty, portrait, write_frames
from media_files import beat_times, write_sound

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub, first_pass, pipeline
from dubbing.motion import motion
from dubbing.people import Person
from media.errors import InputError
from media.files import replacing
from media.sound import read_audio
from media.video import VideoWriter, read_frames

MOVES = [portrait(3.0 * i) for i in range(10)]  # 0.4 s, every frame at another place


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("video") / "moves.mp4", MOVES)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    return {s: write_sound(folder / f"{s}.wav", "pcm_s16le", 16000, seconds=s) for s in (0.2, 0.8)}


def shown(output) -> list[int]:
    """Which of `MOVES` each frame of a dub shows."""
    frames = [frame.astype(int) for frame in read_frames(output)]
    return [int(np.argmin([np.abs(frame - picture).mean() for picture in MOVES])) for frame in frames]


@pytest.mark.parametrize(
    ("options", "seconds", "expected"),
    [
        ({}, 0.2, range(5)),
        ({"start": 0.12}, 0.2, range(3, 8)),
        ({"start": 0.24}, 0.2, [6, 7, 8, 9, 9]),
        ({"start": 0.12, "end": 0.24}, 0.2, [3, 4, 5, 5, 4]),
        ({"end": 0.08}, 0.2, [0, 1, 1, 0, 0]),
        ({"length": "video"}, 0.2, range(10)),
        ({"length": "video"}, 0.8, range(10)),
        ({"length": "video", "start": 0.2, "end": 0.32}, 0.2, [5, 6, 7]),
        ({"length": "shorter"}, 0.2, range(5)),
        ({"length": "shorter"}, 0.8, range(10)),
        ({"length": "shorter", "start": 0.32}, 0.2, [8, 9]),
        ({}, 0.8, [*range(10), *range(9, -1, -1)]),
        ({"when_short": "loop"}, 0.8, [*range(10), *range(10)]),
        ({"when_short": "loop", "end": 0.12}, 0.2, [0, 1, 2, 0, 1]),
        ({"when_short": "freeze"}, 0.8, [*range(10), *[9] * 10]),
        ({"when_long": "keep"}, 0.2, range(10)),
        ({"when_long": "keep", "start": 0.12, "end": 0.36}, 0.2, range(3, 9)),
        ({"when_long": "keep", "when_short": "freeze"}, 0.8, [*range(10), *[9] * 10]),
        ({"audio_start": 0.4}, 0.8, range(10)),
        ({"audio_start": 0.4, "audio_end": 0.6}, 0.8, range(5)),
    ],
)
def test_the_frames_of_the_output(tmp_path, video, speech, options, seconds, expected):
    output = tmp_path / "out.mp4"
    summary = dub(video, speech[seconds], output, SourcesOwnFaces(), DubOptions(progress=None, **options))
    assert shown(output) == list(expected) and summary.frames == len(expected)
    assert len(read_audio(output)) / 16000 <= summary.frames / 25 + 0.001  # no sound after the last frame


def test_the_rest_of_a_longer_video_is_its_own_in_picture_and_sound(tmp_path, speech):
    """The source beeps at every half second, the sound is a hum."""
    beeps = write_sound(tmp_path / "beeps.wav", "pcm_s16le", 48000, "stereo", seconds=1.2)
    with VideoWriter(tmp_path / "video.mp4", 240, 224, sound=beeps, crf=10) as writer:
        for picture in [*MOVES, *MOVES, *MOVES]:
            writer.write(picture)
    hum = 0.02 * np.sin(np.arange(4800) * 2 * np.pi * 440 / 16000).astype(np.float32)[None]
    sound = write_sound(tmp_path / "hum.wav", "pcm_s16le", 16000, sound=hum)
    output = tmp_path / "out.mp4"
    options = DubOptions(progress=None, when_long="keep", start=0.2, crop_output=tmp_path / "crops.mp4")
    summary = dub(tmp_path / "video.mp4", sound, output, SourcesOwnFaces(), options)
    assert summary.frames == 25 and summary.untouched == [] and summary.kept == pytest.approx(17 / 25)
    assert "the last 0.68 s are the source's own" in str(summary)
    heard = read_audio(output)
    assert len(heard) == pytest.approx(16000, abs=700)
    np.testing.assert_allclose(beat_times(heard), [0.32, 0.8], atol=0.005)  # the dub ends within the first
    assert np.abs(heard[800:4000]).max() < 0.03
    dubbed = [frame.mean() > 10 for frame in read_frames(tmp_path / "crops.mp4")]  # black where no face is generated
    assert dubbed == [True] * 8 + [False] * 17
    options = DubOptions(progress=None, when_long="keep")
    silent = dub(write_frames(tmp_path / "silent.mp4", MOVES), sound, output, SourcesOwnFaces(), options)
    assert silent.frames == 10 and len(read_audio(output)) == pytest.approx(4800, abs=100)


def test_a_loop_is_a_cut(video):
    points = np.random.default_rng(0).uniform(0, 99, (132, 2)).astype(np.float32)
    person = Person(list(range(10)), [points + i for i in range(10)], lights=[0.5] * 10)
    dubbed = np.ones(10, bool)
    bounced = motion(person, dubbed, [], 20, smooth=False)
    looped = motion(person, dubbed, [], 20, smooth=False, when_short="loop")
    assert bounced.first.tolist() == [0] * 20
    assert looped.first.tolist() == [0] * 10 + [10] * 10 and looped.last.tolist() == [9] * 10 + [19] * 10


def test_a_dub_in_which_nothing_is_dubbed_is_refused(tmp_path, speech):
    frames = [empty()] * 8 + MOVES[:8]
    video = write_frames(tmp_path / "late.mp4", frames)
    with pytest.raises(InputError, match=r"no face to dub in 0\.20 s"):
        dub(video, speech[0.2], tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None))
    assert [path.name for path in tmp_path.iterdir()] == ["late.mp4"]


def test_the_mouth_follows_the_voice_and_the_output_has_the_audio(tmp_path, video, speech, monkeypatch):
    taken = []

    def features_of(wav, speaker):
        taken.append(wav)
        return np.zeros((1 + len(wav) // 200, 80), np.float32)

    monkeypatch.setattr(pipeline, "_sound_features", features_of)
    music = write_sound(tmp_path / "music.wav", "pcm_s16le", 16000, sound=np.full((1, 9600), 0.01, np.float32))
    output = tmp_path / "out.mp4"
    summary = dub(video, music, output, SourcesOwnFaces(), DubOptions(progress=None, voice=speech[0.2]))
    assert summary.frames == 15 and len(taken[0]) == 3200 and not np.abs(read_audio(output)).max() > 0.1
    with pytest.raises(InputError, match="also the input"):
        dub(video, music, output, SourcesOwnFaces(), DubOptions(voice=output))


def test_a_point_outside_of_the_picture_is_refused_at_once(tmp_path, video, speech, monkeypatch):
    monkeypatch.setattr(first_pass, "observe", None)
    for point in ((240, 10), (10, 224)):
        options = DubOptions(progress=None, face_at=point)
        with pytest.raises(InputError, match=f"{point[0]},{point[1]} lies outside of .*, 240x224"):
            dub(video, speech[0.2], tmp_path / "out.mp4", SourcesOwnFaces(), options)
        with pytest.raises(InputError, match="lies outside"):
            pipeline.prepare(video, [], options)


def test_what_a_crashed_run_left_is_removed_by_the_next(tmp_path, video, speech):
    output, left = tmp_path / "out.mp4", ".out.0123456789ab.partial.mp4"
    others = [".out.partial.mp4", ".other.0123456789ab.partial.mp4", ".out.0123456789ab.partial.mkv"]
    for name in (left, *others):
        (tmp_path / name).touch()
    with replacing(output) as running:  # of another process that writes the same output
        dub(video, speech[0.2], output, SourcesOwnFaces(), DubOptions(progress=None))
        assert running.is_file()
        running.write_bytes(b"the later one")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "out.mp4"])
    assert output.read_bytes() == b"the later one"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"start": 0.4}, "--start 0.4"),
        ({"start": 0.2, "end": 0.2}, "--end 0.2"),
        ({"end": 0.0}, "--end 0"),
        ({"audio_start": 0.2}, "--audio-start 0.2"),
        ({"audio_start": 0.1, "audio_end": 0.05}, "--audio-end 0.05"),
        ({"when_long": "keep", "length": "shorter"}, "--when-long keep contradicts"),
    ],
)
def test_a_part_that_an_input_does_not_have_is_refused(tmp_path, video, speech, options, named):
    with pytest.raises(InputError, match=named):
        dub(video, speech[0.2], tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None, **options))
    assert not any(tmp_path.iterdir())


def test_a_part_is_read_again_where_its_frames_do_not_fit_in_memory(video):
    from dubbing.source import Source

    source = Source(video, 25, memory=1, start=4)
    assert len(list(source.scan())) == 6
    places = [index for index, _ in source.play(12)]
    assert places == [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]
    for index in (5, 0, 2):
        differences = [np.abs(source.frame(index).astype(int) - picture).mean() for picture in MOVES]
        assert int(np.argmin(differences)) == index + 4


def test_progress_names_each_stage_and_its_frames(tmp_path, video, speech):
    seen = []

    def progress(frames, stage, total, **_):
        for frame in frames:
            seen.append((stage, total))
            yield frame

    dub(video, speech[0.2], tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=progress))
    assert seen == [("tracking", 10)] * 10 + [("dubbing", 5)] * 5


@pytest.mark.parametrize("stage", ["tracking", "dubbing"])
def test_an_exception_of_the_progress_stops_the_dub_and_leaves_no_file(tmp_path, video, speech, stage):
    class Stopped(Exception):
        pass

    def progress(frames, at, total, **_):
        for number, frame in enumerate(frames):
            if at == stage and number == 2:
                raise Stopped
            yield frame

    with pytest.raises(Stopped):
        dub(video, speech[0.2], tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=progress))
    assert not any(tmp_path.iterdir())
