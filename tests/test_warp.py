"""The warp loss and the steps at a run's start in which the flow learns by it alone."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import built
from safetensors.torch import load_file
from training_runs import Kill, arguments, run, run_group, scalars_and_images, write_clips

from checkpoints import fetch
from losses.face import FaceLosses, FaceObjective
from losses.perceptual import PerceptualLoss
from losses.warp import warp_loss, warp_score, warped_references
from media.crop import STSA, CropForm
from media.errors import InputError
from models import FaceSynthesizer
from models.face_synthesizer import Alignment, FaceSynthesizerConfig
from models.temporal import deformation
from train_face import SCHEMAS, check_warp
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent

SHAPES = (2, 3, 3, 128, 128), (2, 3, 1, 128, 128), (2, 5, 3, 128, 128), (2, 5, 1, 128, 128), (2, 3, 80, 16)
WARP = ["losses.warp=2.5", "losses.without_vgg=skip", "train.warp_steps=2"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def small(**options) -> FaceSynthesizer:
    torch.manual_seed(0)
    return built("face_synthesizer", width=0.03, **options)


def test_warped_references_are_the_mean_by_weight_of_moved_images():
    images = torch.rand(1, 2, 3, 16, 16, dtype=torch.float64)
    flow = torch.zeros(2, 2, 2, 16, 16, dtype=torch.float64)  # (T, N, ...)
    flow[:, 1, 0] = 3.0  # the second reference is read three pixels to the right
    weights = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)[None, :, :, None, None, None]
    grid = deformation(flow.flatten(0, 1), "centres").unflatten(0, (1, 2, 2))
    alignment = Alignment(None, grid, weights.expand(-1, -1, -1, -1, 16, 16))
    warped = warped_references(alignment, images)
    assert warped.shape == (1, 2, 3, 16, 16)
    first, second = images[0, :, :, :, :13], images[0, 1, :, :, 3:]
    torch.testing.assert_close(warped[0, 0, :, :, :13], first[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(warped[0, 1, :, :, :13], 0.25 * first[0] + 0.75 * second, atol=2e-5, rtol=0)
    true = warped + 0.1
    assert float(warp_loss(alignment, images, true, None)) == pytest.approx(0.1)
    batch = {"reference_images": images, "frames": true}
    (name, score), *others = warp_score(alignment, batch, CropForm.square(16)).items()
    assert (name, others) == ("val/warp_PSNR", []) and score == pytest.approx(20.0)
    assert warp_score(Alignment(None, None), {}, STSA) == {}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"form": "released"}])
def test_the_flow_alone_is_the_flow_of_the_whole(options):
    network = small(**options).double().eval()
    assert network.temporal is not None
    torch.nn.init.normal_(network.temporal.flow_predictor.flow.weight, std=0.1)
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in (*SHAPES, (2, 3, 131, 2), (2, 5, 131, 2))]
    inputs = inputs[: len(network.inputs)]
    with torch.no_grad():
        _, whole = network(*inputs, alignment=True)
        alone = network(*inputs, flow_only=True)
    assert alone.information is None and float(whole.grid.std()) > 0
    torch.testing.assert_close(alone.grid, whole.grid, atol=1e-12, rtol=0)
    torch.testing.assert_close(alone.weights, whole.weights, atol=1e-12, rtol=0)


def test_the_warp_loss_reaches_what_makes_the_flow_and_nothing_else():
    network = small(mutual_information=True).train()
    alignment = network(*(torch.rand(shape) for shape in SHAPES), flow_only=True)
    warp_loss(alignment, torch.rand(SHAPES[2]), torch.rand(SHAPES[0]), None).backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert network.temporal is not None
    expected = [f"temporal.{name}" for name, _ in network.temporal.named_parameters() if "scale_3" not in name]
    assert reached == {*expected, *(f"audio_encoder.{name}" for name, _ in network.audio_encoder.named_parameters())}


def test_the_warp_loss_compares_features_without_gram_matrices():
    class Perceptual(PerceptualLoss):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def forward(self, faces, true_faces, grams=True):
            assert not grams
            return (faces - true_faces).square().mean()

    weights = FaceLosses(perceptual=0.0, gan=0.0, feature=0.0, sync=0.0, mutual_information=0.0)
    weights.warp, weights.without_vgg = 2.5, "skip"
    objective = FaceObjective(weights, FaceSynthesizerConfig(), 1, "", lambda line: None)
    objective.perceptual = Perceptual()
    network = small()
    inputs = [torch.rand(shape) for shape in SHAPES]
    batch = {"frames": inputs[0], "reference_images": inputs[2]}
    faces, alignment = network(*inputs, alignment=True)
    expected = 2.5 * (warped_references(alignment, inputs[2]) - inputs[0]).square().mean()
    for terms in (objective(faces, batch, None, alignment), objective.of_flow(batch, alignment)):
        assert terms.keys() == {"warp"}
        torch.testing.assert_close(terms["warp"], expected)


def differing(first: Path, second: Path) -> set[str]:
    """Names of the parameters that differ between two files of weights; batch norms' statistics left out."""
    tensors = load_file(first), load_file(second)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {
        name
        for name in tensors[0]
        if not name.endswith(statistics) and not torch.equal(tensors[0][name], tensors[1][name])
    }


@pytest.mark.slow
def test_two_processes_warm_the_flow_up_and_go_on_with_the_whole(clips, tmp_path):
    settings = [*WARP, "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1", "train.weight_decay=0.1"]
    settings += ["train.batch_size=4", "train.steps=4", "train.save_every=1", "train.keep=9", "train.validate_every=2"]
    settings += ["train.micro_batch=1", "train.gradient_norms_every=1", "frames=2"]
    command = arguments("train_face", clips, tmp_path / "run", *settings)
    assert run_group("train_face", command, [None, None]) == [0, 0]
    one, two, three = (tmp_path / "run" / "state" / f"step-0000000{step}" / "model.safetensors" for step in (1, 2, 3))
    warmed, learned = differing(one, two), differing(two, three)
    assert "temporal.flow_predictor.flow.weight" in warmed
    assert all(name.startswith(("temporal.", "audio_encoder.")) and "scale_3" not in name for name in warmed)
    assert {"spatial", "generator", "fusion"} <= {name.split(".")[0] for name in learned}
    assert not differing(one.with_name("model_1.safetensors"), two.with_name("model_1.safetensors"))  # discriminator
    assert differing(two.with_name("model_1.safetensors"), three.with_name("model_1.safetensors"))
    logged, _ = scalars_and_images(tmp_path / "run")
    assert len(logged["train/warp"]) == 4 and len(logged["train/gan"]) == len(logged["train/discriminator"]) == 2
    assert len(logged["train/gradient_norm/warp"]) == 4 and len(logged["train/gradient_norm/gan"]) == 2
    assert all(map(math.isfinite, logged["val/warp_PSNR"])) and len(logged["val/warp_PSNR"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 5])  # in the warm-up, and of the generator's two steps a step after it
def test_a_killed_run_goes_on_in_its_phase(call, clips, tmp_path):
    settings = [*WARP, "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1", "train.schedule=cosine"]
    settings += ["train.steps=4", "train.save_every=1", "train.validate_every=4", "train.keep=1"]
    lines = {name: arguments("train_face", clips, tmp_path / name, *settings) for name in ("whole", "killed")}
    assert run("train_face", lines["whole"]) == 0
    assert run("train_face", lines["killed"], before=Kill("training.learner", "Learner.step", call)) == -9
    assert run("train_face", lines["killed"]) == 0
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "state").rglob("*.safetensors")]
    assert len(files) >= 2
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (["losses.warp=0"], "trains by the warp loss; give it a weight"),
        (["model.temporal=false", "losses.warp=0"], "the temporal path, which is absent"),
        (["model.temporal=false"], "no temporal path, whose flow warps; set losses.warp=0"),
        (["train.steps=2"], "train.warp_steps=2 leaves none of the 2 steps"),
        (["train.warp_steps=-1"], "train.warp_steps=-1 must not be negative"),
    ],
)
def test_a_warm_up_that_nothing_drives_is_refused(settings, fault, clips, monkeypatch):
    monkeypatch.setattr(fetch, "available", lambda name: False)
    line = [*WARP, "losses.perceptual=0", "losses.sync=0", "model.form=paper"]
    with pytest.raises(InputError, match=fault):
        config: Any = read_config(SCHEMAS, ROOT / "configs" / "demo_face.yaml", [*line, *settings])
        FaceObjective(config.losses, config.model, 1, "", lambda line: None)
        check_warp(config)
