"""The form of a crop in configs, checkpoints and clip files: read in every spelling, and compared once on loading."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from training_runs import STEPS, arguments, run, write_clips

from data_prep.sync import SyncDataset
from losses.face import FaceLosses, FaceObjective
from losses.g4g import G4GLosses, G4GObjective
from media.crop import CROPS, STSA, CropForm
from media.errors import InputError
from models import FaceSynthesizer, FaceSynthesizerConfig, G4GConfig, HeatmapPredictor, HeatmapPredictorConfig
from models.checkpoint import build_network, check_form, load_checkpoint, load_network, network_config, save_checkpoint
from models.sync_expert import SyncExpert, SyncExpertConfig
from train_face import SCHEMAS
from train_heatmap import HeatmapTraining
from training.config import read_config

NEEDED = ["data.train=a", "data.val=b", "output=c", "train.steps=1", "train.batch_size=1"]


def crop_of(tmp_path, model: str, *settings: str, schema=SCHEMAS) -> CropForm:
    """The crop of a config whose `model` section has the line `model`."""
    path = tmp_path / "config.yaml"
    path.write_text(f"model:\n  width: 0.5\n  {model}\n")
    return read_config(schema, path, [*NEEDED, *settings]).model.crop


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("", [], STSA),
        ("crop: stsa-256", [], CROPS["stsa-256"]),
        ("crop: g4g", ["model.crop.margin=0.1"], dataclasses.replace(CROPS["g4g"], margin=0.1)),
        ("crop: g4g", ["model.crop=stsa"], STSA),
        ("crop: {height: 160, hidden: [0.1, 0.4, 0.9, 1]}", [], CropForm(height=160, hidden=(0.1, 0.4, 0.9, 1.0))),
        ("", ["model.crop=upright", "model.crop.width=300"], dataclasses.replace(CROPS["upright"], width=300)),
        ("size: 160", [], CropForm(height=160, width=160, guidance=160)),  # before crops had a section
        ("", ["model.size=160"], CropForm.square(160)),
        ("crop: {hidden: [0, 1, 1, 1]}", ["model.crop.hidden=[0,0.5,1,1]"], STSA),
    ],
)
def test_configs_say_a_crop_by_name_by_field_or_as_before(tmp_path, model, settings, expected):
    assert crop_of(tmp_path, model, *settings) == expected
    assert isinstance(crop_of(tmp_path, model, *settings).hidden, tuple)


@pytest.mark.parametrize("name", CROPS)
def test_every_network_can_say_every_crop(tmp_path, name):
    assert crop_of(tmp_path, f"crop: {name}", schema=HeatmapTraining) == CROPS[name]
    assert crop_of(tmp_path, f"crop: {name}", "network=g4g_synthesizer") == CROPS[name]
    kinds = {"heatmap_predictor": HeatmapPredictorConfig, "face_synthesizer": FaceSynthesizerConfig}
    kinds["g4g_synthesizer"] = G4GConfig
    sections = {network: kind(crop=CROPS[name]) for network, kind in kinds.items()}
    save_checkpoint(tmp_path, {}, sections)
    for network, section in sections.items():
        assert network_config(tmp_path / "config.yaml", network) == section


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("crop: stsa-512", "model: crop=stsa-512 is unknown; use stsa, stsa-256, g4g, g4g-128, g4g-64, upright"),
        ("crop: {height: 0}", "model.crop.height=0 cannot be"),
        ("crop: {hidden: [0, 1, 1, 1]}", "model.crop.hidden="),
        ("crop: {height: tall}", "model.crop.height"),
        ("crop: {side: 3}", "side"),
        ("size: -1", "model: crop.height=-1 cannot be"),
    ],
)
def test_a_crop_that_cannot_be_is_named(tmp_path, model, message):
    with pytest.raises(InputError) as error:
        crop_of(tmp_path, model)
    assert message in str(error.value) and str(tmp_path / "config.yaml") in str(error.value)
    path = tmp_path / "old.yaml"
    path.write_text(f"face_synthesizer:\n  {model}\n")
    with pytest.raises(InputError) as error:
        network_config(path, "face_synthesizer")
    assert str(path) in str(error.value)


def test_a_predictor_has_no_size(tmp_path):
    with pytest.raises(InputError, match="size"):
        crop_of(tmp_path, "size: 128", schema=HeatmapTraining)
    with pytest.raises(ValueError, match=r"crop\.guidance is 64"):
        HeatmapPredictor(HeatmapPredictorConfig(crop=CropForm(guidance=64)))


def test_a_checkpoint_from_before_loads_and_says_its_crop_from_then_on(tmp_path):
    networks = {"face_synthesizer": FaceSynthesizer(FaceSynthesizerConfig(width=0.03, crop=CropForm.square(160)))}
    save_checkpoint(tmp_path, networks, {name: network.config for name, network in networks.items()})
    path = tmp_path / "config.yaml"
    sections: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert sections["face_synthesizer"].pop("crop") == {
        "height": 160,
        "width": 160,
        "framing": "landmark_box",
        "margin": None,
        "hidden": [0.0, 0.5, 1.0, 1.0],
        "guidance": 160,
    }
    sections["face_synthesizer"]["size"] = 160
    OmegaConf.save(OmegaConf.create(sections), path)
    assert load_network(tmp_path, "face_synthesizer").config == networks["face_synthesizer"].config


def test_a_run_does_not_go_on_with_another_crop(tmp_path):
    networks = {"face_synthesizer": FaceSynthesizer(FaceSynthesizerConfig(width=0.03))}
    save_checkpoint(tmp_path, networks, {"face_synthesizer": networks["face_synthesizer"].config})
    check_form(tmp_path, networks)
    networks["face_synthesizer"] = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, crop=CropForm(margin=0.1)))
    with pytest.raises(InputError) as error:
        check_form(tmp_path, networks)
    assert str(error.value) == (
        f"this config's face_synthesizer has crop.margin=0.1, the one in {tmp_path} has null; set it to that to go "
        f"on, or choose another output"
    )


@pytest.mark.slow
def test_stsa_trains_at_256(tmp_path):
    clips, log = write_clips(tmp_path / "clips", count=1), tmp_path / "log"
    for script in ("train_heatmap", "train_face"):
        command = arguments(script, clips, tmp_path / script, *STEPS, "model.crop=stsa-256")
        assert run(script, command, RUN_LOG=str(log)) == 0, log.read_text()
    heatmaps, faces = (tmp_path / script for script in ("train_heatmap", "train_face"))
    start = [f"heatmap_predictor={heatmaps}", f"face_synthesizer={faces}"]
    command = arguments("finetune_e2e", clips, tmp_path / "e2e", *STEPS, *start)
    assert run("finetune_e2e", command, RUN_LOG=str(log)) == 0, log.read_text()
    predictor, synthesizer = load_checkpoint(tmp_path / "e2e")
    assert predictor.config.crop == synthesizer.config.crop == CROPS["stsa-256"]


@torch.no_grad()
def test_heatmaps_of_the_guidance_size_condition_a_larger_face():
    crop = CropForm(height=112, width=104, hidden=(0.25, 0.5, 0.75, 1), guidance=64)
    network = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, references=2, crop=crop)).eval()
    frames, references = torch.rand(1, 3, 3, *crop.shape), torch.rand(1, 2, 3, *crop.shape)
    heatmaps, poses, audio = torch.rand(1, 3, 1, 64, 64), torch.rand(1, 2, 1, 64, 64), torch.rand(1, 3, 80, 16)
    faces = network(frames, heatmaps, references, poses, audio)
    assert faces.shape == frames.shape
    hidden = frames.clone()
    hidden[..., *crop.hidden_pixels] = 0.5
    assert torch.equal(network(hidden, heatmaps, references, poses, audio), faces)
    hidden[..., 0, 0] += 1
    assert not torch.equal(network(hidden, heatmaps, references, poses, audio), faces)


def test_an_expert_from_before_has_wav2lips_crop(tmp_path):
    save_checkpoint(
        tmp_path, {"sync_expert": SyncExpert(SyncExpertConfig(width=0.03))}, {"sync_expert": {"width": 0.03}}
    )
    expert = load_network(tmp_path, "sync_expert")
    assert expert.config.crop == CropForm(height=96, width=96)
    check_form(tmp_path, {"sync_expert": expert})


def test_an_expert_of_another_framing_scores_no_synthesizer(tmp_path):
    config = SyncExpertConfig(width=0.03, crop=CropForm(height=96, width=96, framing="upright"))
    save_checkpoint(tmp_path, {"sync_expert": SyncExpert(config)}, {"sync_expert": config})
    face = FaceLosses(perceptual=0, mutual_information=0)
    for build in (
        lambda crop: FaceObjective(face, FaceSynthesizerConfig(crop=crop), 5, str(tmp_path)),
        lambda crop: G4GObjective(G4GLosses(perceptual=0), G4GConfig(crop=crop), 5, str(tmp_path)),
    ):
        assert build(CROPS["upright"]).expert is not None
        with pytest.raises(InputError) as error:
            build(STSA)
        assert str(error.value) == (
            f"the sync expert {tmp_path} has crop.framing=upright, the synthesizer has landmark_box; give an expert "
            f"that was trained on the same framing (train_sync.py), or set its weight to 0"
        )


def test_an_expert_has_one_input_size():
    with pytest.raises(InputError, match=r"crop\.height, crop\.width and crop\.hidden can only be 96, 96 and"):
        build_network("sync_expert", SyncExpertConfig(crop=STSA))


@pytest.mark.slow
def test_an_expert_is_trained_on_faces_of_its_framing(tmp_path):
    clips, log = write_clips(tmp_path / "clips"), tmp_path / "log"
    command = arguments("train_sync", clips, tmp_path / "run", "train.steps=1", "model.crop.framing=upright")
    assert run("train_sync", command, RUN_LOG=str(log)) == 0, log.read_text()
    expert = load_network(tmp_path / "run", "sync_expert")
    upright = SyncDataset(clips, crop=expert.config.faces)
    faces = upright[0, 1]["frames"]
    expected = upright.clips[0].faces(range(5))
    assert upright.clips[0].crop == CropForm(framing="upright")
    np.testing.assert_array_equal(faces, expected.transpose(0, 3, 1, 2) / np.float32(255))
