"""The lip-sync expert on pretrained sound features: its windows, its stretches, and where Wav2Lip's is used too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import built
from safetensors.torch import save_file
from torch.testing import assert_close
from training_runs import arguments, run, write_clips

from data_prep.clips import Clip, ClipData, write_clip
from data_prep.index import open_clips
from data_prep.offsets import similarity_curves
from data_prep.sync import SyncDataset
from data_prep.unsynced import clip_sync_sounds
from data_prep.windows import ClipDataset
from extensions.feature_expert import FeatureExpert, FeatureExpertConfig
from extensions.feature_scale import fit_scale
from extensions.landmark_maps import mouth_motion
from extensions.sync_stretches import (
    MOTION,
    ExpertOnStretches,
    StretchesConfig,
    SyncStretches,
    stretch_terms,
)
from losses.sync import frozen_expert
from media import hama
from media.audio import FEATURES, sound_features
from media.crop import CropForm
from media.errors import InputError
from media.heatmap import LIP_POINTS
from metrics.sync import ExpertEmbeddings
from models.checkpoint import build_network, expert_audio, load_network, load_sync_expert, save_checkpoint

MOUTH = (0.25, 0.5, 0.75, 0.9375)
# Clips are cut at this form too, so that no face is resized.
WHOLE = CropForm(hidden=MOUTH)


def expert_of(**options) -> FeatureExpert:
    torch.manual_seed(0)
    return built("sync_expert", "features", **({"width": 0.125, "crop": WHOLE, "dropout": 0.0} | options)).eval()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """Drawn clips of 60 frames, whose features hold how far the mouth is open, in noise."""
    drawn, folder = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("spoken")
    for path in sorted(write_clips(drawn, frames=60).glob("clip_*.safetensors")):
        clip = Clip(path)
        random = np.random.default_rng(0)
        loud = np.repeat(20 * np.ptp(clip.landmarks[:, LIP_POINTS, 1], axis=1), 2)  # two rows a frame
        audio = {"mel": clip.audio("mel")}
        for kind in ("hama", "whisper"):
            weights = random.normal(size=FEATURES[kind][0])
            noise = random.normal(0, 0.1, (len(loud), len(weights)))
            audio[kind] = (loud[:, None] * weights + noise).astype(np.float32)
        faces, frames = clip.face_bytes(range(len(clip))), clip.frames.tolist()
        write_clip(folder / path.name, ClipData(faces, list(clip.points), list(clip.boxes), frames, clip.wav, audio))
    return folder


def test_a_window_of_features_has_two_frames_more_on_either_side(spoken):
    (clip, _) = open_clips(spoken)
    features = clip.audio("hama")
    window = clip_sync_sounds(clip, "hama", np.array([7]))
    assert window.shape == (1, 1, 288, 18)
    np.testing.assert_array_equal(window[0, 0], features[2 * 7 - 4 : 2 * 7 + 14].T)
    before = clip_sync_sounds(clip, "hama", np.array([0]))[0, 0]
    assert not before[:, :4].any() and np.array_equal(before[:, 4:], features[:14].T)


def test_networks_read_an_experts_sound_in_its_kind(spoken):
    item = ClipDataset(spoken, window=9, references=1, sync_from=2, sync_kind="hama", negatives=3)[(4, 0)]
    assert item["sync_audio"].shape == (1, 288, 18) and item["sync_negatives"].shape == (3, 1, 288, 18)
    clip = open_clips(spoken)[0]
    own = clip_sync_sounds(clip, "hama", np.array([item["start"] + 2]))[0]
    np.testing.assert_array_equal(item["sync_audio"], own)
    with pytest.raises(InputError, match="no wav2vec2 features; preprocess again with --audio wav2vec2"):
        ClipDataset(spoken, references=1, sync_kind="wav2vec2")


@torch.no_grad()
def test_a_stretch_compares_what_windows_do(spoken):
    expert = expert_of()
    dataset = SyncDataset(spoken, furthest=15, crop=expert.config.faces)
    fit_scale(expert, dataset)
    items = SyncStretches(dataset, expert, windows=6, augment=False)
    clip = open_clips(spoken, crop=expert.config.faces)[0]
    curves = similarity_curves(expert, clip)
    index = 15  # the first window of which all shifts lie within the sound
    item = items[(index, 0)]
    assert item["mouths"].shape == (10, 1, 56, 64) and item["rows"].shape == (2 * (6 - 1 + 2 * 15) + 18, 288)
    network = ExpertOnStretches(expert, 15)
    inputs = (item[name][None] for name in ("mouths", "rows", "motion"))
    cosines, guided, imitated, predicted = network(*inputs)
    assert guided.shape == (1, 6, 31) and imitated.shape == (1, 6) and predicted.shape == (1, 10, 57, 2)
    assert_close(cosines[0], torch.from_numpy(curves[:6]), atol=5e-3, rtol=0)  # grey levels are rounded in one of both
    assert curves.std(axis=1).mean() > 0.01
    assert torch.equal(item["motion"], mouth_motion(torch.from_numpy(clip.landmarks))[index : index + 10])


def test_augmentation_repeats_with_its_seed_and_keeps_the_range(spoken):
    expert = expert_of()
    items = SyncStretches(SyncDataset(spoken, crop=expert.config.faces), expert, windows=2, augment=True)
    first, again, other = items[(3, 5)], items[(3, 5)], items[(3, 6)]
    assert torch.equal(first["mouths"], again["mouths"]) and not torch.equal(first["mouths"], other["mouths"])
    assert all(items[(0, seed)]["mouths"].min() >= 0 and items[(0, seed)]["mouths"].max() <= 1 for seed in range(8))
    with pytest.raises(InputError, match="no clip has 104 frames in a row"):
        SyncStretches(SyncDataset(spoken), expert, windows=100, augment=False)


def test_terms_are_least_for_the_own_sound_and_the_true_motion():
    motion = torch.randn(2, 7, 57, 2, dtype=torch.float64) * MOTION
    cosines = torch.full((2, 3, 31), 0.01, dtype=torch.float64)
    cosines[..., 14:17] = 0.99
    same, other = torch.ones(2, 3), torch.zeros(2, 3)
    terms = stretch_terms((cosines, cosines, same, motion), motion, 0.1, StretchesConfig())
    assert terms["motion"] == 0 and terms["level"] < 0.02
    late = cosines.roll(5, dims=-1)
    worse = stretch_terms((late, late, other, motion + MOTION), motion, 0.1, StretchesConfig())
    assert terms.keys() == worse.keys() == {"shifted", "level", "motion", "guide"}
    assert all(worse[name] > terms[name] + 0.1 for name in terms)
    alone = StretchesConfig(level=0, motion=0, guide=0)
    assert stretch_terms((late, late, other, motion), motion, 0.1, alone).keys() == {"shifted"}


def test_gradients_reach_the_mouth_alone(tmp_path):
    expert = expert_of(audio="whisper")
    save_checkpoint(tmp_path, {"sync_expert": expert}, {"sync_expert": expert.config})
    frozen = frozen_expert(tmp_path, 5, WHOLE)
    frames = torch.rand(2, 5, 3, 128, 128, requires_grad=True)
    lips = frozen.embed_faces(frozen.lower_faces(frames))
    (lips * torch.randn(lips.shape)).sum().backward()
    assert frames.grad is not None and frames.grad[..., 64:120, 32:96].any()
    outside = frames.grad.clone()
    outside[..., 64:120, 32:96] = 0
    assert not outside.any()


def test_large_faces_are_embedded_as_small_ones():
    expert = expert_of(crop=FeatureExpertConfig().crop)
    small = torch.rand(1, 5, 3, 16, 16).flatten(0, 1)
    sizes = (torch.nn.functional.interpolate(small, (side, side), mode="bicubic") for side in (96, 256))
    with torch.no_grad():
        one, other = (expert.embed_faces(expert.lower_faces(faces[None])) for faces in sizes)
    assert float((one * other).sum()) > 0.99


@pytest.mark.parametrize("audio", ["mel", "speech"])
def test_the_form_takes_no_log_mel(audio):
    with pytest.raises(InputError, match=f"audio is '{audio}'; form features takes one of wav2vec2, hama, whisper"):
        build_network("sync_expert", FeatureExpertConfig(audio=audio))


def test_a_checkpoint_brings_its_ear(tmp_path):
    torch.manual_seed(0)
    save_file({name: tensor.half() for name, tensor in hama.HamaEncoder().state_dict().items()}, tmp_path / hama.NAME)
    expert = expert_of(crop=FeatureExpertConfig().crop)
    save_checkpoint(tmp_path, {"sync_expert": expert}, {"sync_expert": expert.config})
    loaded = load_sync_expert(tmp_path)
    assert isinstance(loaded, FeatureExpert) and loaded.ear == tmp_path / hama.NAME
    assert expert_audio(tmp_path) == "hama" and expert_audio("") == expert_audio(tmp_path / "other.pth") == "mel"
    judge = ExpertEmbeddings(loaded)
    random = np.random.default_rng(0)
    for index in range(45):
        points = 40 + 60 * random.random((478, 2))
        judge.add(index, random.integers(0, 255, (160, 160, 3), np.uint8), points)
    wav = random.normal(0, 0.1, 2 * 16000).astype(np.float32)
    score = judge.score(wav)
    assert score is not None and np.isfinite(score)
    assert sound_features(wav, "hama", weights=loaded.ear).shape == (101, 288)


@pytest.mark.slow
def test_an_expert_learns_the_offsets_of_drawn_mouths(spoken, tmp_path):
    """The whole way: train_sync.py, its checkpoint, and the similarity of its sounds and mouths."""
    settings = ["model.form=features", "model.audio=whisper", "model.crop.height=128", "model.crop.width=128"]
    settings += [f"model.crop.hidden=[{','.join(map(str, MOUTH))}]", "model.width=0.25", "stretches.windows=12"]
    settings += ["train.steps=100", "train.validate_every=100", "train.ema=0", "model.crop.framing=landmark_box"]
    assert run("train_sync", arguments("train_sync", spoken, tmp_path, *settings)) == 0
    expert = load_network(tmp_path, "sync_expert")
    clip = open_clips(spoken, crop=expert.config.faces)[0]
    curve = similarity_curves(expert, clip, shifts=5).mean(axis=0)  # a mouth repeats itself after 12 frames
    assert curve.argmax() == 5 and curve[5] - curve[0] > 0.1
