"""Networks of several runs put into one checkpoint folder."""

import sys

import pytest
import torch
from networks import built
from omegaconf import OmegaConf

from checkpoints import combine
from media.crop import CROPS
from media.errors import InputError
from models import NETWORK_NAMES
from models.checkpoint import NETWORKS, load_checkpoint, load_network, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.sync_expert import SyncExpert, SyncExpertConfig


def write(folder, value: float, layers: int = 1) -> str:
    """A predictor whose weights are all `value`."""
    config = HeatmapPredictorConfig(width=0.03, layers=layers)
    predictor = HeatmapPredictor(config)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.fill_(value)
    training = {"output": "/somewhere", "warp": 0.1, "train": {"steps": 3}}
    save_checkpoint(folder, {"heatmap_predictor": predictor}, {"heatmap_predictor": config, "training": training})
    return str(folder)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["combine", *arguments, "--networks", "heatmap_predictor"])
        return combine.main(), capsys.readouterr().err

    return run


@pytest.mark.parametrize(("options", "value"), [((), 5.0), (("--blend", "0.25"), 2.0), (("--blend", "0"), 1.0)])
def test_the_last_one_counts_or_its_share(command, tmp_path, options, value):
    first, second = write(tmp_path / "first", 1.0), write(tmp_path / "second", 5.0)
    output = tmp_path / "both"
    assert command(first, second, "--output", str(output), *options)[0] == 0
    assert all(torch.all(parameter == value) for parameter in load_network(output, "heatmap_predictor").parameters())
    # Nothing of the machine it was trained on goes along.
    kept = OmegaConf.load(output / "config.yaml").training.heatmap_predictor
    assert kept == {"warp": 0.1, "train": {"steps": 3}}
    assert command(str(output), "--output", str(tmp_path / "again"))[0] == 0  # nor is it wrapped up twice
    assert OmegaConf.load(tmp_path / "again" / "config.yaml").training.heatmap_predictor == kept


def test_a_sync_expert_goes_along(monkeypatch, tmp_path):
    expert = SyncExpert(SyncExpertConfig(width=0.03))
    save_checkpoint(tmp_path / "sync", {"sync_expert": expert}, {"sync_expert": expert.config})
    for name in ("heatmap_predictor", "face_synthesizer"):
        network = built(name, width=0.03)
        save_checkpoint(tmp_path / name, {name: network}, {name: network.config})
    folders = [str(tmp_path / name) for name in ("heatmap_predictor", "face_synthesizer", "sync")]
    monkeypatch.setattr(sys, "argv", ["combine", *folders, "--output", str(tmp_path / "all")])
    assert combine.main() == 0
    assert isinstance(load_network(tmp_path / "all", "sync_expert"), SyncExpert)
    assert len(load_checkpoint(tmp_path / "all")) == 2


def test_half_precision_spares_statistics_and_refuses_what_it_cannot_hold(tmp_path):
    network = SyncExpert(SyncExpertConfig(width=0.03))
    statistics = next(buffer for name, buffer in network.named_buffers() if name.endswith("running_var"))
    statistics.fill_(70000)
    sections = {"sync_expert": network.config}
    save_checkpoint(tmp_path, {"sync_expert": network}, sections, half=True)
    loaded = load_network(tmp_path, "sync_expert").state_dict()
    assert any((value == 70000).all() for name, value in loaded.items() if name.endswith("running_var"))
    with torch.no_grad():
        next(network.parameters()).fill_(70000)
    with pytest.raises(InputError, match="is too large for float16"):
        save_checkpoint(tmp_path / "other", {"sync_expert": network}, sections, half=True)


@pytest.mark.parametrize(
    ("layers", "share", "words"), [(2, "0.5", "differ in their config"), (1, "2", "--blend 2.0 must be")]
)
def test_what_cannot_be_blended_is_one_line(command, tmp_path, layers, share, words):
    first, second = write(tmp_path / "first", 1.0), write(tmp_path / "second", 5.0, layers)
    code, error = command(first, second, "--output", str(tmp_path / "both"), "--blend", share)
    assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "both").exists()


def test_networks_of_different_crops_are_not_combined(monkeypatch, capsys, tmp_path):
    config = FaceSynthesizerConfig(width=0.03, crop=CROPS["stsa-256"])
    sections = {"face_synthesizer": config}
    save_checkpoint(tmp_path / "face", {"face_synthesizer": FaceSynthesizer(config)}, sections)
    folders = [write(tmp_path / "heatmap", 1.0), str(tmp_path / "face")]
    monkeypatch.setattr(sys, "argv", ["combine", *folders, "--output", str(tmp_path / "out")])
    assert combine.main() == 2
    assert capsys.readouterr().err == (
        f"error: the heatmap_predictor of {folders[0]} has crop.height=128, the face_synthesizer of {folders[1]} has "
        f"256; give two networks that were trained with the same crop\n"
    )
    assert not (tmp_path / "out").exists()


def test_every_network_has_its_name_in_the_list_that_the_command_offers():
    assert tuple(NETWORKS) == NETWORK_NAMES
