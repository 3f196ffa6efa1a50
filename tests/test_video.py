"""Reading videos of any kind as frames in time, and writing them in step with their sound."""

import itertools
import os
import resource
import signal
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
from media_files import SIDE, beat_times, number_of, numbered, write_sound, write_video

from dubbing import summary
from dubbing.options import DubOptions
from media import video_writer
from media.errors import InputError
from media.sound import read_audio
from media.video import Colour, VideoWriter, probe, read_frames

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "b_frames.mkv": {"options": {"bf": "3", "b-pyramid": "normal"}},
    "h264_10bit.mp4": {"pix_fmt": "yuv420p10le"},
    "h264_444.mp4": {"pix_fmt": "yuv444p"},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "hevc_10bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "h264.ts": {},
    "h264.flv": {},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "raw.h264": {},
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "a.apng": {"codec": "apng", "pix_fmt": "rgb24"},
}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_writing_av1_leaves_the_process_its_priority(tmp_path):
    write_video(tmp_path / "av1.mp4", pictures=2, **KINDS["av1.mp4"])
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def numbers(path, **options) -> list[int]:
    return [number_of(frame) for frame in read_frames(path, **options)]


@pytest.mark.parametrize("name", KINDS)
def test_video_of_any_kind_becomes_rgb_frames_in_order(name, tmp_path):
    path = write_video(tmp_path / name, **KINDS[name])
    frames = list(read_frames(path))
    assert [number_of(frame) for frame in frames] == list(range(20))
    assert all(frame.shape == (SIDE, SIDE, 3) and frame.dtype == np.uint8 for frame in frames)
    info = probe(path)
    assert (info.width, info.height, info.frame_rate, info.has_sound) == (SIDE, SIDE, 25, False)
    if name != "mpeg2.mpg":  # FFmpeg takes a programme stream this short for one frame
        assert info.duration == pytest.approx(0.8, abs=0.1)


def displayed(times: list[float], duration: float, fps: float = 25) -> list[int]:
    """Which of the frames that begin at `times` is on display in the middle of each interval."""
    middles = (np.arange(round(duration * fps)) + 0.5) / fps
    return [max(k for k, time in enumerate(times) if time <= middle or k == 0) for middle in middles]


@pytest.mark.parametrize("rate", [Fraction(123, 5), Fraction(30000, 1001), 30, 50, 60, Fraction(25, 2), 10])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_another_rate_keeps_its_duration(rate, suffix, tmp_path):
    path = write_video(tmp_path / f"a{suffix}", pictures=60, rate=rate)
    shown, expected = numbers(path), displayed([k / rate for k in range(60)], float(60 / rate))
    assert len(shown) == len(expected)
    # Matroska counts milliseconds, so that a frame that changes in the very middle of an interval may be the other.
    assert np.abs(np.subtract(shown, expected)).max() <= (suffix == ".mkv")
    assert numbers(path, fps=None) == list(range(60))


def test_a_varying_rate_keeps_its_duration(tmp_path):
    times = np.cumsum([0, *np.random.default_rng(0).integers(5, 200, 39)])  # ms
    path = write_video(tmp_path / "a.mkv", pictures=40, times=times.tolist(), time_base=Fraction(1, 1000))
    shown = numbers(path)
    expected = displayed((times / 1000).tolist(), times[-1] / 1000)
    assert shown[: len(expected)] == expected and 0 <= len(shown) - len(expected) <= 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm"])
@pytest.mark.parametrize("start", [Fraction(0), Fraction(7, 10)])
def test_sound_and_picture_are_counted_from_one_zero(suffix, start, tmp_path):
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    path = write_video(tmp_path / f"a{suffix}", codec, 40, beats=(start, Fraction(1)))
    assert numbers(path) == list(range(40))
    np.testing.assert_allclose(beat_times(read_audio(path))[0], float(start), atol=0.004)


def test_the_first_timestamp_need_not_be_zero(tmp_path):
    path = write_video(tmp_path / "a.ts", times=range(5000, 5020))
    assert numbers(path) == list(range(20))


def test_a_picture_that_starts_after_the_sound_is_held_from_the_beginning(tmp_path):
    path = write_video(tmp_path / "a.mkv", times=range(25, 45), beats=(Fraction(0), Fraction(2)))
    assert numbers(path) == [0] * 25 + list(range(20))
    np.testing.assert_allclose(beat_times(read_audio(path)), [0, 0.5, 1, 1.5], atol=0.004)


CORNERS = np.zeros((48, SIDE, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (200, 30, 30), (30, 200, 30), (30, 30, 200)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_metadata_is_obeyed(rotation, tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures=[CORNERS] * 3, rotation=rotation)
    upright = np.rot90(CORNERS, rotation // 90)
    (frame, *_), info = read_frames(path), probe(path)
    assert frame.shape == upright.shape and (info.height, info.width) == upright.shape[:2]
    assert np.abs(frame.astype(int) - upright).mean() < 12


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([-1, 0, 0, 1], CORNERS[:, ::-1]),
        ([1, 0, 0, -1], CORNERS[::-1]),
        ([0, 1, 1, 0], CORNERS.transpose(1, 0, 2)),
        ([0, -1, -1, 0], CORNERS[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_mirroring_metadata_is_obeyed(matrix, expected, tmp_path):
    one = 1 << 16
    a, b, c, d = (one * value for value in matrix)
    path = write_video(tmp_path / "a.mp4", pictures=[CORNERS] * 3, matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30])
    frame = next(read_frames(path))
    assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("name", ["a.png", "50%d.png", "img%03d.png", "a.jpg", "a.bmp", "a.webp", "a.tiff"])
def test_a_single_image_is_a_video_of_one_frame(name, tmp_path):
    import cv2

    path = tmp_path / name
    path.write_bytes(cv2.imencode(path.suffix, numbered(1234, 65, 47))[1].tobytes())
    frames = list(read_frames(path))
    assert [number_of(frame) for frame in frames] == [1234] and frames[0].shape == (47, 65, 3)
    info = probe(path)
    assert (info.width, info.height) == (65, 47) and info.duration == pytest.approx(0.04)


def test_a_change_of_size_within_a_video_is_scaled_to_the_first(tmp_path):
    first = write_video(tmp_path / "1.ts", pictures=10, options={"bf": "0"}).read_bytes()
    larger = [numbered(k, 128, 96) for k in range(10, 20)]
    second = write_video(tmp_path / "2.ts", pictures=larger, times=range(10, 20), options={"bf": "0"}).read_bytes()
    (tmp_path / "a.ts").write_bytes(first + second)
    frames = list(read_frames(tmp_path / "a.ts"))
    assert {frame.shape for frame in frames} == {(SIDE, SIDE, 3)}
    assert [number_of(frame) for frame in frames] == list(range(20))


def test_frames_are_the_callers_own(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures=3, rate=5)
    for frame in read_frames(path):
        number = number_of(frame)
        frame[:] = 255  # must not show in the next frame, which repeats this one
        assert number in (0, 1, 2)


def bad_videos(folder):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "directory.mp4").mkdir()
    whole = write_video(folder / "whole.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    whole = write_video(folder / "faststart.mp4", container_options={"movflags": "+faststart"}).read_bytes()
    (folder / "truncated_faststart.mp4").write_bytes(whole[: len(whole) - 20])
    write_sound(folder / "sound.wav", "pcm_s16le", 16000)
    cv2.imwrite(str(folder / "huge.png"), np.zeros((12000, 9000), np.uint8))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    for name in ("no_frames.mp4", "no_frames.mkv"):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = SIDE
            container.start_encoding()
    names = [
        "huge.png",
        "missing.mp4",
        "empty.mp4",
        "text.mp4",
        "noise.mkv",
        "directory.mp4",
        "truncated.mp4",
        "sound.wav",
    ]
    return [folder / n for n in [*names, "truncated_faststart.mp4", "playlist.mp4", "no_frames.mp4", "no_frames.mkv"]]


@pytest.mark.parametrize("read", [probe, lambda path: list(read_frames(path))])
def test_a_bad_video_is_one_line_that_names_it_and_the_remedy(read, tmp_path, capfd):
    for path in bad_videos(tmp_path):
        with pytest.raises(InputError) as error:
            read(path)
        message = str(error.value)
        assert str(path) in message and ";" in message and "\n" not in message, message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["h264.mp4", "b_frames.mkv", "mpeg4.avi", "h264.ts", "vp9.webm", "a.gif", "h264.flv"])
def test_a_damaged_video_is_read_or_refused_without_a_crash(name, tmp_path, capfd):
    whole = write_video(tmp_path / name, **KINDS[name]).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(10):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(0, len(data), 15)] ^= (1 << random.integers(0, 8, 15)).astype(np.uint8)
        (tmp_path / name).write_bytes(data[: random.integers(1, len(data) + 1)].tobytes())
        for read in (probe, lambda path: sum(1 for _ in itertools.islice(read_frames(path), 3000))):
            try:
                read(tmp_path / name)
            except InputError as error:
                assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


def smooth(width: int, height: int) -> np.ndarray:
    """Slow gradients of all colours, which 4:2:0 and a good encoder keep."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    return np.stack([40 + 170 * x + 0 * y, 40 + 170 * y + 0 * x, 200 - 80 * x - 80 * y], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 48), (64, 47), (101, 77)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_written_video_keeps_size_pixel_aspect_rate_and_colours(width, height, suffix, tmp_path):
    picture, path = smooth(width, height), tmp_path / f"a{suffix}"
    with VideoWriter(path, width, height, Fraction(30000, 1001), pixel_aspect=Fraction(4, 3), crf=1) as writer:
        for _ in range(30):
            writer.write(picture)
    info = probe(path)
    assert (info.width, info.height, info.pixel_aspect) == (width + width % 2, height + height % 2, Fraction(4, 3))
    assert float(info.frame_rate) == pytest.approx(30000 / 1001, rel=1e-3)
    with av.open(str(path)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
    frames = list(read_frames(path, fps=None))
    assert len(frames) == 30
    for frame in frames[::10]:  # the column and the row that are added are like the last ones
        assert np.abs(frame[:, width - 1 :].astype(int) - frame[:, width - 1 : width]).max() <= 6
        assert np.abs(frame[height - 1 :].astype(int) - frame[height - 1 : height]).max() <= 6
    difference = np.stack(frames)[:, :height, :width].astype(int) - picture
    assert np.abs(difference).mean() < 1.5 and np.abs(difference.mean(axis=(0, 1, 2))).max() < 0.5


@pytest.mark.parametrize("colour", [Colour(), Colour(1, 1, 1), Colour(6, 6, 6), Colour(9, 1, 1), Colour(8, 2, 2)])
def test_colours_survive_in_the_sources_own_space(colour, tmp_path):
    picture = smooth(64, 48)
    with VideoWriter(tmp_path / "a.mp4", 64, 48, colour=colour, crf=1) as writer:
        writer.write(picture)
    frame = next(read_frames(tmp_path / "a.mp4"))
    assert np.abs(frame.astype(int) - picture).mean() < 1.5
    assert probe(tmp_path / "a.mp4").colour == (Colour(6) if colour.matrix == 8 else colour)


@pytest.mark.slow
def test_sound_and_picture_are_in_step_at_the_end_of_ten_minutes(tmp_path):
    sound = write_sound(tmp_path / "a.flac", "flac", 11025, seconds=600)
    dark, light = np.full((32, 32, 3), 40, np.uint8), np.full((32, 32, 3), 200, np.uint8)
    fps, frames = Fraction(30000, 1001), 17982  # 600.0 s
    with VideoWriter(tmp_path / "a.mp4", 32, 32, fps, sound=sound) as writer:
        for k in range(frames):
            writer.write(light if k / fps % Fraction(1, 2) < Fraction(1, 20) else dark)
    flashes = np.array([k for k, f in enumerate(read_frames(tmp_path / "a.mp4", fps=None)) if f.mean() > 120]) / fps
    heard = beat_times(read_audio(tmp_path / "a.mp4"))
    seen = np.array([float(time) for k, time in enumerate(flashes) if k == 0 or time - flashes[k - 1] > 0.2])
    assert len(seen) == len(heard) == 1200
    assert np.abs(seen - heard).max() < 0.04
    info = probe(tmp_path / "a.mp4")
    assert info.has_sound and info.duration == pytest.approx(600, abs=0.04)


@pytest.mark.parametrize(
    ("rate", "layout", "kept"),
    [(8000, "mono", 8000), (44100, "stereo", 44100), (96000, "stereo", 48000), (48000, "5.1", 48000)],
)
def test_written_sound_keeps_its_rate_and_channels_where_aac_has_them(rate, layout, kept, tmp_path):
    sound = write_sound(tmp_path / "a.wav", "pcm_s16le", rate, layout, 2.0)
    with VideoWriter(tmp_path / "a.mp4", SIDE, SIDE, sound=sound, duration=1.2) as writer:
        for k in range(30):
            writer.write(numbered(k))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.sample_rate) == ("aac", kept)
        assert stream.codec_context.channels == av.AudioLayout(layout).nb_channels
        assert stream.duration is not None and stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(1.2, abs=0.001)
    np.testing.assert_allclose(beat_times(read_audio(tmp_path / "a.mp4")), [0, 0.5, 1], atol=0.005)
    assert numbers(tmp_path / "a.mp4") == list(range(30))


def test_sound_is_interleaved_with_the_picture(tmp_path):
    sound = write_sound(tmp_path / "a.wav", "pcm_s16le", 16000, seconds=20)
    with VideoWriter(tmp_path / "a.mkv", SIDE, SIDE, sound=sound) as writer:
        for k in range(500):
            writer.write(numbered(k))
    reached = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "a.mkv")) as container:
        for packet in container.demux():
            if packet.dts is not None:
                reached[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(reached["video"] - reached["audio"]) < 1.5


def test_a_written_video_says_that_it_is_synthesized(tmp_path):
    for name in ("a.mp4", "a.mkv", "a.mov"):
        with VideoWriter(tmp_path / name, SIDE, SIDE) as writer:
            writer.write(numbered(0))
        with av.open(str(tmp_path / name)) as container:
            assert "synthesized" in {k.lower(): v for k, v in container.metadata.items()}["comment"].lower()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.mp4").write_text("old")
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", SIDE, SIDE) as writer:
            writer.write(numbered(0))
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"] and (tmp_path / "a.mp4").read_text() == "old"


def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path, capfd):
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(InputError) as error, VideoWriter(tmp_path / "a.mp4", 160, 120, crf=1) as writer:
            for k in range(100):
                writer.write(np.roll(noise, k, axis=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(tmp_path / "a.mp4") in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line_and_no_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    cases = [
        {"path": tmp_path / "a.txt"},
        {"path": tmp_path / "file" / "a.mp4"},
        {"path": tmp_path / "a.mp4", "sound": tmp_path / "missing.wav"},
        {"path": tmp_path / "a.mp4", "sound": write_video(tmp_path / "silent.mp4", pictures=2)},
        {"path": tmp_path / "a.mp4"},  # no frame at all
    ]
    before = sorted(tmp_path.iterdir())
    for case in cases:
        with pytest.raises(InputError) as error, VideoWriter(width=SIDE, height=SIDE, **case):
            pass
        assert ";" in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")


def test_a_frame_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="frame is"), VideoWriter(tmp_path / "a.mp4", SIDE, SIDE) as writer:
        writer.write(numbered(0, 32, 32))


@pytest.mark.parametrize(
    ("works", "crf", "codec"), [(True, 18, "h264_nvenc"), (True, 0, "libx264"), (False, 18, "libx264")]
)
def test_a_gpu_encodes_where_it_can(tmp_path, monkeypatch, works, crf, codec):
    monkeypatch.setattr(video_writer, "gpu_encodes", lambda: works)
    monkeypatch.setattr(summary, "gpu_encodes", lambda: works)
    assert VideoWriter(tmp_path / "a.mp4", 64, 64, crf=crf, encoder="gpu").codec == codec
    assert VideoWriter(tmp_path / "a.mp4", 64, 64, crf=crf).codec == "libx264"
    said = [] if works else ["no GPU with NVENC: encoded on the CPU"]
    assert summary.encoded_elsewhere(DubOptions(encoder="gpu")) == said
    assert summary.encoded_elsewhere(DubOptions()) == []
