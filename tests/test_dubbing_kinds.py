"""Dubbing every kind of video with every kind of sound: size, rate, length and picture of what comes out."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
from faces import HEIGHT, WIDTH, portrait, portraits
from media_files import write_sound, write_video

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub
from dubbing.people import observe
from media.crop import CROPS, STSA
from media.face import FaceTracker
from media.landmarks import select131
from media.references import choose_references, covering_references, lip_opening
from media.sound import read_audio
from media.video import probe, read_frames

QUIET = DubOptions(progress=None)
REALTIME = {"cpu-used": "8", "deadline": "realtime"}

# name: arguments of `write_video`, then the expected width and height
VIDEOS: dict[str, tuple[dict[str, Any], int, int]] = {
    "h264.mp4": ({}, WIDTH, HEIGHT),
    "h264_10bit.mkv": ({"pix_fmt": "yuv420p10le"}, WIDTH, HEIGHT),
    "h264_444.mov": ({"pix_fmt": "yuv444p"}, WIDTH, HEIGHT),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": "log-level=none"}}, WIDTH, HEIGHT),
    "hevc_10bit.mp4": (
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
        WIDTH,
        HEIGHT,
    ),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": REALTIME}, WIDTH, HEIGHT),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "12"}}, WIDTH, HEIGHT),
    "mpeg4.avi": ({"codec": "mpeg4", "options": {"q": "2"}}, WIDTH, HEIGHT),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, WIDTH, HEIGHT),
    "animation.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, WIDTH, HEIGHT),
    "stream.ts": ({}, WIDTH, HEIGHT),
    "rate_30.mp4": ({"rate": 30}, WIDTH, HEIGHT),
    "rate_24.mp4": ({"rate": Fraction(24000, 1001)}, WIDTH, HEIGHT),
    "rate_60.mp4": ({"rate": 60}, WIDTH, HEIGHT),
    "variable.mp4": ({"times": [0, 20, 70, 90, 130, 200], "time_base": Fraction(1, 1000)}, WIDTH, HEIGHT),
    "odd.mp4": ({"crop": (WIDTH - 1, HEIGHT - 3), "pix_fmt": "yuv444p"}, WIDTH - 1, HEIGHT - 3),
    "rotated.mp4": ({"rotation": 90, "turn": 1}, WIDTH, HEIGHT),
    "upside_down.mp4": ({"rotation": 180, "turn": 2}, WIDTH, HEIGHT),
    "144p.mp4": ({"size": (192, 144)}, 192, 144),
    "4k.mp4": ({"size": (3840, 2160), "pictures": 2}, 3840, 2160),
}
IMAGES = ("still.png", "still.jpg", "still.bmp", "still.webp")

# name: codec, rate, layout
SOUNDS = {
    "pcm16.wav": ("pcm_s16le", 16000, "mono"),
    "pcm8.wav": ("pcm_u8", 8000, "mono"),
    "float.wav": ("pcm_f32le", 96000, "stereo"),
    "mp3.mp3": ("mp3", 44100, "stereo"),
    "aac.m4a": ("aac", 48000, "5.1"),
    "flac.flac": ("flac", 48000, "stereo"),
    "opus.ogg": ("libopus", 24000, "stereo"),
    "opus.opus": ("libopus", 48000, "mono"),
}


def _video(folder, name: str):
    arguments = dict(VIDEOS[name][0])
    pictures = portraits(arguments.pop("pictures", 6))
    if "crop" in arguments:
        width, height = arguments.pop("crop")
        pictures = [picture[:height, :width] for picture in pictures]
    if "size" in arguments:
        size = arguments.pop("size")
        pictures = [cv2.resize(picture, size) for picture in pictures]
    if "turn" in arguments:  # stored turned, so that the metadata's rotation shows it upright
        turn = arguments.pop("turn")
        pictures = [np.ascontiguousarray(np.rot90(picture, turn)) for picture in pictures]
    return write_video(folder / name, pictures=pictures, **arguments)


def _check(video, sound, output, width: int, height: int) -> None:
    summary = dub(video, sound, output, SourcesOwnFaces(), QUIET)
    assert summary.untouched == [], video.name
    info = probe(output)
    assert (info.width, info.height, info.frame_rate) == (width + width % 2, height + height % 2, 25), video.name
    assert (summary.width, summary.height) == (info.width, info.height), video.name
    filled = f"{width}x{height} filled up to even sides: the last "
    assert (filled in str(summary)) == bool(width % 2 or height % 2), video.name
    seconds = len(read_audio(sound)) / 16000
    assert summary.frames == math.ceil(seconds * 25), video.name
    assert abs(info.duration - seconds) < 0.04 and abs(_sound_duration(output) - seconds) < 0.04, video.name
    source, dubbed = next(read_frames(video)), list(read_frames(output))
    assert len(dubbed) == summary.frames, video.name
    dithered = video.suffix == ".gif"
    assert np.abs(source.astype(int) - dubbed[0][:height, :width]).mean() < (20 if dithered else 4), video.name


def _sound_duration(path) -> float:
    """Seconds of sound that players play; the padding of the last AAC frame, decoded, is more."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.duration is not None and stream.time_base is not None
        return float(stream.duration * stream.time_base)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sound"), list(zip(VIDEOS, [*SOUNDS] * 3, strict=False)))
def test_a_video_of_any_kind_is_dubbed_with_sound_of_any_kind(tmp_path, name, sound):
    codec, rate, layout = SOUNDS[sound]
    video = _video(tmp_path, name)
    sound = write_sound(tmp_path / sound, codec, rate, layout, seconds=0.12 if name == "4k.mp4" else 0.33)
    _check(video, sound, tmp_path / "out.mp4", *VIDEOS[name][1:])


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_dubbed(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), cv2.cvtColor(portrait(), cv2.COLOR_RGB2BGR))
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.2)
    _check(tmp_path / name, sound, tmp_path / "out.mp4", WIDTH, HEIGHT)


def test_the_sound_of_a_video_will_do(tmp_path):
    video = _video(tmp_path, "h264.mp4")
    speaking = write_video(tmp_path / "speaking.mp4", pictures=10, beats=(Fraction(0), Fraction(2, 5)))
    _check(video, speaking, tmp_path / "out.mp4", WIDTH, HEIGHT)


@pytest.mark.parametrize("rate", [2, 4, Fraction(24000, 1001), 30, 50, 144, 240])
def test_the_sources_own_rate_is_kept_on_request(tmp_path, rate):
    video = write_video(tmp_path / "video.mp4", pictures=portraits(6), rate=rate)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.5)
    options = DubOptions(progress=None, keep_fps=True)
    summary = dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), options)
    info = probe(tmp_path / "out.mp4")
    assert summary.frames == math.ceil(0.5 * rate) and abs(float(info.frame_rate - rate)) < 0.01
    assert abs(info.duration - 0.5) < 0.04 and "cannot be kept" not in str(summary)


@pytest.mark.parametrize(("rate", "named"), [(Fraction(1, 2), "0.5"), (300, "300")])
def test_a_rate_that_cannot_be_kept_is_reported(tmp_path, rate, named):
    video = write_video(tmp_path / "video.mp4", pictures=portraits(3), rate=rate)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.2)
    summary = dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None, keep_fps=True))
    assert summary.fps == probe(tmp_path / "out.mp4").frame_rate == 25
    assert f"25 a second, as the video's own {named} cannot be kept" in str(summary)


def test_the_pixel_aspect_is_kept(tmp_path):
    video = tmp_path / "wide.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for picture in portraits(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.1)
    dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), QUIET)
    assert probe(tmp_path / "out.mp4").pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(("choice", "chooser"), [("cover", covering_references), ("opening", choose_references)])
def test_references_are_chosen_as_asked(tmp_path, choice, chooser):
    """Three pictures of five kinds each: the networks get the faces that the rule takes of those searched."""
    pictures = [portrait(turn, shift) for turn, shift in ((-6, 0), (0, 4), (6, -4)) for _ in range(3)]
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.1)
    seen = []

    class Looking(SourcesOwnFaces):
        def encode(self, images, landmarks):
            seen.append(landmarks)

    video = write_video(tmp_path / "video.mp4", pictures=pictures)
    options = DubOptions(progress=None, smooth=False, reference_choice=choice)
    dub(video, sound, tmp_path / "out.mp4", Looking(), options)
    with FaceTracker() as tracker:
        found = [tracker.find(frame)[0] for frame in read_frames(video)]
    interpolated = observe(read_frames(video), 1).people[0].unsure
    found = [face for number, face in enumerate(found) if number not in interpolated]
    faces = np.stack([STSA.place(face.landmarks).to_crop(select131(face.landmarks)) for face in found])
    expected = faces[chooser(faces if choice == "cover" else lip_opening(faces))]
    np.testing.assert_allclose(seen[0], expected, atol=1e-3)
    assert (np.diff(lip_opening(seen[0])) >= 0).all()  # the order in which training gives them too


class Listening(SourcesOwnFaces):
    """Remembers, for each person, the brightness of the references beside that of the faces that were made."""

    def __init__(self):
        super().__init__()
        self.references, self.spoken = 3, []

    def encode(self, images, landmarks):
        return images.mean()

    def speak(self, jobs, references, features, known):
        self.spoken.append((references, np.mean([job.crop.mean() for job in jobs])))
        return super().speak(jobs, None, features, known)


LOSSLESS = {"qp": "0"}  # else x264 would write other pictures each time on CPUs with AVX-512


def _paler(picture: np.ndarray) -> np.ndarray:
    return 255 - (255 - picture) // 2


def _two_people(path, swapped: bool = False, brighter: int = 0):
    """A video of somebody and, to the right, of somebody much paler."""
    pairs = [(picture, _paler(picture))[:: -1 if swapped else 1] for picture in portraits(4)]
    pictures = [np.concatenate(pair, axis=1).astype(int) + brighter for pair in pairs]
    pictures = [np.clip(picture, 0, 255).astype(np.uint8) for picture in pictures]
    return write_video(path, pictures=pictures, options=LOSSLESS)


def test_everyone_is_dubbed_with_references_of_their_own(tmp_path):
    video = _two_people(tmp_path / "two.mp4")
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.16)
    speaker = Listening()
    summary = dub(video, sound, tmp_path / "out.mp4", speaker, DubOptions(progress=None, face="all"))
    assert summary.untouched == []
    assert len(speaker.spoken) == 2
    for references, crops in speaker.spoken:
        assert abs(references - crops) < 5
    assert abs(speaker.spoken[0][0] - speaker.spoken[1][0]) > 30


def test_everyone_is_known_again_in_a_video_of_references(tmp_path, monkeypatch):
    """The references of each person have a brightness of their own, to which no face is brought here."""
    monkeypatch.setattr("dubbing.light._SAME", 2.0)
    video = _two_people(tmp_path / "two.mp4")
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.16)
    both = _two_people(tmp_path / "both.mp4", swapped=True, brighter=9)
    paler = [_paler(picture) - 9 for picture in portraits(4)]  # one of them alone
    alone = write_video(tmp_path / "alone.mp4", pictures=paler, options=LOSSLESS)
    for references, offsets in ((both, (9, 9)), (alone, (0, -9))):  # who is not there keeps frames of the video itself
        speaker = Listening()
        options = DubOptions(progress=None, face="all", references=references)
        dub(video, sound, tmp_path / "out.mp4", speaker, options)
        spoken = sorted(speaker.spoken, key=lambda pair: pair[1])
        found = [used - crops for used, crops in spoken]
        np.testing.assert_allclose(found, offsets, atol=3)


def test_a_moment_of_sound_is_one_frame(tmp_path):
    sound = write_sound(tmp_path / "click.wav", "pcm_s16le", 16000, seconds=0.01)
    summary = dub(_video(tmp_path, "h264.mp4"), sound, tmp_path / "out.mp4", SourcesOwnFaces(), QUIET)
    assert summary.frames == len(list(read_frames(tmp_path / "out.mp4"))) == 1


def test_references_may_come_from_another_video(tmp_path):
    brighter = [np.clip(picture.astype(int) + 60, 0, 255).astype(np.uint8) for picture in portraits(6)]
    other = write_video(tmp_path / "other.mp4", pictures=brighter)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.1)
    seen = []

    class Looking(SourcesOwnFaces):
        def encode(self, images, landmarks):
            assert images.shape == (5, 128, 128, 3) and landmarks.shape == (5, 131, 2)
            assert (np.diff(lip_opening(landmarks)) >= 0).all()
            seen.append(images.mean())

    video = _video(tmp_path, "h264.mp4")
    for references in (None, other):
        options = DubOptions(progress=None, references=references)
        dub(video, sound, tmp_path / "out.mp4", Looking(), options)
    assert seen[1] - seen[0] > 20


def _rolled(pictures: list[np.ndarray], degrees: float) -> list[np.ndarray]:
    matrix = cv2.getRotationMatrix2D((WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5), -degrees, 1)
    return [cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE) for picture in pictures]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stsa-256", "g4g", "upright"])
@pytest.mark.parametrize("kind", ["plain", "rolled", "cut"])
def test_crops_of_every_form_return_to_their_place(tmp_path, name, kind):
    """With each face returned unchanged, the dub is the source, for heads that are turned or cut by the frame too."""
    pictures = portraits(6)
    if kind == "rolled":
        pictures = _rolled(pictures, 25)
    elif kind == "cut":  # the chin and a cheek are outside
        pictures = [picture[: HEIGHT * 3 // 4, WIDTH // 4 :] for picture in pictures]
        pictures = [np.ascontiguousarray(picture[:, : picture.shape[1] // 2 * 2]) for picture in pictures]
    video = write_video(tmp_path / "video.mp4", pictures=pictures)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, "mono", seconds=0.24)
    speaker = SourcesOwnFaces()
    speaker.crop = dataclasses.replace(CROPS[name], height=2 * CROPS[name].height, width=2 * CROPS[name].width)
    dub(video, sound, tmp_path / "out.mp4", speaker, DubOptions(progress=None, detail=False))
    for source, dubbed in zip(read_frames(video), read_frames(tmp_path / "out.mp4"), strict=True):
        difference = np.abs(source.astype(int) - dubbed)
        assert difference.mean() < 2.2 and np.quantile(difference, 0.999) < 30  # of the codec
