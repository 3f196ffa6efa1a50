"""train.compile: each script's training step is compiled where that is asked for, whole and once."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from networks import built
from training_runs import arguments, run, write_checkpoints, write_clips

from media.crop import CropForm
from training.config import TrainConfig
from training.learner import compiled

pytestmark = pytest.mark.slow


class Tracing:
    """Traces what is compiled and runs it as it is, since building its code takes minutes; notes how often.

    A graph that ends before the network does, or is traced again for the second step, is an error.
    """

    def __init__(self, notes: Path):
        self.notes = notes

    def __call__(self) -> None:
        compile_ = torch.compile
        torch._dynamo.config.error_on_recompile = True

        def traced(network, **options):
            with self.notes.open("a") as file:
                file.write("compiled\n")
            return compile_(network, backend="eager", fullgraph=True, **options)

        mock.patch.object(torch, "compile", traced).start()


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("train_sync", ["model.width=0.03"]),
        ("train_heatmap", ["losses.heatmap=1"]),
        ("train_face", ["losses.mutual_information=0.01"]),
        ("finetune_e2e", ["train.precision=bf16", "train_predictor=true"]),
    ],
)
def test_a_scripts_step_is_compiled_whole_and_once(script, settings, tmp_path):
    clips, notes, log = write_clips(tmp_path / "clips"), tmp_path / "notes", tmp_path / "log"
    if script == "finetune_e2e":
        settings = [*settings, *write_checkpoints(tmp_path / "checkpoints")]
    steps = ["train.steps=2", "train.compile=true", "train.validate_every=2", "train.save_every=2"]
    line = arguments(script, clips, tmp_path / "run", *settings, *steps)
    assert run(script, line, before=Tracing(notes), RUN_LOG=str(log)) == 0, log.read_text()[-2000:]
    assert notes.read_text() == "compiled\n"


@pytest.mark.parametrize("form", ["paper", "region"])
def test_a_compiled_synthesizer_computes_the_same(form):
    torch.manual_seed(0)
    network = built("face_synthesizer", form, width=0.03, crop=CropForm.square(112), references=2).double()
    shapes = [(2, 1, 3, 112, 112), (2, 1, 1, 112, 112), (2, 2, 3, 112, 112), (2, 2, 1, 112, 112), (2, 1, 80, 16)]
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in (*shapes, (2, 1, 131, 2), (2, 2, 131, 2))]
    inputs = inputs[: len(network.inputs)]
    expected, alignment = network(*inputs, alignment=True)
    traced = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    faces, found = traced(*inputs, alignment=True)
    torch.testing.assert_close(faces, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.grid, alignment.grid, atol=1e-10, rtol=0)
    assert compiled(network, TrainConfig(steps=1, batch_size=1)) is network


def test_a_machine_without_a_compiler_is_told_so(tmp_path):
    clips, log = write_clips(tmp_path / "clips"), tmp_path / "log"
    line = arguments("train_heatmap", clips, tmp_path / "run", "train.steps=2", "train.compile=true")
    assert run("train_heatmap", line, CXX="none", RUN_LOG=str(log)) == 2
    assert "needs a compiler (none)" in log.read_text() and not (tmp_path / "run").exists()
