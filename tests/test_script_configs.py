"""The configs of the training scripts."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from finetune_e2e import Finetuning
from train_face import FaceTraining
from train_heatmap import HeatmapTraining
from train_sync import SyncTraining
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {"sync": SyncTraining, "heatmap": HeatmapTraining, "face": FaceTraining, "e2e": Finetuning}
ABLATIONS = ("cil", "sync", "spatial", "temporal", "finetuning")


@pytest.mark.parametrize(
    ("name", "schema"),
    [(f"stsa_{name}", schema) for name, schema in SCHEMAS.items()]
    + [("demo_sync", SyncTraining), ("demo_speech", HeatmapTraining), ("demo_face", FaceTraining)]
    + [("demo_e2e", Finetuning), ("person", Finetuning)]
    + [(f"ablations/without_{name}", FaceTraining) for name in ABLATIONS]
    + [("ablations/with_finetuning", Finetuning)],
)
def test_every_config_fits_its_script(name, schema):
    config = read_config(schema, ROOT / "configs" / f"{name}.yaml")
    assert config.train.steps > 0 and config.output


def test_the_ablations_change_what_table_iii_says_and_nothing_else():
    full: Any = OmegaConf.to_container(OmegaConf.structured(read_config(FaceTraining, ROOT / "configs/stsa_face.yaml")))

    def difference(name: str) -> dict:
        config = read_config(FaceTraining, ROOT / f"configs/ablations/{name}.yaml")
        other: Any = OmegaConf.to_container(OmegaConf.structured(config))
        return {
            f"{section}.{key}": value
            for section in ("data", "model", "discriminator", "losses", "train")
            for key, value in other[section].items()
            if value != full[section][key]
        }

    assert difference("without_cil") == {"losses.mutual_information": 0.0}
    assert difference("without_sync") == {"losses.sync": 0.0}
    assert difference("without_spatial") == {"model.spatial": False, "losses.mutual_information": 0.0}
    no_flow = {"losses.mutual_information": 0.0, "losses.warp": 0.0, "train.warp_steps": 0}
    assert difference("without_temporal") == {"model.temporal": False} | no_flow
    assert difference("without_finetuning") == {}
