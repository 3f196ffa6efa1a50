"""The loss terms of extensions/: their section of a config, and configs from before they had one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from extensions.losses import ExtraLosses, ExtraObjective, gradient_loss, landmark_flow_loss, ssim_loss
from finetune_e2e import Finetuning
from losses.reconstruction import hidden_weight, l1_loss, mouth_weight
from media.crop import CropForm
from media.errors import InputError
from models.face_synthesizer import Alignment, FaceSynthesizerConfig
from train_face import SCHEMAS, FaceTraining
from training.config import extension, read_config

ROOT = Path(__file__).resolve().parent.parent
FIRST = """
data: {train: a, val: b}
model: {audio: mel}
losses: {perceptual: 0.0, gan: 0.0, l1: 1.0, gradient: 2.0, ssim: 0.5, mouth: 4.0, upper: 0.1, flow: 0.25}
train: {steps: 1, batch_size: 1}
output: c
"""


@pytest.fixture
def first(tmp_path) -> Path:
    """A config file of before `extra_losses`."""
    (tmp_path / "first.yaml").write_text(FIRST)
    return tmp_path / "first.yaml"


def test_the_terms_are_their_functions_of_weighted_pixels():
    torch.manual_seed(0)
    rand = torch.rand
    faces, grid = rand(1, 2, 3, 16, 16, dtype=torch.float64), rand(1, 2, 4, 2, 16, 16, dtype=torch.float64)
    batch = {"frames": rand(1, 2, 3, 16, 16, dtype=torch.float64), "keypoints": rand(1, 2, 57, 2, dtype=torch.float64)}
    batch |= {
        name: rand(1, n, 131, 2, dtype=torch.float64) for name, n in (("landmarks", 2), ("reference_landmarks", 4))
    }
    crop = CropForm.square(16)
    pixels = mouth_weight(batch["keypoints"], crop, 4.0) * hidden_weight(crop, outside=0.1)
    pair = faces, batch["frames"], pixels
    expected = {"l1": l1_loss(*pair), "gradient": 2 * gradient_loss(*pair), "ssim": 0.5 * ssim_loss(*pair)}
    expected["flow"] = 0.25 * landmark_flow_loss(grid, batch["landmarks"], batch["reference_landmarks"])
    weights = ExtraLosses(l1=1.0, gradient=2.0, ssim=0.5, mouth=4.0, upper=0.1, flow=0.25)
    terms = ExtraObjective(weights, FaceSynthesizerConfig(crop=crop))(faces, batch, Alignment(None, grid))
    assert terms == expected
    without = FaceSynthesizerConfig(temporal=False)
    assert ExtraObjective(ExtraLosses(), without)(faces, batch, Alignment(None, None)) == {}
    with pytest.raises(InputError, match=r"no temporal path, whose flow it is; set extra_losses\.flow=0"):
        ExtraObjective(weights, without)


def test_a_config_has_the_section_only_if_it_names_it(first):
    paper: Any = read_config(SCHEMAS, ROOT / "configs/stsa_face.yaml")
    assert type(paper) is FaceTraining and extension(paper) is None
    configs: list[Any] = [
        read_config(SCHEMAS, ROOT / "configs/stsa_face.yaml", ["extra_losses.l1=2"]),
        read_config(Finetuning, ROOT / "configs/stsa_e2e.yaml", ["extra_losses.l1=2"]),
    ]
    for config in configs:
        assert extension(config) is config and config.extra_losses == ExtraLosses(l1=2.0)
        assert config.losses.perceptual == 4.0
    assert isinstance(read_config(SCHEMAS, first), FaceTraining)


def test_an_earlier_config_has_the_same_weights(first):
    config: Any = read_config(SCHEMAS, first, ["losses.mouth=3", "losses.gan=0.5"])
    assert config.extra_losses == ExtraLosses(l1=1.0, gradient=2.0, ssim=0.5, mouth=3.0, upper=0.1, flow=0.25)
    assert config.losses.perceptual == 0.0 and config.losses.gan == 0.5 and config.losses.feature == 1.0
    later: Any = read_config(Finetuning, ROOT / "configs/demo_e2e.yaml", ["losses.l1=3", "extra_losses.ssim=2"])
    assert later.extra_losses == ExtraLosses(l1=3.0, gradient=2.0, ssim=2.0, mouth=4.0, upper=0.0, outside=0.2)


@pytest.mark.parametrize(("there", "perceptual", "l1"), [(False, 4, 2.0), (True, 4, 1.0), (False, 0, 1.0)])
def test_an_earlier_l1_takes_the_place_of_an_absent_perceptual_loss(there, perceptual, l1, first, monkeypatch):
    monkeypatch.setattr("training.first_form.fetch.available", lambda name: there)
    settings = ["losses.without_vgg=l1", "losses.l1_without_vgg=2", f"losses.perceptual={perceptual}"]
    config: Any = read_config(SCHEMAS, first, settings)
    assert config.losses.without_vgg == "skip" and config.losses.perceptual == perceptual
    assert config.extra_losses.l1 == l1 and config.extra_losses.gradient == 2.0


@pytest.mark.parametrize(
    ("config", "setting", "fault"),
    [
        ("stsa_face", "losses.l2=1", "Key 'l2' not in 'FaceLosses'"),
        ("stsa_face", "extra_loss.l1=1", "Key 'extra_loss' not in 'FaceTraining'"),
        ("stsa_face", "extra_losses.l2=1", "Key 'l2' not in 'ExtraLosses'"),
        ("g4g", "losses.l1=1", "Key 'l1' not in 'G4GLosses'"),
        ("g4g", "extra_losses.l1=1", "Key 'extra_losses' not in 'G4GTraining'"),
    ],
)
def test_a_key_of_no_version_is_one_line(config, setting, fault):
    with pytest.raises(InputError, match=fault) as error:
        read_config(SCHEMAS, ROOT / f"configs/{config}.yaml", [setting])
    assert "\n" not in str(error.value)
