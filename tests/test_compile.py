"""train.compile: what a training step calls can be compiled, as one graph, and is compiled where it is asked for."""

import pytest
import torch
from training_runs import arguments, run, write_clips

from finetune_e2e import Dubbing
from models import FaceSynthesizer, HeatmapPredictor
from models.face_synthesizer import FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictorConfig
from training import TrainConfig, compiled


def as_one_graph(network: torch.nn.Module, *inputs, **options):
    """What the network gives when it is traced whole, which a call that asks the device for a number would prevent."""
    torch._dynamo.reset()
    return torch.compile(network, backend="eager", fullgraph=True, dynamic=False)(*inputs, **options)


@pytest.fixture
def batch() -> dict:
    """Two windows as `ClipDataset` gives them."""
    torch.manual_seed(0)
    shapes = {"audio": (5, 80, 16), "frames": (5, 3, 128, 128), "heatmaps": (5, 1, 128, 128)}
    shapes |= {"pose_heatmaps": (5, 1, 128, 128), "reference_images": (5, 3, 128, 128)}
    shapes |= {"reference_heatmaps": (5, 1, 128, 128), "points": (5, 131, 2), "reference_points": (5, 131, 2)}
    return {name: torch.rand(2, *shape) for name, shape in shapes.items()} | {"clip": ["a", "b"]}


@pytest.mark.parametrize("options", [{"mutual_information": True}, {"copy_references": True, "landmark_flow": True}])
def test_the_synthesizers_step_is_one_graph(options, batch):
    network = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, **options))
    names = ("frames", "heatmaps", "reference_images", "reference_heatmaps", "audio", "points", "reference_points")
    inputs = [batch[name] for name in names]
    torch.manual_seed(1)
    expected, alignment = network(*inputs, alignment=True)
    torch.manual_seed(1)
    faces, found = as_one_graph(network, *inputs, alignment=True)
    torch.testing.assert_close(faces, expected)
    torch.testing.assert_close(found, alignment)


@pytest.mark.parametrize("heatmaps", ["drawn", "decoded"])
def test_both_networks_step_is_one_graph(heatmaps, batch):
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1, dropout=0, heatmaps=heatmaps))
    dubbing = Dubbing(predictor, FaceSynthesizer(FaceSynthesizerConfig(width=0.03)), 3, true_heatmaps=0.5)
    torch.manual_seed(1)
    expected = dubbing(batch)
    torch.manual_seed(1)
    torch.testing.assert_close(as_one_graph(dubbing, batch), expected)


def test_a_network_is_compiled_where_it_is_asked_for():
    network = torch.nn.Linear(3, 2)
    assert compiled(network, TrainConfig(steps=1, batch_size=1)) is network
    wrapped = compiled(network, TrainConfig(steps=1, batch_size=1, compile=True))
    assert wrapped is not network and all(
        a is b for a, b in zip(wrapped.parameters(), network.parameters(), strict=True)
    )


def test_a_machine_without_a_compiler_is_told_so(tmp_path, monkeypatch):
    log = tmp_path / "log"
    settings = ("train.steps=2", "train.compile=true")
    clips = write_clips(tmp_path / "clips")
    assert (
        run(
            "train_heatmap",
            arguments("train_heatmap", clips, tmp_path / "run", *settings),
            CXX="none",
            RUN_LOG=str(log),
        )
        == 2
    )
    assert "needs a compiler (none)" in log.read_text() and not (tmp_path / "run").exists()
