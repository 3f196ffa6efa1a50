"""Pictures of other kinds than plain video: HDR, transparency, interlace, several tracks, photographs of phones."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.filter import Graph
from av.stream import Disposition
from faces import portraits
from media_files import beat_sound, beat_times, encode_sound, number_of, numbered, write_heic, write_sound, write_video

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub
from media import colour as colours
from media.colour import BACKGROUND, HLG, PQ, Colour, ToRGB, Wide, output_colour, wide
from media.container import audio_stream, video_stream
from media.errors import InputError
from media.sound import read_audio, track_with_sound
from media.video import VideoWriter, probe, read_frames

PATCHES = np.array([[200, 150, 120], [120, 80, 60], [240, 240, 240], [128, 128, 128], [40, 40, 40], [60, 160, 70]])
BT709_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
QUIET_X265 = {"x265-params": "log-level=none:crf=4"}


def bars(patches: np.ndarray, height: int = 48) -> np.ndarray:
    """(height, 24 n, 3) picture with a bar for each of n colours."""
    return np.tile(np.repeat(patches, 24, axis=0), (height, 1, 1))


def middles(picture: np.ndarray) -> np.ndarray:
    return picture[len(picture) // 2, 12::24].astype(int)


def hdr(patches: np.ndarray, transfer: int) -> np.ndarray:
    """BT.709 colours as BT.2020 code values in [0, 1]; white has 203 cd/m2, of 1000 in HLG (BT.2100, BT.2408)."""
    light = (patches / 255) ** 2.4 @ BT709_TO_BT2020.T
    if transfer == PQ:
        power = (light * 203 / 10000) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    if transfer == HLG:
        light = light * 203 / 1000
        scene = light * (light @ [0.2627, 0.6780, 0.0593])[:, None] ** (1 / 1.2 - 1)
        return np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    return light ** (1 / 2.4)


def write_tagged(path: Path, codec: str, pix_fmt: str, picture: np.ndarray, matrix: int, tags: Colour, **options: str):
    """Encode five frames of (H, W, 3) `picture`, values in [0, 1], by H.273's `matrix`, with `tags` of any kind."""
    code = np.round(picture * 65535).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = tags
        for k in range(5):
            planes = av.VideoFrame.from_ndarray(code, "rgb48le").reformat(format="gbrp16le")
            frame = planes.reformat(format=pix_fmt, dst_colorspace=matrix)
            frame.colorspace, frame.color_primaries, frame.color_trc = tags
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_of(picture: np.ndarray, tags: Colour) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv444p")
    frame.colorspace, frame.color_primaries, frame.color_trc = tags
    return frame


HDR_FILES: dict[str, tuple[str, str, Colour, dict[str, str]]] = {
    "hlg.mp4": ("libx265", "yuv420p10le", Colour(9, 9, HLG), QUIET_X265),
    "hlg_8bit.mp4": ("libx264", "yuv420p", Colour(9, 9, HLG), {"crf": "4"}),
    "hlg_transfer_only.mkv": ("libx264", "yuv420p10le", Colour(2, 2, HLG), {"crf": "4"}),
    "pq.mkv": ("libx265", "yuv420p10le", Colour(9, 9, PQ), QUIET_X265),
    "pq_without_primaries.ts": ("libx265", "yuv420p10le", Colour(9, 2, PQ), QUIET_X265),
    "pq.mov": ("prores_ks", "yuv422p10le", Colour(9, 9, PQ), {}),
    "bt2020.mp4": ("libx265", "yuv420p10le", Colour(9, 9, 14), QUIET_X265),
    "bt2020_matrix_only.mp4": ("libx264", "yuv420p", Colour(9, 2, 2), {"crf": "4"}),
}


@pytest.mark.slow  # FFmpeg sets its tone curve up in some seconds for each of the three spaces
def test_hdr_and_wide_gamut_become_bt709(tmp_path):
    """Skin keeps its hue and its saturation, greys stay grey; HDR's highlights take a third of the grey levels."""
    for name, (codec, pix_fmt, tags, options) in HDR_FILES.items():
        picture = bars(hdr(PATCHES, tags.transfer))
        path = write_tagged(tmp_path / name, codec, pix_fmt, picture, 9, tags, **options)
        info, seen = probe(path), middles(next(read_frames(path)))
        assert info.colour == Colour(1, 1, 1), name
        kind = {HLG: "HDR (HLG)", PQ: "HDR (PQ)"}.get(tags.transfer, "BT.2020")
        assert info.changes == (f"{kind} converted to SDR in BT.709",), name
        assert np.ptp(seen[2:5], axis=1).max() <= 4, (name, seen)
        brightness = seen[:, 1] / PATCHES[:, 1]
        least = 0.95 if kind == "BT.2020" else 0.65
        assert least < brightness.min() and brightness.max() < 1.05, (name, brightness)
        for k in (0, 1, 5):  # the ratios of the channels, in light
            ratio, true = ((colour[k] / colour[k, 1]) ** 2.4 for colour in (seen, PATCHES))
            assert np.abs(ratio - true).max() < 0.12, (name, k, ratio, true)
        np.testing.assert_array_equal(list(read_frames(path, start=3)), list(read_frames(path))[3:])


@pytest.mark.slow
def test_hdr_is_dubbed_as_sdr_and_tagged_so(tmp_path):
    pictures = hdr(portraits(1)[0].reshape(-1, 3).astype(float), HLG).reshape(portraits(1)[0].shape)
    video = write_tagged(tmp_path / "hlg.mp4", "libx265", "yuv420p10le", pictures, 9, Colour(9, 9, HLG), **QUIET_X265)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.16)
    summary = dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None))
    assert "(HDR (HLG) converted to SDR in BT.709)" in str(summary) and summary.untouched == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.pix_fmt == "yuv420p"
    difference = next(read_frames(tmp_path / "out.mp4")).astype(int) - next(read_frames(video))
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Colour(9, 9, PQ), Wide(9, PQ)),
        (Colour(2, 2, HLG), Wide(9, HLG)),
        (Colour(1, 12, HLG), Wide(12, HLG)),
        (Colour(9, 3, PQ), Wide(9, PQ)),
        (Colour(9, 9, 2), Wide(9, 14)),
        (Colour(10, 2, 2), Wide(9, 14)),
        (Colour(2, 9, 1), Wide(9, 1)),
        (Colour(9, 1, 1), None),
        (Colour(1, 1, 1), None),
        (Colour(6, 12, 13), None),
        (Colour(), None),
    ],
)
def test_missing_tags_are_those_that_the_others_go_with(tags, expected):
    assert wide(frame_of(numbered(0), tags)) == expected


def test_each_colour_is_looked_up_in_its_own_place(monkeypatch):
    """With a table that swaps and inverts channels, in every format that the frames may have."""

    def table(source):
        level = np.linspace(0, 65535, 64).round().astype(np.uint16)
        blue, green, red = np.meshgrid(level, level, level, indexing="ij")
        frame = av.VideoFrame.from_ndarray(np.stack([green, blue, 65535 - red], -1).reshape(512, 512, 3), "rgb48le")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        return frame

    monkeypatch.setattr(colours, "_table", table)
    picture = bars(PATCHES).astype(np.uint8)
    for pix_fmt in ("yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "p010le", "gbrp10le", "rgb24", "rgba"):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt, dst_colorspace=9)
        frame.colorspace, frame.color_primaries, frame.color_trc = 0 if "b" in pix_fmt else 9, 9, PQ
        convert = ToRGB(picture.shape[1], picture.shape[0])
        for _ in range(3):
            found = middles(convert(frame))
            np.testing.assert_allclose(found, np.stack([PATCHES[:, 1], PATCHES[:, 2], 255 - PATCHES[:, 0]], 1), atol=3)


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(192, 144, 6), (192, 720, 1), (1280, 144, 1), (640, 480, 6), (720, 576, 6)]
)
def test_untagged_video_is_read_and_written_in_the_space_of_its_size(width, height, matrix, tmp_path):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:] = (200, 60, 90)
    path = write_tagged(tmp_path / "a.mp4", "libx264", "yuv420p", picture / 255, matrix, Colour(), crf="1")
    seen, info = next(read_frames(path)), probe(path)
    assert np.abs(seen[8, 8].astype(int) - (200, 60, 90)).max() <= 2
    assert info.colour == (Colour(1, 1, 1) if matrix == 1 else Colour()) and info.changes == ()
    for written in (info.colour, Colour(), None):
        with VideoWriter(tmp_path / "b.mp4", width, height, colour=written, crf=1) as writer:
            writer.write(picture)
        again = next(read_frames(tmp_path / "b.mp4"))
        assert np.abs(again[8, 8].astype(int) - (200, 60, 90)).max() <= 2, written


def test_tagged_pictures_keep_their_space():
    small, large = numbered(0), numbered(0, 1280, 720)
    for tags in (Colour(6, 6, 6), Colour(5, 12, 13), Colour(1, 1, 1), Colour(9, 1, 1)):
        assert output_colour(frame_of(small, tags)) == output_colour(frame_of(large, tags)) == tags
    assert output_colour(frame_of(large, Colour(2, 12, 2))) == Colour(1, 12, 1)


def boxes_around(data: bytearray, names: list[str]) -> list[int]:
    """The places of nested MP4 boxes."""
    start, stop, places = 0, len(data), []
    for name in names:
        while data[start + 4 : start + 8] != name.encode():
            start += int.from_bytes(data[start : start + 4], "big")
        assert start < stop
        places.append(start)
        start += 8 + {"stsd": 8, "hev1": 78}.get(name, 0)
    return places


def with_dolby_vision(path: Path, profile: int, compatibility: int) -> Path:
    """Add Dolby Vision's configuration to an MP4 of HEVC whose index is at its end."""
    data = bytearray(path.read_bytes())
    places = boxes_around(data, ["moov", "trak", "mdia", "minf", "stbl", "stsd", "hev1"])
    record = bytes([1, 0]) + (profile << 9 | 6 << 3 | 5).to_bytes(2, "big") + bytes([compatibility << 4]) + bytes(19)
    box = (32).to_bytes(4, "big") + (b"dvcC" if profile < 8 else b"dvvC") + record
    end = places[-1] + int.from_bytes(data[places[-1] : places[-1] + 4], "big")
    data[end:end] = box
    for place in places:
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(box)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("profile", "compatibility", "refused"), [(5, 0, True), (8, 1, False), (8, 4, False), (7, 6, False)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_dolby_vision_without_a_common_space_is_refused(profile, compatibility, refused, suffix, tmp_path, capfd):
    video = write_video(tmp_path / "a.mp4", "libx265", 3, options=QUIET_X265)
    path = with_dolby_vision(video, profile, compatibility)
    if suffix == ".mkv":
        with av.open(str(path)) as source, av.open(str(tmp_path / "a.mkv"), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux():
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        path = tmp_path / "a.mkv"
    if refused:
        for read in (probe, lambda video: list(read_frames(video))):
            with pytest.raises(InputError, match=r"Dolby Vision \(profile 5\); convert it"):
                read(path)
    else:
        assert [number_of(frame) for frame in read_frames(path)] == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_the_colours_of_ictcp_are_refused(tmp_path):
    path = write_tagged(tmp_path / "a.mp4", "libx264", "yuv420p", numbered(1) / 255, 9, Colour(14, 9, PQ))
    with pytest.raises(InputError, match="ICtCp; convert it"):
        probe(path)


def cut_out(number: int = 0) -> np.ndarray:
    """(64, 64, 4) RGBA: a green square with a half transparent edge; a hidden colour around it."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., :3] = (250, 40, 200)
    picture[16:48, 16:48] = (40, 200, 90, 255)
    picture[16:48, 16:24, 3] = 128
    return picture


ALPHA: dict[str, tuple[str, str, dict[str, str]]] = {
    "vp8.webm": ("libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    "vp9.webm": ("libvpx-vp9", "yuva420p", {"deadline": "realtime"}),
    "vp9.mkv": ("libvpx-vp9", "yuva420p", {"deadline": "realtime"}),
    "prores.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "animation.mov": ("qtrle", "argb", {}),
    "png.mov": ("png", "rgba", {}),
    "ffv1.mkv": ("ffv1", "yuva420p", {}),
    "a.apng": ("apng", "rgba", {}),
}


def write_alpha(path: Path, codec: str, pix_fmt: str, pictures: list[np.ndarray], options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgba")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def check_cut_out(path: Path) -> None:
    frames = list(read_frames(path))
    for frame in (frames[0], frames[-1]):
        assert np.abs(frame[4, 4].astype(int) - BACKGROUND).max() <= 3, path.name
        assert np.abs(frame[32, 40].astype(int) - (40, 200, 90)).max() <= 14, path.name
        assert np.abs(frame[32, 20].astype(int) - (20, 100, 45)).max() <= 14, path.name
    assert probe(path).changes == ("transparent parts made black",), path.name


@pytest.mark.parametrize("name", ALPHA)
def test_transparent_parts_of_a_video_are_black(name, tmp_path):
    codec, pix_fmt, options = ALPHA[name]
    path = write_alpha(tmp_path / name, codec, pix_fmt, [cut_out()] * 4, options)
    check_cut_out(path)
    frames = list(read_frames(path))
    assert len(frames) == 4 and len(list(read_frames(path, start=2))) == 2
    opaque = cut_out()
    opaque[..., 3] = 255
    path = write_alpha(tmp_path / name, codec, pix_fmt, [opaque] * 2, options)
    assert probe(path).changes == () and next(read_frames(path))[4, 4].min() > 20


@pytest.mark.parametrize("name", ["a.png", "palette.png", "grey.png", "deep.png", "a.webp", "a.tiff", "a.avif"])
def test_transparent_parts_of_a_picture_are_black(name, tmp_path):
    from PIL import Image, features

    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    image = Image.fromarray(cut_out(), "RGBA")
    if name == "palette.png":
        image = image.quantize(8)
    elif name == "grey.png":
        image = image.convert("LA")
    if name == "deep.png":
        deep = cut_out()[..., [2, 1, 0, 3]].astype(np.uint16) * 257
        assert cv2.imwrite(str(tmp_path / name), deep)
    else:
        image.save(tmp_path / name, lossless=True)
    if name != "grey.png":
        check_cut_out(tmp_path / name)
    frame = next(read_frames(tmp_path / name))
    assert frame[4, 4].max() <= 3 and frame[32, 40].max() > 100


def test_the_summary_says_what_was_transparent(tmp_path):
    picture = np.dstack([portraits(1)[0], np.full(portraits(1)[0].shape[:2], 255, np.uint8)])
    picture[:20] = (255, 0, 255, 0)
    path = write_alpha(tmp_path / "a.mov", "qtrle", "argb", [picture] * 3, {})
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.1)
    summary = dub(path, sound, tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None))
    assert "transparent parts made black" in str(summary)
    assert next(read_frames(tmp_path / "out.mp4"))[5, 50].max() < 20


def test_what_only_later_frames_have_is_said_too(tmp_path):
    opaque = np.dstack([portraits(1)[0], np.full(portraits(1)[0].shape[:2], 255, np.uint8)])
    holed = opaque.copy()
    holed[:20] = (255, 0, 255, 0)
    path = write_alpha(tmp_path / "a.mov", "qtrle", "argb", [opaque] * 3 + [holed] * 2, {})
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.2)
    assert probe(path).changes == ()
    summary = dub(path, sound, tmp_path / "out.mp4", SourcesOwnFaces(), DubOptions(progress=None))
    assert summary.notes == ("transparent parts made black",)


def moment(time: int) -> np.ndarray:
    """(96, 128, 3): a bar that moves by 4 px a field; from column 110 on, lines that stay."""
    picture = np.full((96, 128, 3), 60, np.uint8)
    picture[::4, 110:] = 120
    picture[:, 8 + 4 * time : 28 + 4 * time] = 200
    return picture


INTERLACED: dict[str, tuple[str, str, dict[str, str]]] = {
    "a.mpg": ("mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "q": "2"}),
    "a.ts": ("mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "q": "2", "bf": "2", "g": "5"}),
    "a.mp4": ("libx264", "yuv420p", {"flags": "+ildct+ilme", "crf": "8", "g": "4"}),
    "a.mkv": ("libx264", "yuv420p", {"flags": "+ildct+ilme", "crf": "8"}),
    "a.mov": ("prores_ks", "yuv422p10le", {"flags": "+ildct+ilme"}),
    "a.avi": ("mpeg4", "yuv420p", {"flags": "+ildct+ilme", "q": "2"}),
}


def write_interlaced(path: Path, codec: str, pix_fmt: str, first: str, options: dict[str, str], start: int = 0) -> Path:
    """Ten frames from number `start` on, each of the fields of two moments: the top ("tff") or bottom one first."""
    graph = Graph()
    source = graph.add_buffer(width=128, height=96, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 25))
    steps = [graph.add("scale", "interl=1"), graph.add("format", pix_fmt), graph.add("setfield", first)]
    graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        for k in range(10):
            fields = [moment(2 * k), moment(2 * k + 1)][:: 1 if first == "tff" else -1]
            woven = fields[0].copy()
            woven[1::2] = fields[1][1::2]
            frame = av.VideoFrame.from_ndarray(woven, "rgb24")
            frame.pts, frame.time_base = start + k, Fraction(1, 25)
            graph.push(frame)
            frame = graph.vpull()
            frame.pict_type = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_frames_are_made_whole(name, first, tmp_path):
    codec, pix_fmt, options = INTERLACED[name]
    path = write_interlaced(tmp_path / name, codec, pix_fmt, first, options)
    frames = list(read_frames(path))
    assert len(frames) == 10 and probe(path).changes == ("deinterlaced",)
    for k, frame in enumerate(frames):
        grey = frame[:, :108, 0].astype(int)
        assert np.abs(np.diff(grey, axis=0)).mean() < 0.5, (name, k)  # combed lines differ by 10
        assert abs(int((grey[48] > 130).argmax()) - (8 + 8 * k)) <= 1, (name, k)  # the earlier field's moment
    for start in (1, 4, 5, 8):
        np.testing.assert_array_equal(list(read_frames(path, start=start)), frames[start:])


def test_progressive_video_that_becomes_interlaced_keeps_every_frame(tmp_path):
    plain = write_video(tmp_path / "1.ts", pictures=[moment(2 * k) for k in range(6)], options={"bf": "0"})
    combed = write_interlaced(tmp_path / "2.ts", "libx264", "yuv420p", "tff", {"flags": "+ildct+ilme", "bf": "0"}, 6)
    (tmp_path / "a.ts").write_bytes(plain.read_bytes() + combed.read_bytes())
    frames = list(read_frames(tmp_path / "a.ts"))
    places = [int((frame[48, :, 0] > 130).argmax()) for frame in frames]
    np.testing.assert_allclose(places, [8 + 8 * k for k in (*range(6), *range(10))], atol=1)
    assert max(np.abs(np.diff(frame[:, :108, 0].astype(int), axis=0)).mean() for frame in frames) < 0.5


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
@pytest.mark.parametrize("cover_first", [False, True])
def test_a_cover_is_not_the_picture_even_if_it_is_a_stream_like_any_other(suffix, cover_first, tmp_path):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        streams: dict[str, Any] = {}
        for kind in ("cover", "video")[:: 1 if cover_first else -1]:
            streams[kind] = container.add_stream("mjpeg" if kind == "cover" else "libx264", rate=25)
            side = 320 if kind == "cover" else 64
            streams[kind].width = streams[kind].height = side
            streams[kind].pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
        for kind, pictures in (("cover", [numbered(999, 320, 320)]), ("video", [numbered(k) for k in range(5)])):
            for k, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 25)
                container.mux(streams[kind].encode(frame))
            container.mux(streams[kind].encode())
    assert [number_of(frame) for frame in read_frames(path)] == list(range(5))


class Streams:
    """Stands in for an open file whose streams are marked in any way."""

    def __init__(self, *streams: tuple[str, int, int, int]):
        marks: list[Any] = [type("Stream", (), {"disposition": mark, "frames": n}) for _, mark, n, _ in streams]
        for stream, (codec, _, _, side) in zip(marks, streams, strict=True):
            stream.codec_context = type("Context", (), {"name": codec, "width": side, "height": side})
        self.streams = type("All", (), {"video": marks, "audio": marks})


@pytest.mark.parametrize(
    ("streams", "picture", "sound"),
    [
        ([("h264", 0, 0, 64), ("h264", 1, 0, 32)], 1, 1),  # the default one, smaller
        ([("h264", 0, 0, 64), ("h264", 0, 0, 128)], 1, 0),  # none marked
        ([("h264", 1, 9, 64), ("h264", 1, 9, 128)], 0, 0),  # all marked
        ([("mjpeg", 1, 0, 640), ("h264", 0, 0, 64)], 1, 0),  # a cover marked
        ([("png", 1, 3, 640), ("h264", 1, 9, 64)], 1, 0),
        ([("h264", 1, 1, 640), ("h264", 0, 9, 64)], 1, 0),
        ([("mjpeg", 1, 500, 64), ("h264", 0, 500, 128)], 0, 0),  # a video of JPEGs
        ([("mjpeg", 1025, 1, 640), ("h264", 0, 1, 64)], 1, 0),  # an attached picture, and a still
    ],
)
def test_the_default_track_is_taken(streams, picture, sound):
    container: Any = Streams(*streams)
    assert video_stream(container) is container.streams.video[picture]
    assert audio_stream(container) is container.streams.audio[sound]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_one_frame_of_minutes_is_a_still(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(1, 300))
        assert isinstance(video, av.VideoStream)
        video.width = video.height = 64
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1)
        audio = container.add_stream("aac", rate=8000, layout="mono")
        encode_sound(container, audio, beat_sound(8000, 300))
        frame = av.VideoFrame.from_ndarray(numbered(7), "rgb24")
        frame.pts, frame.time_base = 0, Fraction(1)
        for packet in [*video.encode(frame), *video.encode()]:
            packet.duration = round(300 / packet.time_base)
            container.mux(packet)
    info = probe(path)
    assert info.duration == pytest.approx(300, abs=0.2) and info.has_sound
    frames = [number_of(frame) for frame in read_frames(path, fps=1)]
    assert frames == [7] * 300 and len(list(read_frames(path, start=7490))) == 10


def write_tracks(path: Path, levels: tuple[float, ...], default: int | None = None) -> Path:
    """A video of somebody with a sound track of beats for each of `levels`; track k starts its beats at k/5 s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        assert isinstance(video, av.VideoStream)
        pictures = portraits(12)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        tracks = [container.add_stream("aac", rate=16000, layout="mono") for _ in levels]
        if default is not None:
            for number, track in enumerate(tracks):
                track.disposition = Disposition.default if number == default else Disposition(0)
        for number, (track, level) in enumerate(zip(tracks, levels, strict=True)):
            beats = np.roll(beat_sound(16000, 0.48), 3200 * number, axis=1)
            encode_sound(container, track, (level * beats).astype(np.float32))
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_default_sound_track_is_read_and_any_other_on_request(suffix, tmp_path):
    path = write_tracks(tmp_path / f"a{suffix}", (0, 1, 1), default=1)
    np.testing.assert_allclose(beat_times(read_audio(path)), [0.2], atol=0.01)
    for track, beats in ((0, []), (1, [0.2]), (2, [0.4])):
        np.testing.assert_allclose(beat_times(read_audio(path, track)), beats, atol=0.01)
    with pytest.raises(InputError, match=r"has no track 3, only tracks 0 to 2; give another --audio-track"):
        read_audio(path, 3)


def test_a_silent_track_beside_one_with_sound_is_said(tmp_path):
    path, sound = write_tracks(tmp_path / "a.mkv", (0, 0, 1)), SourcesOwnFaces()
    summary = dub(path, path, tmp_path / "out.mp4", sound, DubOptions(progress=None))
    assert f"(the sound track taken of {path} is silent, its track 2 is not: --audio-track 2)" in str(summary)
    assert not (np.abs(read_audio(tmp_path / "out.mp4")) > 0.01).any()
    summary = dub(path, path, tmp_path / "out.mp4", sound, DubOptions(progress=None, audio_track=2))
    assert summary.notes == ()
    np.testing.assert_allclose(beat_times(read_audio(tmp_path / "out.mp4")), [0.4], atol=0.01)
    wav = read_audio(path, 0)
    assert track_with_sound(path, wav, 0) == 2 and track_with_sound(path, read_audio(path, 2), 2) is None
    alone = write_tracks(tmp_path / "b.mkv", (0, 0))
    assert track_with_sound(alone, read_audio(alone)) is None


def gradient(width: int, height: int) -> np.ndarray:
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    return np.stack([40 + 170 * x + 0 * y, 40 + 170 * y + 0 * x, 200 - 80 * x - 80 * y], axis=2).astype(np.uint8)


@pytest.mark.parametrize("quarters", [0, 1, 3])
def test_the_tiles_of_a_phones_photograph_are_put_together(quarters, tmp_path):
    pytest.importorskip("pillow_heif")
    path = write_heic(tmp_path / "photo.heic", gradient(150, 100), quarters=quarters)
    expected = np.rot90(gradient(150, 100), quarters)
    (frame,), info = read_frames(path), probe(path)
    assert frame.shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(frame.astype(int) - expected).mean() < 2


def test_a_photograph_is_refused_in_one_line_where_its_reader_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = write_heic(tmp_path / "photo.heic", gradient(150, 100))
    for read in (probe, lambda video: list(read_frames(video))):
        with pytest.raises(InputError, match=r"photo.heic is a HEIC picture; install pillow-heif"):
            read(path)


def test_a_damaged_photograph_is_refused(tmp_path):
    pytest.importorskip("pillow_heif")
    path = write_heic(tmp_path / "photo.heic", gradient(150, 100))
    whole = path.read_bytes()
    for data in (whole[:200], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"photo.heic (cannot be read|is cut short).*; ") as error:
            list(read_frames(path))
        assert "\n" not in str(error.value)


def test_an_animated_webp_is_a_video(tmp_path):
    from PIL import Image

    path = tmp_path / "a.webp"
    first, *others = (Image.fromarray(numbered(k)) for k in range(6))
    first.save(path, save_all=True, append_images=others, duration=[40, 40, 120, 40, 0, 40], lossless=True)
    # The frame without a duration is shown for 100 ms, as in browsers.
    assert [number_of(frame) for frame in read_frames(path)] == [0, 1, 2, 2, 2, 3, 4, 4, 5]
    info = probe(path)
    assert (info.width, info.height, info.has_sound) == (64, 64, False) and info.duration == pytest.approx(0.38)
    assert [number_of(frame) for frame in read_frames(path, start=5)] == [3, 4, 4, 5]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a.webp cannot be read"):
        probe(path)


@pytest.mark.parametrize("name", ["a.webp", "a.avif"])
def test_a_transparent_animation_is_on_black(name, tmp_path):
    from PIL import Image, features

    path = tmp_path / name
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    moved = [np.roll(cut_out(), 2 * k, axis=0) for k in range(3)]
    first, *others = (Image.fromarray(picture, "RGBA") for picture in moved)
    first.save(path, save_all=True, append_images=others, duration=40, lossless=True)
    check_cut_out(path)
