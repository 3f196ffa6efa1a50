"""The speech encoder of hama: its network, its file, and its features in pieces, in checkpoints and live."""

import hashlib
import struct
import zipfile
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from faces import small_checkpoint
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import load_file, save_file
from scipy.special import erf

from checkpoints import import_hama
from dubbing.live import _HEARING, _Ear
from dubbing.load import load_speaker
from media import hama
from media.audio import FEATURES, hama_features, sound_features
from media.errors import InputError
from media.loudness import TARGET
from models import FaceSynthesizer, FaceSynthesizerConfig, HeatmapPredictor, HeatmapPredictorConfig, save_checkpoint

BLOCKS, CLASSES, WIDE = 4, 191, 576


def made_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors with the names, shapes and types of hama's file."""
    random = np.random.default_rng(seed)
    tensors = {"mel_fb": np.abs(random.normal(0, 0.01, (201, 80))).astype(np.float32)}

    def add(name: str, *shape: int, centre: float = 0.0) -> None:
        inputs = max(1, int(np.prod(shape)) // shape[-1 if len(shape) == 2 else 0])
        scale = 0.1 if len(shape) == 1 else inputs**-0.5
        tensors[name] = (centre + random.normal(0, scale, shape)).astype(np.float16)

    number = 801
    for stem_or_block in ((144, 80, 3), *[(144, 1, 31)] * BLOCKS):
        add(f"onnx::Conv_{number}", *stem_or_block)
        add(f"onnx::Conv_{number + 1}", 144)
        number += 3
    for i in range(BLOCKS):
        of = f"acoustic_model.model.blocks.{i}."
        for norm in ("ffn1.norm", "attn_norm", "conv.norm", "ffn2.norm", "norm"):
            add(f"{of}{norm}.weight", 144, centre=1.0)
            add(f"{of}{norm}.bias", 144)
        biases = {"ffn1.fc1": WIDE, "ffn1.fc2": 144, "ffn2.fc1": WIDE, "ffn2.fc2": 144, "attn.out_proj": 144}
        for name, size in (biases | {"conv.pointwise1": 288, "conv.pointwise2": 144}).items():
            add(f"{of}{name}.bias", size)
        add(f"{of}attn.in_proj_bias", 432)
        add(f"{of}conv.pointwise1.weight", 288, 144, 1)
        add(f"{of}conv.pointwise2.weight", 144, 144, 1)
        for shape in ((144, WIDE), (WIDE, 144), (144, 432), (144, 144), (144, WIDE), (WIDE, 144)):
            number += 1
            add(f"onnx::MatMul_{number}", *shape)
    add("acoustic_model.model.proj.weight", CLASSES, 144, 1)
    add("acoustic_model.model.proj.bias", CLASSES)
    return tensors


def as_file(tensors: dict[str, np.ndarray]) -> bytes:
    table, data = b"", b""
    for name, tensor in tensors.items():
        data += bytes(-len(data) % 64)
        content = tensor.tobytes()
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BB", int(tensor.dtype == np.float16), tensor.ndim)
        table += struct.pack(f"<{tensor.ndim}I", *tensor.shape) + struct.pack("<QQ", len(data), len(content))
        data += content
    head = b"HAMAPK\1\2" + struct.pack("<I", len(tensors)) + table
    return head + bytes(-len(head) % 64) + data


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A harmonic sound whose pitch and loudness change, in noise."""
    time = np.arange(round(seconds * 16000)) / 16000
    phase = 2 * np.pi * (120 * time + 15 * np.sin(3 * time))
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (0.5 + 0.5 * np.sin(9 * time))
    return (0.05 * voice + 0.005 * np.random.default_rng(seed).normal(size=len(time))).astype(np.float32)


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits(tensors: dict[str, np.ndarray], wav: np.ndarray) -> np.ndarray:
    """The recogniser as its description says, in NumPy and float64."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    padded = np.pad(wav.astype(np.float64), 200, mode="reflect")
    frames = sliding_window_view(padded, 400)[::160] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.log(np.maximum(power @ t["mel_fb"], 1e-10))
    windows = sliding_window_view(np.pad(mel, ((1, 1), (0, 0))), 3, axis=0)[::2]  # (frames, 80, 3)
    x = np.einsum("fck,ock->fo", windows, t["onnx::Conv_801"]) + t["onnx::Conv_802"]
    x = x * (1 + erf(x / np.sqrt(2))) / 2
    products = [name for name in t if "MatMul" in name]
    for i in range(BLOCKS):
        b = {name.split(f"blocks.{i}.")[1]: value for name, value in t.items() if f"blocks.{i}." in name}
        m = [t[name] for name in products[6 * i : 6 * i + 6]]

        def feed(x, name, first, second, b=b):
            y = layer_norm(x, b[f"{name}.norm.weight"], b[f"{name}.norm.bias"]) @ first + b[f"{name}.fc1.bias"]
            return (y * sigmoid(y)) @ second + b[f"{name}.fc2.bias"]

        x = x + feed(x, "ffn1", m[0], m[1]) / 2
        y = layer_norm(x, b["attn_norm.weight"], b["attn_norm.bias"]) @ m[2] + b["attn.in_proj_bias"]
        q, k, v = (part.reshape(len(x), 4, 36).transpose(1, 0, 2) for part in np.split(y, 3, axis=1))
        scores = np.exp(q @ k.transpose(0, 2, 1) / 6)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(len(x), 144) @ m[3] + b["attn.out_proj.bias"]
        y = layer_norm(x, b["conv.norm.weight"], b["conv.norm.bias"]) @ b["conv.pointwise1.weight"][..., 0].T
        value, gate = np.split(y + b["conv.pointwise1.bias"], 2, axis=1)
        windows = sliding_window_view(np.pad(value * sigmoid(gate), ((15, 15), (0, 0))), 31, axis=0)
        number = 804 + 3 * i
        y = np.einsum("fck,ck->fc", windows, t[f"onnx::Conv_{number}"][:, 0]) + t[f"onnx::Conv_{number + 1}"]
        x = x + (y * sigmoid(y)) @ b["conv.pointwise2.weight"][..., 0].T + b["conv.pointwise2.bias"]
        x = layer_norm(x + feed(x, "ffn2", m[4], m[5]) / 2, b["norm.weight"], b["norm.bias"])
    return x @ t["acoustic_model.model.proj.weight"][..., 0].T + t["acoustic_model.model.proj.bias"]


def recogniser(tensors: dict[str, np.ndarray]) -> hama.HamaEncoder:
    network = hama.HamaEncoder(BLOCKS, CLASSES).eval()
    network.load_state_dict(import_hama.encoder_state(tensors, BLOCKS, classes=True))
    return network


def encoder(seed: int = 0) -> hama.HamaEncoder:
    network = hama.HamaEncoder()
    network.load_state_dict(import_hama.encoder_state(made_tensors(seed), len(network.blocks)))
    return network.eval()


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Made weights in place of the downloaded and of the bundled ones."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.setattr(hama, "DEMO", tmp_path / "no bundle")
    save_file({name: tensor.half() for name, tensor in encoder().state_dict().items()}, folder / hama.NAME)
    monkeypatch.setattr(hama, "DOWNLOADS", folder)
    return folder / hama.NAME


def test_the_network_is_the_described_one():
    tensors, wav = made_tensors(), sound(0.5)
    expected = logits(tensors, wav)
    with torch.no_grad():
        result = recogniser(tensors).double()(torch.from_numpy(wav).double()).numpy()
    assert result.shape == expected.shape == (26, CLASSES)
    np.testing.assert_allclose(result, expected, atol=2e-5)  # the Fourier kernels are float32


def test_posteriors_are_those_of_the_package():
    engine: Any = pytest.importorskip("hama._engine")
    content = import_hama.read_asset(None)
    wav = sound(4.0)
    expected = engine.AsrSession(content).run(["log_probs"], {"waveform": wav, "waveform_lengths": None})[0][0]
    with torch.no_grad():
        result = recogniser(import_hama.read_tensors(content))(torch.from_numpy(wav)).softmax(dim=1).numpy()
    assert (result.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(result - np.exp(expected)).max() < 0.02  # the package computes in float32, by other sums


def test_features_in_pieces_are_those_of_the_whole(monkeypatch):
    """Where nothing attends, the convolutions of the context give the same features."""
    network, wav = encoder(), sound(9.1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "attention.out.weight" in name:
                parameter.zero_()
        whole = torch.cat([network.hidden(torch.from_numpy(wav))[i] for i in hama.LAYERS], dim=1)
    monkeypatch.setattr(hama, "PIECE", 100)
    monkeypatch.setattr(hama, "CONTEXT", 60)
    rows = hama.features(network, wav)
    assert rows.shape == (1 + len(wav) // 320, FEATURES["hama"][0])
    np.testing.assert_allclose(rows, whole.numpy(), atol=1e-4)


@pytest.mark.parametrize("samples", [0, 100, 399, 640])
def test_short_sound_has_features(weights, samples):
    assert sound_features(sound(1)[:samples], "hama").shape == (1 + samples // 320, 288)


@pytest.mark.parametrize("way", ["file", "wheel", "folder"])
def test_the_import_writes_the_first_layers(tmp_path, monkeypatch, way, capsys):
    tensors = made_tensors()
    content = as_file(tensors)
    monkeypatch.setattr(import_hama, "SHA256", hashlib.sha256(content).hexdigest())
    source = tmp_path / "asr_waveform.hama"
    source.write_bytes(content)
    if way == "wheel":
        source = tmp_path / "hama-1.7.0-py3-none-any.whl"
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.writestr(import_hama.ASSET, content)
    given = tmp_path if way == "folder" else source
    monkeypatch.setattr("sys.argv", ["import_hama", "--from", str(given), "--output", str(tmp_path / "out")])
    assert not import_hama.main()
    state = load_file(tmp_path / "out" / hama.NAME)
    own = encoder().state_dict()
    assert state.keys() == own.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.float(), own[name])
    assert hama_features(sound(0.3), tmp_path / "out" / hama.NAME).shape == (16, 288)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "asr_waveform.hama").write_bytes(as_file(made_tensors()))
    with pytest.raises(InputError, match="sha256 differs"):
        import_hama.read_asset(tmp_path / "asr_waveform.hama")
    with pytest.raises(InputError, match="does not exist"):
        import_hama.read_asset(tmp_path / "none.whl")


def test_a_missing_or_foreign_encoder_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(hama, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(hama, "DEMO", tmp_path)
    with pytest.raises(InputError, match=r"is missing; run `python -m checkpoints\.import_hama`"):
        hama_features(sound(0.3))
    save_file({"mels": torch.zeros(3)}, tmp_path / hama.NAME)
    with pytest.raises(InputError, match="holds other tensors"):
        hama_features(sound(0.3))


def hearing_checkpoint(folder):
    networks = {
        "heatmap_predictor": HeatmapPredictor(HeatmapPredictorConfig(audio="hama", width=0.06, layers=1)),
        "face_synthesizer": FaceSynthesizer(FaceSynthesizerConfig(audio="hama", width=0.03)),
    }
    save_checkpoint(folder, networks, {name: network.config for name, network in networks.items()})
    return folder


def test_a_checkpoint_carries_its_encoder(weights, tmp_path):
    folder = hearing_checkpoint(tmp_path / "checkpoint")
    weights.unlink()
    hama.load.cache_clear()
    speaker = load_speaker(folder, torch.device("cpu"))
    assert speaker.ear == folder / hama.NAME
    assert sound_features(sound(0.3), speaker.audio, "cpu", speaker.ear).shape == (16, 288)
    (folder / hama.NAME).unlink()
    with pytest.raises(InputError, match="is missing"):
        load_speaker(folder, torch.device("cpu"))
    with pytest.raises(InputError, match="is missing"):
        hearing_checkpoint(tmp_path / "other")
    assert load_speaker(small_checkpoint(tmp_path / "mel"), torch.device("cpu")).ear is None


def ear_of(weights) -> _Ear:
    speaker: Any = SimpleNamespace(audio="hama", device="cpu", ear=weights)
    return _Ear(speaker, TARGET)  # its gain is 1


def test_live_features_come_in_steps_and_are_all_there_at_the_end(weights):
    way, wav = _HEARING["hama"], sound(1.3)
    ear = ear_of(weights)
    for part in np.split(wav, [100, 5000, 5100, 9000]):
        ear.hear(part)
        assert len(ear.features) % way.step == 0
        assert len(ear.features) * way.hop <= max(0, ear.samples - way.needs) + way.hop
    assert ear.needed(3) == 11 * way.hop + way.needs  # its window ends with row 11, which a step ends with, too
    ear.end()
    assert len(ear.features) == len(sound_features(wav, "hama"))


def test_live_features_are_near_those_of_the_whole_sound():
    """With the real weights; on speech the relative error is 0.2 (docs/dubbing.md)."""
    try:
        path = hama.encoder_file()
    except InputError:
        pytest.skip("python -m checkpoints.import_hama has not been run")
    wav = sound(5.0)
    ear = ear_of(path)
    for part in np.split(wav, np.arange(1600, len(wav), 1600)):
        ear.hear(part)
    ear.end()
    whole = hama_features(wav, path)
    error = np.sqrt(((ear.features - whole)[50:] ** 2).mean() / whole[50:].var(axis=0).mean())
    assert error < 0.5
