"""The predictor whose mouth follows the sound alone (`form: speech`): its network, its training and its measurement."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import run, scalars_and_images, write_clips

from data_prep.clips import Clip, ClipData, write_clip
from data_prep.index import open_clips
from data_prep.windows import ClipDataset
from extensions import speech_training
from extensions.landmark_maps import ANCHORS, apply_affine, fit_similarity
from extensions.speech_predictor import REACH, SHUT, SpeechPredictor, SpeechPredictorConfig, face_height, opening
from extensions.speech_training import SpokenLosses, SpokenWindows, SpokenWindowsConfig, fit_shapes, spoken_terms
from media.audio import FEATURES
from media.crop import CROPS
from media.heatmap import KEYPOINTS, LIP_KEYPOINTS, LIP_POINTS
from media.landmarks import edges_of, position_of, positions_of
from metrics import listening
from models.checkpoint import load_network, save_checkpoint

CONFIG = Path(__file__).resolve().parent.parent / "configs/demo_speech.yaml"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Clips whose inner and outer lips' middles, mouth corners and eyes lie where an upright face has them."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), count=2, frames=40)
    for path in folder.glob("*.safetensors"):
        clip = Clip(path)
        points = clip.points.copy()
        lips = points[:, LIP_POINTS]
        low, high = lips.min(axis=1), lips.max(axis=1)
        middle = (low + high) / 2
        gap = (high - low)[:, 1] - 5  # px; 0.1 at the least
        for ids, x, y in (
            ((13, 14), middle[:, 0], gap / 2),
            ((0, 17), middle[:, 0], gap / 2 + 5),
        ):
            for id, sign in zip(ids, (-1, 1), strict=True):
                points[:, position_of(id)] = np.stack([x, middle[:, 1] + sign * y], axis=1)
        for id, x in ((61, low[:, 0]), (291, high[:, 0])):
            points[:, position_of(id)] = np.stack([x, middle[:, 1]], axis=1)
        for side, x in (("right_eye", 50), ("left_eye", 98)):
            eye = positions_of(edges_of(side))
            points[:, eye] += np.array([x, 60]) - points[:, eye].mean(axis=1, keepdims=True)
        faces, audio = clip.face_bytes(range(len(clip))), {"mel": clip.audio("mel")}
        write_clip(path, ClipData(faces, list(points), list(clip.boxes), list(clip.frames), clip.wav, audio))
    return folder


@pytest.fixture(scope="module")
def dataset(clips) -> ClipDataset:
    return ClipDataset(clips, "mel", 9, 5, CROPS["upright"], pictures=False)


@pytest.fixture(scope="module")
def predictor(dataset) -> SpeechPredictor:
    torch.manual_seed(0)
    network = SpeechPredictor(SpeechPredictorConfig(audio="mel", width=0.03, members=1, crop=CROPS["upright"]))
    fit_shapes(network, dataset)
    return network.eval()


def inputs(dataset: ClipDataset, frames: int) -> tuple[torch.Tensor, ...]:
    """Random sound, and landmarks of the first clip: of `frames` frames, and of five references."""
    points = torch.from_numpy(next(iter(dataset.landmarks()))).float()
    audio = torch.randn(1, frames, *FEATURES["mel"], generator=torch.Generator().manual_seed(0))
    return audio, torch.zeros(1, frames, 1, 128, 128), points[None, :frames], points[None, -5:]


def test_the_centre_alone_is_that_of_the_window(predictor, dataset):
    audio, pose, points, references = inputs(dataset, 2 * REACH + 1)
    with torch.no_grad():
        heatmaps, keypoints = predictor(audio, pose, None, points, references)
        tokens = predictor.encode_frames(audio[0], pose[0])[None]
        encoded = predictor.encode_references(torch.zeros(1, 5, 1, 128, 128))
        where = pose[:, REACH], points[:, REACH], references
        drawn, moved = predictor.predict_centre(tokens, encoded, *where, keypoints=True)
    torch.testing.assert_close(moved, keypoints[:, REACH], atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn, heatmaps[:, REACH], atol=1e-4, rtol=0)


def test_members_share_a_steps_windows_and_move_the_mouth_together(dataset):
    torch.manual_seed(0)
    network = SpeechPredictor(SpeechPredictorConfig(audio="mel", width=0.03, members=3, dropout=0))
    fit_shapes(network, dataset)
    network.double()
    audio, _, points, references = (x.double() for x in inputs(dataset, 3))
    audio = audio.expand(4, -1, -1, -1)  # four times the same window, of three members: two, one and one
    given = audio, None, None, points.expand(4, -1, -1, -1), references.expand(4, -1, -1, -1)
    with torch.no_grad():
        first, again, second, third = network.train()(*given)[1]
        assert torch.equal(first, again) and (first - second).abs().max() > 1e-4
        together = network.eval()(*given)[1]
    torch.testing.assert_close(together[0], (first + second + third) / 3, atol=1e-7, rtol=0)
    torch.testing.assert_close(together[3], together[0], atol=1e-7, rtol=0)


def test_the_sources_mouth_has_no_part(predictor, dataset):
    audio, pose, points, references = inputs(dataset, 5)
    other = points.clone()
    other[:, :, KEYPOINTS] += 0.05 * torch.randn(57, 2)
    with torch.no_grad():
        first, second = (predictor(audio, pose, None, each, references)[1] for each in (points, other))
        assert torch.equal(first, second)
        other[:, :, ANCHORS] += 0.02  # the head's place has
        torch.testing.assert_close(predictor(audio, pose, None, other, references)[1], first + 0.02, atol=1e-4, rtol=0)


def test_a_shut_mouth_is_shut_whatever_the_references(predictor, dataset):
    points = torch.from_numpy(next(iter(dataset.landmarks()))).float()[None]
    widest = points[:, opening(points[0][:, KEYPOINTS]).argsort()[-5:]]
    with torch.no_grad():
        mouths = predictor.shut_mouth(points, widest)
    share = opening(mouths) / face_height(widest)
    assert (share - SHUT).abs().max() < 0.004
    assert opening(widest[0][:, KEYPOINTS]).min() / face_height(widest) > 0.05


def test_every_reference_counts_for_the_place_of_the_shut_mouth(predictor, dataset):
    points = torch.from_numpy(next(iter(dataset.landmarks()))).float()[None]
    references = points[:, opening(points[0][:, KEYPOINTS]).argsort()[::9]]
    raised = references.clone()
    raised[:, 0, KEYPOINTS, 1] += 0.02  # of the most shut one
    with torch.no_grad():
        moved = predictor.shut_mouth(points, raised) - predictor.shut_mouth(points, references)
    expected = torch.tensor([0.0, 0.02]) / references.shape[1]
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-4, rtol=0)


def test_the_turn_takes_the_pose_from_every_direction_of_the_upper_face():
    """A third direction, weaker than two others that are no turn, moves the mouth."""
    random = np.random.default_rng(0)
    still = torch.from_numpy(random.uniform(0.2, 0.8, (131, 2))).double()
    directions = torch.from_numpy(random.standard_normal((3, len(ANCHORS), 2)))
    time = torch.arange(500).double()
    sizes = torch.stack([0.02 * torch.sin(time / 31), 0.02 * torch.sin(time / 47), 0.006 * torch.sin(time / 71)])
    face = still.repeat(500, 1, 1)
    face[:, ANCHORS] += torch.einsum("dt,dpx->tpx", sizes, directions)
    face[:, KEYPOINTS, 1] += 2 * sizes[2, :, None]
    anchors = face[:, ANCHORS]
    mean = anchors.mean(dim=0)
    home = fit_similarity(anchors, mean[None])
    true = apply_affine(face[:, KEYPOINTS], home).flatten(1)
    turned = (apply_affine(anchors, home) - mean).flatten(1)
    predicted = turned.float() @ speech_training._turning([face])
    left = (true - true.mean(dim=0) - predicted)[:, 1::2][:, LIP_KEYPOINTS]
    assert left.std() < 0.3 * true[:, 1::2][:, LIP_KEYPOINTS].std(dim=0).mean()


def test_items_are_silent_where_their_sound_is(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(speech_training, "SOUNDS", ("cut",))
    windows = SpokenWindows(dataset, SpokenWindowsConfig(window=17), tmp_path)
    seen = [windows[(i % len(windows), i)] for i in range(60)]
    length = 17 + 2 * REACH
    assert seen[0]["audio"].shape == (length, *FEATURES["mel"]) and seen[0]["keypoints"].shape == (length, 57, 2)
    assert seen[0]["reference_landmarks"].shape == (5, 131, 2)
    levels: dict[int, list[float]] = {0: [], 1: []}
    for item in seen:
        for frame, (silent, doubtful) in enumerate(zip(item["silent"], item["doubtful"], strict=True)):
            assert silent + doubtful <= 1
            if not doubtful:
                levels[int(silent)].append(float(item["audio"][frame].mean()))
    assert len(levels[1]) > 20 and max(levels[1]) < np.median(levels[0])
    torch.testing.assert_close(windows[(3, 7)]["audio"], windows[(3, 7)]["audio"])
    again = SpokenWindows(dataset, SpokenWindowsConfig(window=17), tmp_path)  # reads the sounds that were kept
    torch.testing.assert_close(again[(3, 7)]["audio"], windows[(3, 7)]["audio"])


def test_the_losses_of_a_true_prediction_vanish_but_for_the_closures(dataset, predictor, tmp_path):
    windows = SpokenWindows(dataset, SpokenWindowsConfig(window=17), tmp_path)
    batch = torch.utils.data.default_collate([windows[(i, i)] for i in range(4)])
    shut = predictor.shut_mouth(batch["landmarks"], batch["reference_landmarks"]).detach()
    true = torch.where(batch["silent"][..., None, None] > 0, shut, batch["keypoints"])
    terms = spoken_terms(true, shut, batch, SpokenLosses())
    assert terms.pop("closures") < 1 and terms.pop("correlation") < 0.6  # 0 over 0 where all is silent
    assert max(terms.values()) < 1e-4
    worse = spoken_terms(true + 0.01 * torch.randn_like(true), shut, batch, SpokenLosses())
    assert worse["keypoints"] > 0.5 and worse["opening"] > 0.2 and worse["velocity"] > 0.5


def test_it_trains_resumes_and_is_measured(clips, tmp_path, monkeypatch, capsys):
    settings = ["model.audio=mel", "model.width=0.03", "windows.window=9", "train.batch_size=4", "train.warmup=0"]
    settings += ["train.save_every=2", "train.validate_every=4", "train.validation_windows=2", "train.log_every=1"]
    where = [f"data.train={clips}", f"data.val={clips}"]

    def train(output: Path, steps: int) -> None:
        arguments = ["--config", str(CONFIG), *where, *settings, f"train.steps={steps}", f"output={output}"]
        assert run("train_heatmap", [*arguments, "train.schedule=constant"]) == 0

    train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    train(tmp_path / "parts", 4)
    whole, parts = (load_network(tmp_path / name, "heatmap_predictor") for name in ("whole", "parts"))
    assert isinstance(whole, SpeechPredictor) and whole.config.form == "speech"
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, atol=1e-5, rtol=0)
    scalars, _ = scalars_and_images(tmp_path / "whole")
    assert len(scalars["correlation"] if "correlation" in scalars else scalars["train/correlation"]) == 4

    monkeypatch.setattr(sys, "argv", ["listening", "--checkpoint", str(tmp_path / "whole"), "--clips", str(clips)])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json", str(tmp_path / "values.json")])
    assert not listening.main()
    assert "| mean of 2 clips |" in capsys.readouterr().out
    values = json.loads((tmp_path / "values.json").read_text())["clip_0"]
    assert values["soft"] > 0.99 and -1 <= values["own"] <= 1 and values["LipLMD"] < 0.2


class Follower(torch.nn.Module):
    """A predictor whose mouth opens with the loudness of mel features, in the place of the references'."""

    inputs = ("landmarks", "reference_landmarks")

    def __init__(self, config):
        super().__init__()
        self.config = config

    def encode_frames(self, audio, pose):
        return audio.mean(dim=(1, 2))[:, None, None]

    def encode_references(self, heatmaps):
        return heatmaps.flatten(2)[..., :1]

    def predict_centre(self, frames, references, pose, landmarks, reference_landmarks, keypoints):
        loud = frames[:, frames.shape[1] // 2, 0, 0]
        moved = landmarks[:, KEYPOINTS].clone()
        gap = 0.002 + 0.05 * (loud + 4).clamp(min=0) / 4
        moved[:, LIP_KEYPOINTS] = torch.linspace(0.4, 0.6, 40)[:, None]
        moved[:, listening._UPPER] = torch.tensor([0.5, 0.6])
        moved[:, listening._LOWER] = torch.stack([torch.full_like(gap, 0.5), 0.6 + gap], dim=1)
        return pose, moved


def test_the_measurement_knows_silence_and_level(clips):
    predictor = Follower(SpeechPredictorConfig(audio="mel", crop=CROPS["upright"]))
    clip = open_clips(clips, crop=CROPS["upright"])[0]
    values = listening.listen(predictor, clip, None)  # type: ignore[arg-type]
    assert values["silence"] == 1 and values["source"] == 0
    assert values["soft"] > 0.999


def test_a_checkpoint_keeps_what_was_fitted(predictor, tmp_path):
    save_checkpoint(tmp_path, {"heatmap_predictor": predictor}, {"heatmap_predictor": predictor.config})
    loaded = load_network(tmp_path, "heatmap_predictor")
    for name in ("motions", "closing", "mean", "deviation"):
        assert torch.equal(getattr(loaded, name), getattr(predictor, name)) and getattr(loaded, name).any()
