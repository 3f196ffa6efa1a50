"""Configs from before `form`, with a key for each quirk, give the same networks; mixtures are refused."""

import re
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from training_runs import arguments, run, write_clips

from benchmarks.inference import trained_like
from media.errors import InputError
from models.checkpoint import build_network, check_form, load_network, network_config, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictorConfig
from train_face import SCHEMAS
from train_heatmap import HeatmapTraining
from training.config import read_config

PAPER = {
    "stacking": "image_major",
    "grid": "centres",
    "sampler": "plain",
    "alignment": "per_scale",
    "fusion_kernel": 1,
    "image_order": "rgb",
    "heatmap_channels": 1,
}
RELEASED = {
    "stacking": "colour_major",
    "grid": "corners",
    "sampler": "channel_blending",
    "alignment": "coarsest",
    "fusion_kernel": 3,
    "image_order": "bgr",
    "heatmap_channels": 3,
}
UNGUIDED = {"landmark_flow": False, "copy_references": False}
BEFORE = FaceSynthesizerConfig(spade_relu=False)
DECODED = HeatmapPredictorConfig(keypoint_shortcut=True, pose_messages=True)
FACES = [
    (PAPER, BEFORE),
    ({}, BEFORE),
    ({"width": 0.5}, FaceSynthesizerConfig(width=0.5, spade_relu=False)),
    (RELEASED, FaceSynthesizerConfig(form="released")),
    (RELEASED | {"audio": "wav2vec2"}, FaceSynthesizerConfig.released()),
    ({"form": "paper", "spade_relu": True, "colour_major": False} | UNGUIDED, FaceSynthesizerConfig()),
    ({"form": "released", "colour_major": True} | UNGUIDED, FaceSynthesizerConfig(form="released")),
]
HEATMAPS = [
    ({"messages": "separate", "add_pose": True}, DECODED),
    ({}, DECODED),
    ({"messages": "shared", "add_pose": False}, HeatmapPredictorConfig(form="released")),
    ({"form": "paper", "heatmaps": "decoded", "pose_messages": False}, HeatmapPredictorConfig()),
]


CASES = [("face_synthesizer", *case) for case in FACES] + [("heatmap_predictor", *case) for case in HEATMAPS]
REMOVED = [
    ("face_synthesizer", {"form": "landmarks", "base": "released", "landmark_flow": True, "copy_references": True}),
    ("face_synthesizer", {"stacking": "colour_major", "grid": "corners", "landmark_flow": True}),
    ("face_synthesizer", {"form": "paper", "copy_references": True}),
    ("heatmap_predictor", {"form": "landmarks", "width": 0.25}),
    ("heatmap_predictor", {"heatmaps": "drawn", "messages": "shared"}),
]
MIXED = [
    ("face_synthesizer", {"fusion_kernel": 3}, ["fusion_kernel: 3", "grid, sampler, alignment, image_order"]),
    ("face_synthesizer", {"stacking": "colour_major"}, ["stacking: colour_major"]),
    ("face_synthesizer", RELEASED | {"sampler": "plain"}, ["grid: corners, alignment: coarsest", "paper's sampler"]),
    ("face_synthesizer", {"sampler": "nearest"}, ["sampler: nearest"]),
    ("heatmap_predictor", {"messages": "shared"}, ["messages: shared", "paper's add_pose"]),
]


def written(folder, name: str, keys: dict):
    path = folder / "config.yaml"
    OmegaConf.save({name: keys}, path)
    return path


@pytest.mark.parametrize(("name", "keys", "expected"), CASES)
def test_a_section_from_before_form_is_the_network_that_it_was(name, keys, expected, tmp_path):
    assert network_config(written(tmp_path, name, keys), name).resolved() == expected.resolved()


@pytest.mark.parametrize(("name", "keys", "words"), MIXED)
def test_a_section_that_mixes_forms_is_one_line_that_names_the_keys(name, keys, words, tmp_path):
    with pytest.raises(InputError) as error:
        network_config(written(tmp_path, name, keys), name)
    message = str(error.value)
    assert all(word in message for word in [str(tmp_path), f"section {name}", "form: released", *words])
    assert "\n" not in message


@pytest.mark.parametrize(("name", "keys"), REMOVED)
def test_a_checkpoint_of_a_form_that_is_no_more_is_one_line(name, keys, tmp_path):
    path = written(tmp_path, name, keys)
    with pytest.raises(InputError) as error:
        load_network(tmp_path, name)
    known = "paper, released, region" if name == "face_synthesizer" else "paper, released, speech"
    assert str(error.value) == (
        f"{path}: section {name} has form 'landmarks', this version knows {known}; use one of these, or the version of "
        f"the code that it was made with"
    )


def test_old_keys_beside_form_are_refused(tmp_path):
    with pytest.raises(InputError, match="'grid' not in"):
        network_config(written(tmp_path, "face_synthesizer", {"form": "paper", "grid": "corners"}), "face_synthesizer")


@pytest.mark.parametrize("keys", [PAPER, RELEASED])
def test_an_old_checkpoint_computes_the_same_bits_as_its_new_one(keys, tmp_path):
    (tmp_path / "new").mkdir()
    path = written(tmp_path, "face_synthesizer", keys | {"width": 0.03})
    network = trained_like(build_network("face_synthesizer", network_config(path, "face_synthesizer")))
    for folder, section in ((tmp_path / "new", network.config), (tmp_path, keys | {"width": 0.03})):
        save_checkpoint(folder, {"face_synthesizer": network}, {"face_synthesizer": section})
    saved = OmegaConf.load(tmp_path / "new" / "config.yaml").face_synthesizer
    assert saved.form in ("paper", "released") and saved.spade_relu is False
    assert not RELEASED.keys() & saved.keys()
    shown = torch.rand(1, 1, 3, 128, 128), torch.rand(1, 1, 1, 128, 128)
    inputs = *shown, torch.rand(1, 5, 3, 128, 128), torch.rand(1, 5, 1, 128, 128), torch.randn(1, 1, 80, 16)
    with torch.inference_mode():
        faces = [load_network(folder, "face_synthesizer")(*inputs) for folder in (tmp_path / "new", tmp_path)]
    assert torch.equal(*faces) and faces[0].std() > 0


def test_a_runs_config_with_old_keys_is_read_as_what_it_was(tmp_path):
    config = tmp_path / "run.yaml"
    OmegaConf.save({"model": RELEASED, "data": {"train": "a", "val": "b"}, "output": "c"}, config)
    settings = ["train.steps=1", "train.batch_size=1", "model.width=0.5"]
    read: Any = read_config(SCHEMAS, config, settings)
    assert read.model.resolved() == FaceSynthesizerConfig(form="released", width=0.5).resolved()
    assert read.train.steps == 1 and read.output == "c"
    with pytest.raises(InputError, match=re.escape(f"config {config}: model mixes two forms")):
        read_config(SCHEMAS, config, [*settings, "model.sampler=plain"])
    OmegaConf.save({"model": {"messages": "separate"}, "data": {"train": "a", "val": "b"}, "output": "c"}, config)
    read = read_config(HeatmapTraining, config, settings[:2])
    assert read.model.resolved() == DECODED.resolved()
    OmegaConf.save({"model": {}, "data": {"train": "a", "val": "b"}, "output": "c"}, config)
    read = read_config(SCHEMAS, config, settings[:2])
    assert read.model.resolved().spade_relu  # without them, the paper's form


def test_the_keypoints_term_is_read_under_its_earlier_name(tmp_path):
    config = tmp_path / "run.yaml"
    OmegaConf.save({"losses": {"landmarks": 3.0}, "data": {"train": "a", "val": "b"}, "output": "c"}, config)
    settings = ["train.steps=1", "train.batch_size=1"]
    assert read_config(HeatmapTraining, config, settings).losses.keypoints == 3.0
    assert read_config(HeatmapTraining, config, [*settings, "losses.keypoints=2"]).losses.keypoints == 2.0
    assert read_config(HeatmapTraining, config, [*settings, "losses.landmarks=1"]).losses.keypoints == 1.0


def test_weights_of_another_form_are_not_gone_on_with(tmp_path):
    """Both forms of SPADE have the same tensors, so a state of one would load into the other."""
    keys = {"width": 0.03, "stacking": "image_major"}
    network = FaceSynthesizer(network_config(written(tmp_path, "face_synthesizer", keys), "face_synthesizer"))
    check_form(tmp_path, {"face_synthesizer": network})
    check_form(tmp_path / "empty", {"face_synthesizer": network})
    other = FaceSynthesizer(FaceSynthesizerConfig(width=0.03))
    with pytest.raises(InputError, match=r"trained with model\.spade_relu=false, this config says true; set"):
        check_form(tmp_path, {"face_synthesizer": other})


@pytest.mark.slow
def test_a_run_that_would_go_on_in_another_form_stops(tmp_path):
    clips, output, log = write_clips(tmp_path / "clips"), tmp_path / "run", tmp_path / "log"
    settings = ["train.steps=1", "train.save_every=1", "train.validate_every=1", "losses.heatmap=1"]
    assert run("train_heatmap", arguments("train_heatmap", clips, output, *settings)) == 0
    assert OmegaConf.load(output / "config.yaml").heatmap_predictor.keypoint_shortcut is False
    more = [*settings, "train.steps=2", "model.keypoint_shortcut=true"]
    assert run("train_heatmap", arguments("train_heatmap", clips, output, *more), RUN_LOG=str(log)) == 2
    assert "model.keypoint_shortcut=false, this config says true" in log.read_text()
    assert run("train_heatmap", arguments("train_heatmap", clips, output, *more[:-1])) == 0
