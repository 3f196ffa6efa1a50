"""Damaged files, from the readers to a whole dub: each is read as far as it goes or refused, and nothing hangs."""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from faces import portrait, portraits
from media_files import number_of, numbered, write_sound, write_video

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub
from dubbing import source as playing
from dubbing.source import Source, source_index
from media.errors import InputError
from media.video import probe, read_frames

CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"g": "5", "bf": "2"}},
    "h264.mkv": {"options": {"g": "5", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "5"}},
}


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block takes longer."""

    def late(signal_number, frame):
        raise AssertionError(f"still at work after {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def mutants(whole: bytes, count: int, seed: int = 0, kept: int = 0) -> Iterator[bytes]:
    """`count` copies, every third cut short and the others with a few bits flipped; the first `kept` bytes stay."""
    random = np.random.default_rng(seed)
    for number in range(count):
        if number % 3 == 2:
            yield whole[: random.integers(max(1, kept), len(whole))]
            continue
        data = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(kept, len(data), random.integers(1, 12))
        data[places] ^= (1 << random.integers(0, 8, len(places))).astype(np.uint8)
        yield data.tobytes()


@pytest.mark.parametrize("name", CLIPS)
def test_a_damaged_video_is_played_as_it_was_scanned(name, tmp_path, capfd):
    path = tmp_path / name
    whole = write_video(path, pictures=12, **CLIPS[name]).read_bytes()
    played = 0
    with within(60):
        for data in mutants(whole, 20):
            path.write_bytes(data)
            source = Source(path, 25, 1)  # no more than a frame is held
            with contextlib.suppress(InputError):
                frames = sum(1 for _ in source.scan(40))
                length = 2 * frames + 3
                shown = list(source.play(length))
                assert [index for index, _ in shown] == source_index(np.arange(length), frames).tolist()
                assert {frame.shape for _, frame in shown} == {source.frame(frames - 1).shape}
                played += 1
    assert played >= 5
    assert capfd.readouterr() == ("", "")


def test_a_video_whose_middle_is_damaged_is_played_whatever_the_memory(tmp_path):
    """The first packet after a seek is one that no decoder takes."""
    path = write_video(tmp_path / "video.mp4", pictures=20, options={"g": "5", "bf": "0"})
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    keys = _key_frames(path)
    for start, size in keys[1:]:
        data[start : start + size] = 0xFF
    path.write_bytes(data.tobytes())
    source = Source(path, 25, 1)
    frames = sum(1 for _ in source.scan())
    assert len(keys) == 4 and frames > 10
    assert len(list(source.play(2 * frames))) == 2 * frames


def _key_frames(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
        return [(packet.pos, packet.size) for packet in packets if packet.pos is not None]


def test_what_a_later_pass_lacks_is_read_from_the_start_or_stands_still(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", pictures=10)
    source = Source(path, 25, 1)
    assert sum(1 for _ in source.scan()) == 10

    def short_from_the_middle(path, fps, start=0, changes=None):
        return itertools.islice(read_frames(path, fps, start), 1 if start else None)

    monkeypatch.setattr(playing, "read_frames", short_from_the_middle)
    assert [number_of(frame) for _, frame in source.play(20)] == [*range(10), *range(9, -1, -1)]

    def ends_early(path, fps, start=0, changes=None):
        return itertools.islice(read_frames(path, fps), start, 7)

    monkeypatch.setattr(playing, "read_frames", ends_early)
    assert [number_of(frame) for _, frame in source.play(12)] == [*range(7), 6, 6, 6, 6, 6]
    assert number_of(source.frame(9)) == 6

    def nothing(path, fps, start=0, changes=None):
        raise InputError("no frame")
        yield

    monkeypatch.setattr(playing, "read_frames", nothing)
    with within(5):
        for read in (lambda: list(source.play(5)), lambda: source.frame(3)):
            with pytest.raises(InputError, match="could be read once, but not again"):
                read()


def test_a_video_that_changes_its_size_is_played_in_the_first(tmp_path):
    path = tmp_path / "sizes.ts"
    parts = []
    for number, side in enumerate((64, 128)):
        pictures = [numbered(10 * number + k, side, side) for k in range(10)]
        times = range(10 * number, 10 * number + 10)
        parts.append(write_video(path, pictures=pictures, times=times, options={"bf": "0"}).read_bytes())
    path.write_bytes(b"".join(parts))
    _remuxed(path, tmp_path / "sizes.mkv")
    whole = list(read_frames(tmp_path / "sizes.mkv"))
    part = list(read_frames(tmp_path / "sizes.mkv", start=15))
    assert whole[0].shape == (64, 64, 3) and part
    assert all(np.array_equal(a, b) for a, b in zip(whole[15:], part, strict=True))


def _remuxed(path: Path, target: Path) -> None:
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


@pytest.mark.parametrize("name", ["still.png", "still.jpg", "still.webp", "animation.gif", "hevc.mp4"])
def test_a_damaged_picture_or_animation_is_read_or_refused(name, tmp_path, capfd):
    path = tmp_path / name
    if name == "hevc.mp4":
        write_video(path, "libx265", 8, options={"x265-params": "log-level=none"})
    elif name == "animation.gif":
        write_video(path, "gif", 8, pix_fmt="rgb8")
    else:
        path.write_bytes(cv2.imencode(path.suffix, portrait())[1].tobytes())
    whole = path.read_bytes()
    with within(60):
        for data in mutants(whole, 15):
            path.write_bytes(data)
            with contextlib.suppress(InputError):
                info = probe(path)
                for frame in itertools.islice(read_frames(path), 200):
                    assert frame.shape == (info.height, info.width, 3)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_video_is_dubbed_or_refused_and_leaves_nothing_half_written(tmp_path, capfd):
    video, folder = tmp_path / "video.mp4", tmp_path / "out"
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.3)
    finished = 0
    sources = [
        write_video(video.with_suffix(suffix), pictures=portraits(5), options={"g": "3"}).read_bytes()
        for suffix in (".mp4", ".mkv")
    ]
    with within(120):
        for number, data in enumerate(data for whole in sources for data in mutants(whole, 7, seed=1)):
            output = folder / f"{number}.mp4"
            video.write_bytes(data)
            try:
                dub(video, sound, output, SourcesOwnFaces(), DubOptions(progress=None))
            except InputError as error:
                assert "\n" not in str(error) and not output.exists()
            else:
                assert len(list(read_frames(output))) == 8
                finished += 1
    assert finished >= 4
    assert {path.suffix for path in folder.iterdir()} == {".mp4"} and not list(folder.glob(".*"))
    assert "Traceback" not in "".join(capfd.readouterr())
