"""Reading sound of any kind, and the features of speech."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from conftest import threads_of_libraries
from faces import small_wav2vec2_folder
from media_files import beat_sound, beat_times, write_sound, write_video

from media import audio
from media import sound as sound_module
from media.container import believable
from media.errors import InputError
from media.mix import MonoMix, mix, usual_weights
from media.sound import read_audio, read_sound
from media.video import VideoWriter

SOUNDS = {
    "8k.wav": ("pcm_s16le", 8000, "mono"),
    "u8.wav": ("pcm_u8", 11025, "mono"),
    "24bit.wav": ("pcm_s24le", 44100, "stereo"),
    "float.wav": ("pcm_f32le", 48000, "stereo"),
    "96k.wav": ("pcm_s16le", 96000, "stereo"),
    "5.1.wav": ("pcm_s16le", 48000, "5.1"),
    "alaw.wav": ("pcm_alaw", 8000, "mono"),
    "a.aiff": ("pcm_s16be", 22050, "stereo"),
    "a.mp3": ("libmp3lame", 44100, "stereo"),
    "low.mp3": ("libmp3lame", 16000, "mono"),
    "a.m4a": ("aac", 44100, "stereo"),
    "5.1.m4a": ("aac", 48000, "5.1"),
    "a.aac": ("aac", 32000, "mono"),
    "a.flac": ("flac", 96000, "stereo"),
    "a.opus": ("libopus", 48000, "stereo"),
    "a.ogg": ("libopus", 48000, "mono"),
    "a.mka": ("ac3", 48000, "5.1"),
    "a.webm": ("libopus", 48000, "mono"),
}
CHIRP = np.arange(32000) / 16000


@pytest.fixture(scope="module")
def wav() -> np.ndarray:
    """The recording of the parity case."""
    noise = np.random.RandomState(0).standard_normal(32000)
    return (0.3 * np.sin(2 * np.pi * (200 * CHIRP + 600 * CHIRP**2)) + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_of_any_kind_becomes_16_khz_mono_in_time(name, tmp_path):
    codec, rate, layout = SOUNDS[name]
    sound = read_audio(write_sound(tmp_path / name, codec, rate, layout, 1.2))
    assert sound.dtype == np.float32 and sound.ndim == 1
    assert abs(len(sound) / 16000 - 1.2) < 0.05
    # Raw ADTS has no place to say that the encoder's first 1024 samples are not part of the sound.
    delay = 1024 / rate if name == "a.aac" else 0
    np.testing.assert_allclose(beat_times(sound), delay + np.array([0, 0.5, 1]), atol=0.004)
    loudest = np.sqrt(np.mean(sound[8000:8800] ** 2)) * 2**0.5 if not delay else 0.5
    assert abs(loudest - 0.5) < (0.25 if name == "5.1.m4a" else 0.05)  # AAC may mute what a low-pass channel held


def test_channels_are_mixed_without_clipping(tmp_path):
    loud = np.full((2, 16000), 0.9, np.float32) * np.sin(np.arange(16000, dtype=np.float32) / 5)
    sound = read_audio(write_sound(tmp_path / "a.wav", "pcm_f32le", 16000, "stereo", sound=loud))
    np.testing.assert_allclose(sound, loud[0], atol=1e-6)


def test_the_mix_to_mono_does_not_depend_on_threads():
    samples = np.random.default_rng(0).standard_normal((6, 100_001)).astype(np.float32)
    mixed = []
    for threads in (1, 2):
        with threads_of_libraries(threads):
            weights = MonoMix()
            weights.measure(samples, av.AudioLayout("5.1"))
            mixed.append(weights._moments["5.1"][1])
            mixed.append(mix(samples, usual_weights(av.AudioLayout("5.1"), 6)))
    np.testing.assert_array_equal(mixed[0], mixed[2])
    np.testing.assert_array_equal(mixed[1], mixed[3])


def voice_and_noise() -> tuple[np.ndarray, np.ndarray]:
    """(16000,) float32 each: a voice of 200 Hz, and noise of the same power that is not like it."""
    voice = 0.3 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    return voice.astype(np.float32), np.random.default_rng(0).normal(0, 0.21, 16000).astype(np.float32)


@pytest.mark.parametrize("codec", ["pcm_f32le", "aac", "libmp3lame"])
@pytest.mark.parametrize("right", [-1.0, -0.4, 0.0])
def test_stereo_in_opposite_phase_or_in_one_channel_alone_keeps_its_level(right, codec, tmp_path):
    voice, noise = voice_and_noise()
    suffix = {"pcm_f32le": "wav", "aac": "m4a", "libmp3lame": "mp3"}[codec]
    both = np.stack([voice, right * voice]) + 0.001 * noise  # alike noise, as from one preamplifier
    path = write_sound(tmp_path / f"a.{suffix}", codec, 16000, "stereo", sound=both.astype(np.float32))
    expected = (1 + abs(right)) / 2 * voice if right else voice
    for sound in (read_audio(path), np.concatenate(list(read_sound(path, 16000, "mono")), axis=1)[0]):
        middle = slice(4000, 12000)  # away from the encoder's delay and fades
        assert np.sqrt((sound[middle] ** 2).mean()) == pytest.approx(
            np.sqrt((expected[middle] ** 2).mean()), rel=0.06
        )  # of MP3


def test_the_centre_alone_keeps_its_level_and_the_bass_channel_is_heard_only_alone(tmp_path):
    voice, _ = voice_and_noise()
    layout = av.AudioLayout("5.1")
    for name in ("FC", "LFE"):
        channels = np.stack([voice * (channel.name == name) for channel in layout.channels])
        sound = read_audio(write_sound(tmp_path / f"{name}.wav", "pcm_f32le", 16000, "5.1", sound=channels))
        np.testing.assert_allclose(sound, voice, atol=1e-6)
    voices = np.stack([voice * (channel.name in ("FC", "LFE")) for channel in layout.channels])
    sound = read_audio(write_sound(tmp_path / "both.wav", "pcm_f32le", 16000, "5.1", sound=voices))
    np.testing.assert_allclose(sound, voice, atol=1e-6)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_channels_that_all_hold_sound_have_the_usual_weights(layout):
    voice, noise = voice_and_noise()
    layout = av.AudioLayout(layout)
    spread = np.linspace(-0.1, 0.9, layout.nb_channels)[:, None]  # as music: partly alike, and a bit opposed
    samples = np.stack([np.roll(noise, 50 * i) for i in range(layout.nb_channels)]) + spread * voice
    weights = MonoMix()
    weights.measure(samples, layout)
    usual = usual_weights(layout, layout.nb_channels)
    np.testing.assert_array_equal(weights.weights(layout, layout.nb_channels), usual)
    assert weights.is_usual() and usual.sum() == pytest.approx(1)


def test_ordinary_sound_is_decoded_once(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "a.wav", "pcm_s16le", 16000, "stereo")
    monkeypatch.setattr(sound_module, "_weighted", None)  # of the second reading
    assert len(read_audio(path)) == 32000


@pytest.mark.parametrize("layout", ["quad", "5.1(side)", "7.1"])
def test_surround_layouts_are_read(layout, tmp_path):
    sound = read_audio(write_sound(tmp_path / "a.wav", "pcm_s16le", 48000, layout, 1.0))
    assert len(sound) == 16000 and 0.45 < np.abs(sound).max() < 0.55


def test_samples_that_are_no_numbers_become_silence(tmp_path):
    broken = np.full((1, 1600), np.nan, np.float32)
    assert not read_audio(write_sound(tmp_path / "a.wav", "pcm_f32le", 16000, sound=broken)).any()


@pytest.mark.parametrize("start", [Fraction(0), Fraction(7, 10)])
def test_sound_of_a_video_is_counted_from_the_videos_first_instant(start, tmp_path):
    path = write_video(tmp_path / "a.mkv", pictures=50, beats=(start, Fraction(1)))
    heard = beat_times(read_audio(path))
    np.testing.assert_allclose(heard, float(start) + np.array([0, 0.5]), atol=0.004)


def test_a_hole_in_the_sound_is_filled_with_silence(tmp_path):
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        beats = (beat_sound(16000, 2.0)[:, :4096] * 32767).astype(np.int16)
        for start in (0, 3 * 16000):
            frame = av.AudioFrame.from_ndarray(beats, "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sound = read_audio(path)
    np.testing.assert_allclose(beat_times(sound), [0, 3], atol=0.004)


@pytest.mark.parametrize(
    ("pause", "declared", "believed"), [(9, 5, True), (60, 5, False), (60, 70, True), (4e5, 5e5, False)]
)
def test_a_pause_is_believed_within_reason_and_the_declared_length(pause, declared, believed):
    assert believable(Fraction(pause), Fraction(0), Fraction(declared)) is believed


def test_long_sound_streams_in_small_blocks(tmp_path):
    path = write_sound(tmp_path / "a.flac", "flac", 16000, seconds=60)
    blocks = list(read_sound(path, 48000, "stereo"))
    assert max(block.shape[1] for block in blocks) <= 48000
    assert sum(block.shape[1] for block in blocks) == 60 * 48000
    assert all(block.shape[0] == 2 for block in blocks)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.8])
def test_what_fills_up_the_last_aac_frame_is_no_sound(rate, seconds, tmp_path):
    samples = round(rate * seconds)
    tone = 0.3 * np.sin(np.arange(samples, dtype=np.float32) * 2 * np.pi * 300 / rate)[None]
    path = write_sound(tmp_path / "a.m4a", "aac", rate, sound=tone)
    sound = read_audio(path)
    assert abs(len(sound) / 16000 - seconds) < 0.0005
    assert np.abs(sound[-160:]).max() > 0.2  # the tone to its end
    with VideoWriter(tmp_path / "a.mp4", 32, 32, sound=path) as video:
        for _ in range(round(25 * seconds)):
            video.write(np.zeros((32, 32, 3), np.uint8))
    assert abs(len(read_audio(tmp_path / "a.mp4")) / 16000 - seconds) < 0.0005


def test_sound_far_beyond_the_declared_end_is_kept(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "a.m4a", "aac", 16000, seconds=1.0)
    monkeypatch.setattr("media.sound.declared_end", lambda container, stream: Fraction(1, 2))
    assert len(read_audio(path)) == 16384
    monkeypatch.setattr("media.sound.declared_end", lambda container, stream: Fraction(15, 16))
    assert len(read_audio(path)) == 15000


def bad_sounds(folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("this is no sound\n" * 50)
    (folder / "noise.m4a").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "directory.wav").mkdir()
    whole = write_sound(folder / "whole.wav", "pcm_s16le", 16000).read_bytes()
    (folder / "no_samples.wav").write_bytes(whole[: whole.index(b"data") + 4] + bytes(4))
    whole = write_sound(folder / "whole.m4a", "aac", 16000).read_bytes()
    (folder / "truncated.m4a").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "silent.mp4", pictures=3)
    slow = bytearray((folder / "whole.wav").read_bytes())
    slow[24:28] = (1).to_bytes(4, "little")  # sample a second
    (folder / "one_hertz.wav").write_bytes(slow)
    os.mkfifo(folder / "pipe.wav")
    names = ["one_hertz.wav", "pipe.wav", f"{'a' * 300}.wav"]
    names += ["missing.wav", "empty.wav", "text.mp3", "noise.m4a", "directory.wav", "no_samples.wav"]
    return [folder / name for name in [*names, "truncated.m4a", "silent.mp4"]]


def test_a_bad_sound_is_one_line_that_names_it_and_the_remedy(tmp_path, capfd):
    for path in bad_sounds(tmp_path):
        with pytest.raises(InputError) as error:
            read_audio(path)
        message = str(error.value)
        assert str(path) in message and ";" in message and "\n" not in message, message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["8k.wav", "a.mp3", "a.m4a", "a.flac", "a.ogg", "a.mka"])
def test_damaged_sound_is_read_or_refused_without_a_crash(name, tmp_path):
    codec, rate, layout = SOUNDS[name]
    whole = write_sound(tmp_path / name, codec, rate, layout, 1.0).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(12):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(0, len(data), 20)] ^= (1 << random.integers(0, 8, 20)).astype(np.uint8)
        (tmp_path / name).write_bytes(data[: random.integers(1, len(data))].tobytes())
        try:
            sound = read_audio(tmp_path / name)
            assert np.isfinite(sound).all() and len(sound) < 20 * 60 * 16000
        except InputError:
            pass


def test_mel_spectrogram_equals_the_reference(pipeline, wav):
    expected = pipeline["audio.mel"].T
    mel = audio.mel_spectrogram(wav)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, expected, atol=1e-4)


def test_mfcc_equals_the_reference(pipeline, wav):
    expected = pipeline["audio.mfcc"]
    np.testing.assert_allclose(audio.mfcc(wav), expected, atol=1e-4)


@pytest.mark.parametrize("samples", [32000, 31999, 4001, 400, 3])
def test_features_in_blocks_equal_those_of_the_whole(samples, wav, monkeypatch):
    whole = audio.mel_spectrogram(wav[:samples]), audio.mfcc(wav[:samples])
    monkeypatch.setattr(audio, "BLOCK", 7)
    np.testing.assert_allclose(audio.mel_spectrogram(wav[:samples]), whole[0], atol=1e-4)
    np.testing.assert_allclose(audio.mfcc(wav[:samples]), whole[1], atol=1e-6)


def test_silence_is_the_floor_of_the_mel_spectrogram():
    assert (audio.mel_spectrogram(np.zeros(16000, np.float32)) == audio.SILENCE["mel"]).all()


@pytest.mark.parametrize("kind", ["mel", "wav2vec2"])
def test_a_window_is_the_five_frames_of_sound_around_a_frame(kind):
    channels, width = audio.FEATURES[kind]
    features = np.random.default_rng(0).standard_normal((97, channels)).astype(np.float32)
    indices = [-3, 0, 1, 2, 7, 13, 29, 30, 48, 200]
    windows = audio.audio_windows(features, kind, indices)
    assert windows.shape == (len(indices), channels, width) and windows.dtype == np.float32
    for window, index in zip(windows, indices, strict=True):
        start = int(np.floor(80 * (index - 2) / 25)) if kind == "mel" else 2 * (index - 2)
        for k in range(width):
            inside = 0 <= start + k < len(features)
            np.testing.assert_array_equal(window[:, k], features[start + k] if inside else {"mel": -4}.get(kind, 0))


@pytest.fixture(scope="module")
def small_wav2vec2(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for operations this small
    yield small_wav2vec2_folder(tmp_path_factory.mktemp("wav2vec2"))
    torch.set_num_threads(threads)


def loud_and_soft(seconds: float) -> np.ndarray:
    """Noise whose loudness changes with time, so that the statistics of a piece are not those of the whole."""
    time = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(1).standard_normal(len(time))
    return (0.02 + 0.1 * (0.05 + np.sin(time / 2) ** 4) * noise).astype(np.float32)


@pytest.mark.parametrize(("piece", "span"), [(500, 15000), (60, 240)])
def test_wav2vec2_in_pieces_equals_the_whole(piece, span, small_wav2vec2, monkeypatch):
    from transformers import Wav2Vec2FeatureExtractor

    from media import wav2vec2

    folder, network = small_wav2vec2
    sound = loud_and_soft(9.3)
    prepared = Wav2Vec2FeatureExtractor.from_pretrained(folder)(sound, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        whole = network(**prepared).last_hidden_state[0].numpy()
    monkeypatch.setattr(wav2vec2, "PIECE", piece)
    monkeypatch.setattr(wav2vec2, "SPAN", span)
    np.testing.assert_allclose(audio.wav2vec2_features(sound, folder), whole, atol=1e-4)


def test_wav2vec2_beyond_two_spans_hears_the_neighbouring_ones(small_wav2vec2, monkeypatch):
    """With spans of S features, feature k of a long recording is that of a shorter one around it, but for its ends.

    One layer of attention is compared: the second would hear of what lies beyond, through the first.
    """
    from media import wav2vec2

    _folder, network = small_wav2vec2
    layer, span = network.encoder.layers[0], 50
    hidden = torch.randn(4 * span + 11, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(wav2vec2, "SPAN", span)
    with torch.no_grad():
        result = hidden.clone()
        wav2vec2._attend(layer, result)
        for index, rows in enumerate(hidden.split(span)):
            first = max(0, index - 1) * span
            alone = layer(hidden[None, first : (index + 2) * span])[0]
            own = alone[index * span - first :][: len(rows)]
            torch.testing.assert_close(result[index * span :][: len(rows)], own, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (399, 1), (400, 1), (720, 2), (16000, 49)])
def test_wav2vec2_counts_frames_as_the_network_does(samples, frames, small_wav2vec2):
    assert audio.wav2vec2_features(loud_and_soft(1)[:samples], small_wav2vec2[0]).shape == (frames, 32)


def test_a_missing_wav2vec2_names_its_url_and_the_command(monkeypatch, tmp_path):
    from media import pretrained, wav2vec2

    monkeypatch.setattr(pretrained, "DOWNLOADS", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wav2vec2.load.cache_clear()
    with pytest.raises(InputError) as error:
        audio.wav2vec2_features(np.zeros(16000, np.float32))
    message = str(error.value)
    assert "https://huggingface.co/facebook/wav2vec2-base-960h" in message
    assert "python -m checkpoints.fetch wav2vec2" in message and "\n" not in message


def test_a_wav2vec2_that_lacks_weights_is_refused(small_wav2vec2, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _network = small_wav2vec2
    weights = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    del weights["encoder.layers.0.attention.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weight"):
        audio.wav2vec2_features(np.zeros(16000, np.float32), tmp_path)
