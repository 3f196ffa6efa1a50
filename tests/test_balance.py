"""The gradient norms of loss terms on shared layers: what they are, and that measuring them changes no step."""

import functools
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._functorch import config as functorch
from training_runs import arguments, run, run_group, scalars_and_images, write_checkpoints, write_clips

from models import FaceSynthesizer, HeatmapPredictor
from models.face_synthesizer import FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictorConfig
from models.precision import total
from training.balance import gradient_norms
from training.config import TrainConfig
from training.learner import Learner, compiled


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_a_norm_is_that_of_the_terms_own_gradient_on_a_group():
    torch.manual_seed(0)
    trunk, head, frozen = (nn.Linear(3, 3, dtype=torch.float64) for _ in range(3))
    frozen.requires_grad_(False)
    x = trunk(torch.randn(5, 3, dtype=torch.float64))
    terms = {"square": 3 * head(x).square().mean(), "size": x.abs().mean(), "constant": torch.zeros(())}
    layers = {"": [*trunk.parameters(), *frozen.parameters()], "head": list(head.parameters())}
    found = gradient_norms(terms, layers, scale=1024.0)
    assert all(parameter.grad is None for module in (trunk, head) for parameter in module.parameters())
    for term in ("square", "size"):
        trunk.zero_grad()
        head.zero_grad()
        terms[term].backward(retain_graph=True)
        for group, module in (("", trunk), ("head/", head)):
            gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            expected = torch.cat(gradients).norm() if gradients else torch.zeros(())
            assert float(found[f"gradient_norm/{group}{term}"]) == pytest.approx(float(expected), rel=1e-12)
    assert found["gradient_norm/head/size"] == found["gradient_norm/constant"] == 0
    assert len(found) == 6


def test_shared_parameters_are_those_that_every_term_reaches():
    torch.manual_seed(0)
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1))
    shapes = (1, 5, 80, 16), (1, 5, 1, 128, 128), (1, 2, 1, 128, 128)
    for output in predictor(*(torch.rand(shape) for shape in shapes)):
        predictor.zero_grad()
        output.sum().backward(retain_graph=True)
        assert all(parameter.grad is not None for parameter in predictor.shared_parameters())
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, mutual_information=True))
    sizes = (2, 1, 3, 128, 128), (2, 1, 1, 128, 128), (2, 5, 3, 128, 128), (2, 5, 1, 128, 128), (2, 1, 80, 16)
    faces, alignment = synthesizer(*(torch.rand(size) for size in sizes), alignment=True)
    for output in (faces, sum(joint - marginal for joint, marginal in alignment.information)):
        synthesizer.zero_grad()
        output.sum().backward(retain_graph=True)
        assert all(parameter.grad is not None for parameter in synthesizer.shared_parameters())


@pytest.mark.parametrize("half", [False, True])
def test_measuring_changes_no_weight_in_parts_and_in_half_precision(half):
    accelerator = Accelerator(cpu=True)
    batch = {"clip": list("abcd"), "x": torch.randn(4, 8)}
    learned = {}
    for every in (0, 2):
        torch.manual_seed(0)
        train = TrainConfig(steps=5, batch_size=4, micro_batch=2, gradient_norms_every=every, learning_rate=0.01)
        network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        learner = Learner(network, train, accelerator, shared={"": list(network[0].parameters())})

        def compute(part: dict, learner: Learner = learner) -> tuple[dict, None]:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = learner.network(part["x"]).float()
            return {"square": y.square().mean(), "size": 0.1 * y.abs().mean()}, None

        measured = [step for step in range(1, 6) if "train/gradient_norm/size" in learner.step(batch, step, compute)[0]]
        assert measured == ([1, 2, 4] if every else [])
        learned[every] = {name: value.clone() for name, value in network.state_dict().items()}
    assert all(torch.equal(learned[0][name], learned[2][name]) for name in learned[0])


CASES = {
    "train_heatmap": ["losses.heatmap=1", "train.micro_batch=1", "train.batch_size=4"],
    "train_face": ["losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1", "train.batch_size=4"],
    "finetune_e2e": ["train_predictor=true", "heatmap_losses.heatmap=1", "true_heatmaps=0", "frames=1"],
}
TERMS = {
    "train_heatmap": ["heatmap", "keypoints", "temporal"],
    "train_face": ["l1", "gradient", "gan", "feature"],
    "finetune_e2e": [f"{kind}/{term}" for kind in ("predictor", "synthesizer") for term in ("l1", "L_face")]
    + ["predictor/heatmap", "predictor/L_heatmap"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "processes"), [("train_heatmap", 1), ("train_face", 2), ("finetune_e2e", 1)])
def test_measuring_changes_no_step(script, processes, clips, tmp_path):
    start = write_checkpoints(tmp_path / "start") if script == "finetune_e2e" else []
    steps = ["train.steps=3", "train.save_every=3", "train.validate_every=3", *CASES[script], *start]
    for every in (0, 2):
        line = arguments(script, clips, tmp_path / str(every), *steps, f"train.gradient_norms_every={every}")
        codes = [run(script, line)] if processes == 1 else run_group(script, line, [None] * processes)
        assert codes == [0] * processes
    files = [path.relative_to(tmp_path / "0") for path in (tmp_path / "0" / "state").rglob("*.safetensors")]
    assert files
    for file in files:
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
    (without, _), (found, _) = (scalars_and_images(tmp_path / every) for every in "02")
    prefix = "train/gradient_norm/"
    assert not [name for name in without if name.startswith(prefix)]
    assert {name: value for name, value in found.items() if not name.startswith(prefix)}.keys() == without.keys()
    for term in TERMS[script]:
        values = found[prefix + term]
        assert len(values) == 2 and all(0 < value < float("inf") for value in values), term  # steps 1 and 2
    if script == "finetune_e2e":  # the norm of a sum is at most the sum of norms, and eq. 4 does not reach the face
        parts = [found[f"{prefix}predictor/{term}"] for term in ("heatmap", "keypoints", "temporal")]
        whole = found[f"{prefix}predictor/L_heatmap"]
        assert all(norm <= 1.001 * sum(each) for norm, *each in zip(whole, *parts, strict=True))
        assert found[f"{prefix}synthesizer/L_heatmap"] == [0, 0]


def test_norms_are_measured_at_logged_steps(clips, tmp_path):
    log = tmp_path / "log"
    settings = ["train.steps=1", "train.log_every=4", "train.gradient_norms_every=6"]
    assert run("train_heatmap", arguments("train_heatmap", clips, tmp_path / "run", *settings), RUN_LOG=str(log)) == 2
    assert "train.gradient_norms_every=6 is no multiple of train.log_every=4" in log.read_text().splitlines()[-1]


@pytest.fixture
def donated_buffers():
    """PyTorch's default, put back by its own means: pytest's monkeypatch would leave the setting deleted."""
    with functorch.patch(donated_buffer=True):
        yield


def test_a_compiled_graph_can_be_measured_too(monkeypatch, donated_buffers):
    torch.manual_seed(0)
    first = nn.Linear(8, 8)
    network = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 1)).double()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    traced = compiled(network, TrainConfig(steps=1, batch_size=1, compile=True, gradient_norms_every=1))
    x, found = torch.randn(4, 8, dtype=torch.float64), []
    for callable in (network, traced):
        y = callable(x)
        terms = {"square": y.square().mean(), "size": y.abs().mean()}
        norms = gradient_norms(terms, {"": list(first.parameters())})
        network.zero_grad()
        total(terms.values()).backward()
        assert first.weight.grad is not None
        found.append([*norms.values(), first.weight.grad.norm()])
    torch.testing.assert_close(found[0], found[1])
    assert functorch.donated_buffer is False
