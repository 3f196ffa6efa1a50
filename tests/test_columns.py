"""CSIM, FVD, closures, LipLeak, flicker and the expert's score: by hand, with made weights, and on edited videos."""

import cv2
import numpy as np
import pytest
import torch
from faces import portrait
from media_files import write_sound
from test_evaluate import results, run

import evaluate
from checkpoints import fetch
from media.audio import SAMPLE_RATE
from media.errors import InputError
from media.face import FaceTracker
from media.video import VideoWriter, read_frames
from metrics import lips, networks, sync
from metrics.flicker import flicker
from metrics.fvd import Segments, load_i3d, video_features
from metrics.identity import aligned, cosine_similarity, load_arcface, similarity
from models.arcface import POINTS, TEMPLATE, ArcFace, embed
from models.i3d import I3D, _same
from models.sync_expert import SyncExpert, SyncExpertConfig


def test_arcface_loads_any_depth_and_refuses_another_file(tmp_path):
    torch.manual_seed(0)
    network = ArcFace((1, 2, 1, 1)).eval()
    names = set(network.state_dict())
    assert {
        "conv1.weight",
        "prelu.weight",
        "layer2.0.downsample.1.running_var",
        "layer2.1.conv2.weight",
        "fc.weight",
    } <= names
    assert network.fc.weight.shape == (512, 25088)
    torch.save(network.state_dict(), tmp_path / "r.pth")
    loaded = load_arcface(tmp_path / "r.pth")
    faces = np.random.RandomState(0).randint(0, 255, (2, 112, 112, 3), np.uint8)
    assert np.array_equal(embed(loaded, faces), embed(network, faces))
    torch.save(
        {name: each for name, each in network.state_dict().items() if "batches" not in name}, tmp_path / "old.pth"
    )
    assert np.array_equal(embed(load_arcface(tmp_path / "old.pth"), faces), embed(network, faces))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="is not ArcFace: it has no tensor of layer1"):
        load_arcface(tmp_path / "other.pth")


def test_iresnet50_has_the_published_files_shape():
    with torch.device("meta"):
        tensors = ArcFace().state_dict()
    # The published file has 174,680,546 bytes: the tensors in float32, and some kilobytes of names.
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    assert 0 < 174_680_546 - size < 400_000


def test_i3d_has_the_published_tensors():
    with torch.device("meta"):
        tensors = {name: tuple(each.shape) for name, each in I3D().state_dict().items()}
    assert tensors["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert tensors["Mixed_3b.b1a.conv3d.weight"] == (96, 192, 1, 1, 1)
    assert tensors["Mixed_4f.b2b.bn.running_mean"] == (128,)
    assert tensors["Mixed_5c.b0.conv3d.weight"] == (384, 832, 1, 1, 1)
    assert tensors["logits.conv3d.weight"] == (400, 1024, 1, 1, 1) and tensors["logits.conv3d.bias"] == (400,)
    assert sum(name.endswith("conv3d.weight") for name in tensors) == 3 + 9 * 6 + 1
    assert not any(name.startswith("MaxPool") for name in tensors)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(16, 7, 2), (15, 7, 2), (7, 3, 2), (8, 2, 2), (9, 3, 1)])
def test_padding_is_tensorflows_same(size, kernel, stride):
    padded = _same(torch.ones(1, 1, size, size, size), (kernel,) * 3, (stride,) * 3)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)  # TensorFlow's documentation
    assert padded.shape[2:] == (size + total,) * 3
    line = padded[0, 0, :, size // 2 + total // 2, size // 2 + total // 2]
    assert int((line == 0).nonzero().min()) == 0 if total // 2 else True
    assert int(line.argmax()) == total // 2


@pytest.mark.slow
def test_video_features_tell_motion_and_have_one_row_a_segment(tmp_path):
    torch.manual_seed(0)
    torch.save(I3D().state_dict(), tmp_path / "i3d.pt")
    network = load_i3d(tmp_path / "i3d.pt")
    still = torch.rand(1, 3, 64, 64).expand(16, 3, 64, 64)
    moving = torch.stack([frame.roll(4 * i, -1) for i, frame in enumerate(still)])
    features = video_features(network, torch.stack([still, moving, still]))
    assert features.shape == (3, 400)
    assert torch.allclose(features[0], features[2], atol=1e-5) and not torch.allclose(features[0], features[1])
    torch.save({"logits.conv3d.bias": torch.zeros(400)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="lacks the tensor Conv3d_1a_7x7"):
        load_i3d(tmp_path / "other.pt")


def test_segments_are_of_sixteen_frames_in_a_row():
    segments = Segments()
    found = [segments.add(index, torch.full((3, 1, 1), index)) for index in [*range(20), *range(30, 64)]]
    done = [(first, frames[:, 0, 0, 0].tolist()) for first, frames in filter(None, found)]
    assert done == [(0, list(range(16))), (30, list(range(30, 46))), (46, list(range(46, 62)))]


def test_a_face_is_turned_and_scaled_onto_the_template():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * 1.7
    points = (TEMPLATE - [5, 9]) @ np.linalg.inv(turn).T
    matrix = similarity(points, TEMPLATE)
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE)
    assert np.allclose(matrix[:, :2], turn)

    frame = portrait()
    with FaceTracker() as tracker:
        face = tracker.track(frame)
        moved = tracker.track(portrait(6, -4))
    assert face is not None and moved is not None
    crop, other = aligned(frame, face.landmarks), aligned(portrait(6, -4), moved.landmarks)
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop.astype(int) - other).mean() < 6  # the face stays where it is when its picture moves
    matrix = similarity(face.landmarks[list(POINTS)], TEMPLATE)
    landed = face.landmarks[list(POINTS)] @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(landed - TEMPLATE).max() < 12


def test_csim_of_one_picture_is_one():
    vectors = np.random.RandomState(0).standard_normal((3, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(cosine_similarity(vectors, vectors), 1)
    assert np.allclose(cosine_similarity(vectors, -vectors), -1)


def test_a_closure_is_met_within_a_frame_of_it():
    true = np.array([0.1, 0.01, 0.01, 0.1, 0.1, 0.1, 0.0, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert lips.closures(true, true) == (3, 3)
    early = np.roll(true, -1)
    assert lips.closures(early, true) == (3, 3)
    assert lips.closures(np.roll(true, -2), true) == (2, 3)
    assert lips.closures(np.full(12, 0.1), true) == (0, 3)
    assert lips.closures(np.full(12, 0.1), np.full(12, 0.1)) == (0, 0)
    hidden = true.copy()
    hidden[6] = np.nan  # no face in the one frame of the second closure
    assert lips.closures(hidden, true) == (2, 2)


def mesh(gap: float) -> np.ndarray:
    points = np.zeros((478, 2))
    points[lips.EYES[0]], points[lips.EYES[1]] = (10, 20), (70, 100)  # a distance of 100
    points[lips.INNER_LIPS[0]], points[lips.INNER_LIPS[1]] = (50, 50), (50, 50 + gap)
    return points


def test_the_lip_gap_is_in_units_of_the_eyes_distance():
    assert np.allclose(lips.lip_gap(np.stack([mesh(5), 3 * mesh(5), mesh(0)])), [0.05, 0.05, 0])


def test_frames_are_silent_away_from_sound():
    wav = np.zeros(30 * 640, np.float32)
    wav[10 * 640 : 12 * 640] = 0.5 * np.sin(np.arange(2 * 640))
    expected = np.ones(40, bool)
    expected[7:15] = False  # two loud frames, and three on either side
    assert np.array_equal(lips.silent_frames(wav, 40), expected)
    assert np.array_equal(lips.silent_frames(wav + 0.001, 40), expected)  # the microphone's noise, 50 dB below
    assert lips.silent_frames(np.zeros(640), 5).all()
    assert not lips.silent_frames(np.full(5 * 640, 0.1), 5).any()


def test_lip_leak_is_the_share_of_silent_frames_that_move():
    silent = np.array([True] * 6 + [False] * 4)
    still, moving = np.full(10, 0.05), 0.05 + 0.02 * (np.arange(10) % 2)
    assert lips.lip_leak(still, silent) == 0
    assert lips.lip_leak(moving, silent) == 1
    assert lips.lip_leak(np.concatenate([moving[:3], np.full(7, moving[2])]), silent) == pytest.approx(2 / 5)
    assert lips.lip_leak(moving, np.zeros(10, bool)) is None
    assert lips.lip_leak(np.full(10, np.nan), silent) is None


def test_flicker_is_zero_for_steady_change_and_the_amplitude_of_what_alternates():
    ramp = [torch.full((1, 3, 8, 8), 0.1 * i) for i in range(3)]
    assert flicker(*ramp).item() == pytest.approx(0, abs=1e-4)
    dark, bright = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 10 / 255)
    assert torch.allclose(flicker(dark, bright, dark), torch.tensor(10.0))
    assert torch.equal(flicker(bright, bright, bright), torch.zeros(2))


class _Loud(SyncExpert):
    """A stand-in that embeds how bright five mouths are, and how loud their sound."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.config = SyncExpertConfig()

    def embed_faces(self, lower_faces):
        return torch.nn.functional.normalize(lower_faces.unflatten(1, (5, 3)).mean(dim=(2, 3, 4)) - 0.5)

    def embed_audio(self, mel):
        loud = mel[:, 0].mean(dim=1)  # (B, 16) of five frames
        return torch.nn.functional.normalize(torch.stack([loud[:, round(3.2 * i + 1)] for i in range(5)], 1) + 2)


def speaking(frames: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames that are bright where their sound is loud, and the sound."""
    loud = np.random.RandomState(seed).rand(frames) > 0.5
    sound = np.repeat(loud, SAMPLE_RATE // 25) * np.random.RandomState(1).standard_normal(frames * SAMPLE_RATE // 25)
    return [np.full((60, 60, 3), 200 if each else 50, np.uint8) for each in loud], (0.2 * sound).astype(np.float32)


@pytest.mark.parametrize("count", [100, 3 * sync.BATCH + 7])
def test_the_experts_score_falls_when_the_sound_is_shifted(count):
    frames, wav = speaking(count)

    def score(pictures, sound) -> float:
        embeddings = sync.ExpertEmbeddings(_Loud())
        for index, picture in enumerate(pictures):
            embeddings.add(index, picture, np.random.RandomState(0).uniform(10, 50, (478, 2)))
        found = embeddings.score(sound)
        assert found is not None
        return found

    good = score(frames, wav)
    assert good > 0.3
    assert score(frames, np.roll(wav, 5 * 640)) < good - 0.2
    if count > 60:  # a short clip has few windows
        assert abs(score(frames[:1] * count, wav)) < good - 0.2
    assert sync.ExpertEmbeddings(_Loud()).score(wav) is None


@pytest.fixture
def made_networks(tmp_path, monkeypatch):
    """ArcFace and I3D of random weights."""
    torch.manual_seed(0)
    for name, network in {"arcface": ArcFace((1, 1, 1, 1)), "i3d": I3D()}.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    monkeypatch.setattr(fetch, "require", lambda name, purpose: tmp_path / f"{name}.pth")


@pytest.mark.slow
def test_a_translation_blur_freeze_and_shift_through_the_metrics(shared, tmp_path, capsys, made_networks, monkeypatch):
    source = shared / "clips" / "val" / "synthetic_13b.mp4"
    frames = [cv2.resize(frame, None, fx=0.5, fy=0.5) for _, frame in zip(range(34), read_frames(source), strict=False)]
    height, width = frames[0].shape[:2]
    height, width = height // 2 * 2, width // 2 * 2
    frames = [frame[:height, :width] for frame in frames]
    right = np.array([[1, 0, 6], [0, 1, 4]], np.float32)
    alternating = [np.clip(frame.astype(int) + 6 * (i % 2), 0, 255).astype(np.uint8) for i, frame in enumerate(frames)]
    made: dict[str, list[np.ndarray]] = {
        "same": frames,
        "translated": [
            cv2.warpAffine(frame, right, (width, height), borderMode=cv2.BORDER_REPLICATE) for frame in frames
        ],
        "blurred": [cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames],
        "frozen": [frames[0]] * len(frames),
        "shifted": [*frames[8:], *frames[:8]],
        "flickering": alternating,
    }
    rows: list = []
    for name, pictures in made.items():
        with VideoWriter(tmp_path / name / "a.mp4", width, height, sound=source, duration=1.36, crf=8) as writer:
            for picture in pictures:
                writer.write(picture)
        rows += ["--generated", tmp_path / name]
    monkeypatch.setattr(evaluate, "load_sync_expert", lambda path: _Loud())
    code, out, _ = run(
        *rows, "--reference", tmp_path / "same", "--metrics", "psnr", "ssim", "mse", "liplmd", "csim", "fvd",
        "closures", "lipleak", "flicker",
        "--expert", "given", "--output", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert code == 0, out
    value = {
        method["name"]: {metric: each["mean"] for metric, each in method["metrics"].items()}
        for method in results(tmp_path / "out")["methods"]
    }
    same = value["same"]
    assert same["psnr"] == "inf" and (same["ssim"], same["mse"], same["liplmd"]) == (1, 0, 0)
    for name in ("translated", "blurred", "frozen", "shifted", "flickering"):
        assert value[name]["psnr"] < 45 and value[name]["ssim"] < 0.999 and value[name]["mse"] > 0, name
    with FaceTracker() as tracker:
        face = tracker.track(frames[0])
    assert face is not None
    box = face.box[2:] - face.box[:2]
    moved = float(np.linalg.norm([6 / box[0], 4 / box[1]]))
    assert value["translated"]["liplmd"] == pytest.approx(moved, rel=0.1)
    assert value["frozen"]["liplmd"] > value["blurred"]["liplmd"] and value["shifted"]["liplmd"] > 0.01
    assert (same["csim"], same["closures"]) == (pytest.approx(1), 1)
    assert same["fvd"] == pytest.approx(0, abs=1e-6)
    assert same["sync"] is not None
    for name in ("translated", "blurred", "frozen", "shifted", "flickering"):
        assert value[name]["fvd"] > 0, name
    assert value["translated"]["closures"] == 1
    assert value["frozen"]["closures"] < 0.5 and value["shifted"]["closures"] < 1
    assert 1 > value["translated"]["csim"] > value["blurred"]["csim"]
    assert value["frozen"]["flicker"] < 0.3 * same["flicker"]
    assert value["flickering"]["flicker"] > same["flicker"] + 2
    assert value["translated"]["flicker"] == pytest.approx(same["flicker"], rel=0.15)
    assert value["frozen"]["fvd"] > value["flickering"]["fvd"]


def test_a_moving_mouth_over_silence_leaks_and_a_frozen_one_does_not(shared, tmp_path, capsys):
    source = shared / "clips" / "val" / "synthetic_13b.mp4"
    frames = [cv2.resize(frame, None, fx=0.5, fy=0.5) for _, frame in zip(range(20), read_frames(source), strict=False)]
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    silence = write_sound(tmp_path / "silence.wav", "pcm_s16le", 16000, sound=np.zeros((1, 16000), np.float32))
    for name, pictures in {"moving": frames, "frozen": [frames[0]] * 20}.items():
        with VideoWriter(tmp_path / "made" / f"{name}.mp4", width, height, sound=silence, duration=0.8) as writer:
            for picture in pictures:
                writer.write(picture[:height, :width])
    code, _, _ = run(
        "--generated", tmp_path / "made", "--metrics", "lipleak", "--output", tmp_path / "out", capsys=capsys
    )
    assert code == 0
    clips = {clip["name"]: clip["values"]["lipleak"] for clip in results(tmp_path / "out")["methods"][0]["clips"]}
    assert clips["frozen"] == 0 and clips["moving"] > 0.5


def test_absent_weights_of_the_new_columns_show_as_a_dash_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "nothing")
    found, absent = networks.load_networks(["csim", "fvd", "lipleak"])
    assert found == {}
    assert "python -m checkpoints.fetch arcface" in absent["csim"] and "i3d_pretrained_400.pt" in absent["fvd"]
    assert "lipleak" not in absent


def test_sync_needs_an_expert(tmp_path, capsys):
    assert evaluate.main(["--generated", str(tmp_path), "--reference", str(tmp_path), "--metrics", "sync"]) == 2
    assert "--metrics sync needs --expert" in capsys.readouterr().err
    assert evaluate.chosen_metrics(["psnr"], None, True) == ("psnr", "sync")
    assert "sync" not in evaluate.chosen_metrics(None, None, False)
