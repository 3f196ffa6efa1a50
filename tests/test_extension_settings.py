"""Settings of extensions/ in a config: there where the config has one, and an error of one line without the folder."""

import sys
from pathlib import Path

import pytest

from extensions.settings import FaceExtension, FeatureExpertExtension
from media.errors import InputError
from train_face import SCHEMAS
from train_heatmap import HeatmapTraining
from train_sync import SyncTraining
from training.config import extension, read_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture
def without_extensions(monkeypatch):
    """Importing extensions.settings fails as it does without the folder."""
    monkeypatch.setitem(sys.modules, "extensions.settings", None)


def test_a_config_gains_the_settings_of_extensions_with_the_first_of_them():
    paper = read_config(SyncTraining, CONFIGS / "stsa_sync.yaml")
    assert type(paper) is SyncTraining and extension(paper) is None
    config = read_config(SyncTraining, CONFIGS / "stsa_sync.yaml", ["model.form=features", "stretches.motion=2"])
    assert isinstance(config, SyncTraining) and isinstance(config, FeatureExpertExtension)
    assert extension(config) is config and config.stretches.motion == 2 and config.model.audio == "hama"
    face = read_config(SCHEMAS, CONFIGS / "stsa_face.yaml", ["extra_losses.l1=2"])  # a setting of any form
    assert isinstance(face, FaceExtension) and face.extra_losses.l1 == 2


@pytest.mark.usefixtures("without_extensions")
@pytest.mark.parametrize(
    ("schema", "name"),
    [(SyncTraining, "stsa_sync"), (SyncTraining, "g4g_sync"), (HeatmapTraining, "stsa_heatmap")]
    + [(SCHEMAS, name) for name in ("stsa_face", "g4g", "demo_g4g", "ablations/without_temporal")],
)
def test_the_papers_configs_need_no_extensions(schema, name):
    assert extension(read_config(schema, CONFIGS / f"{name}.yaml")) is None


@pytest.mark.usefixtures("without_extensions")
@pytest.mark.parametrize(
    ("schema", "name", "setting", "fault"),
    [
        (SyncTraining, "demo_sync", "furthest=9", "model.form=features needs the folder extensions/, which is absent"),
        (SCHEMAS, "stsa_face", "model.form=region", "needs the folder extensions/, which is absent; restore it"),
        (SCHEMAS, "stsa_face", "extra_losses.l1=1", "Key 'extra_losses' not in 'FaceTraining'"),
    ],
)
def test_a_setting_of_an_absent_folder_is_one_line(schema, name, setting, fault):
    with pytest.raises(InputError, match=fault) as error:
        read_config(schema, CONFIGS / f"{name}.yaml", [setting])
    assert "\n" not in str(error.value)


def test_an_earlier_papers_config_may_have_sections_that_train_nothing(tmp_path):
    sections = "reading: {steps: 0, batch_size: 32}\nspeech: {data: '', gain: 1.0}\n"
    (tmp_path / "config.yaml").write_text(f"base: {CONFIGS / 'stsa_heatmap.yaml'}\n{sections}")
    assert type(read_config(HeatmapTraining, tmp_path / "config.yaml")) is HeatmapTraining
    with pytest.raises(InputError, match="Key 'reading' not in 'HeatmapTraining'"):
        read_config(HeatmapTraining, tmp_path / "config.yaml", ["reading.steps=5"])


@pytest.mark.parametrize("setting", ["model.form=landmarks", "model.heatmaps=drawn"])
def test_a_form_of_another_version_is_one_line(setting):
    config = CONFIGS / "stsa_heatmap.yaml"
    with pytest.raises(InputError) as error:
        read_config(HeatmapTraining, config, [setting])
    assert str(error.value) == (
        f"config {config}: model has form 'landmarks', this version knows paper, released, speech; use one of these, "
        f"or the version of the code that it was made with"
    )
