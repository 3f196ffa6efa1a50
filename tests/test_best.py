"""Which weights a run keeps: the best by a score of the config's choice, and those of every so many steps."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_runs import Kill, arguments, run, write_checkpoints, write_clips

import finetune_e2e
import train_face
import train_heatmap
from benchmarks.inference import trained_like
from data_prep.windows import ClipDataset
from losses.heatmap import HeatmapLosses, heatmap_terms
from media.crop import CropForm
from media.errors import InputError
from media.heatmap import LIP_KEYPOINTS
from metrics.crops import PerceptualScores, Validation, crop_scores, with_visible_part
from metrics.fid import FeatureStatistics, fid
from models.checkpoint import load_checkpoint, save_checkpoint
from models.guidance import inputs_of
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.sync_expert import SyncExpert, SyncExpertConfig
from training.best import SCORES, best_score
from training.config import TrainConfig
from training.data import mean_of_parts, validation_batch
from training.run import Run

SCRIPTS = {"train_heatmap": train_heatmap, "train_face": train_face, "finetune_e2e": finetune_e2e}

# Each score is best at a step of its own; what is not a number is never best.
SCALARS = {
    "val/PSNR": [20.0, 24.0, 21.0, math.nan, 22.0, 23.0, math.inf],
    "val/LPIPS": [0.5, 0.4, 0.1, 0.3, 0.2, math.nan, 0.3],
    "val/FID": [9.0, 9.5, 12.0, 13.0, 14.0, 15.0, 16.0],
    "val/sync": [4.0, 3.0, 2.0, 0.5, 0.6, 0.7, 0.5],
    "val/heatmap_distance": [7.0, 6.0, 5.0, 4.0, 3.0, 4.0, 5.0],
    "val/keypoint_LipLMD": [0.07, 0.06, 0.05, 0.04, 0.05, 0.03, 0.031],
    "val/window_within_1": [0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.4],
}
BEST = {"psnr": 2, "lpips": 3, "fid": 1, "sync": 4, "heatmap": 5, "liplmd": 6, "accuracy": 7}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def weights_are_there(monkeypatch):
    monkeypatch.setattr("training.best.fetch.require", lambda name, purpose: Path(name))
    monkeypatch.setattr("training.best.find_spec", lambda package: package)


def made_run(folder: Path, best_by: str, names: tuple[str, ...], **settings: Any) -> Run:
    """A run of a network with one weight, which is the number of the step; its name stands for any without forms."""
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
    network = accelerator.prepare(nn.Linear(1, 1, bias=False))
    steps: dict[str, Any] = {"steps": 7, "batch_size": 1, "save_every": 1, "best_by": best_by}
    train = TrainConfig(**(steps | settings))
    config = SimpleNamespace(train=train, output=str(folder))
    measure = best_score(best_by, names, "expert")
    return Run(config, accelerator, {"discriminator": network}, {"training": train}, [], measure)


def validate_all(made: Run, until: int = 7) -> None:
    """Let it do its steps up to `until`, each with the validation scores of `SCALARS`."""
    for step, _ in made.progress(iter([{}] * (until - made.step))):
        with torch.no_grad():
            made.networks["discriminator"].weight.fill_(step)
        made.validated(step, {name: values[step - 1] for name, values in SCALARS.items()}, {})


def kept(folder: Path) -> float:
    return float(load_file(folder / "discriminator.safetensors")["weight"])


@pytest.mark.parametrize("best_by", BEST)
def test_the_weights_of_the_best_score_are_kept(best_by, weights_are_there, tmp_path, capsys):
    made = made_run(tmp_path, best_by, tuple(SCORES))
    validate_all(made)
    assert kept(tmp_path / "best") == BEST[best_by] and kept(tmp_path) == 7
    made.finish("did")
    score = SCORES[best_by]
    expected = score.form.format(SCALARS[score.scalar][BEST[best_by] - 1])
    assert f"did, best {score.label} {expected}; weights in" in capsys.readouterr().out
    saved: Any = OmegaConf.load(tmp_path / "state" / "step-00000007" / "run.yaml")
    assert saved["best_by"] == best_by


def test_a_resumed_run_compares_with_the_score_it_had(weights_are_there, tmp_path, capsys):
    validate_all(made_run(tmp_path, "psnr", ("psnr", "lpips")), until=3)
    resumed = made_run(tmp_path, "", ("psnr", "lpips"))
    assert resumed.resume() == 3 and resumed.best == 24.0
    validate_all(resumed)
    assert kept(tmp_path / "best") == 2
    assert "replaces it" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "best"), [({"best_by": "lpips"}, 5), ({"best_by": "psnr", "validation_windows": 99}, 6)]
)
def test_a_run_resumed_with_another_score_starts_the_best_anew(settings, best, weights_are_there, tmp_path, capsys):
    validate_all(made_run(tmp_path, "psnr", ("psnr", "lpips")), until=3)
    resumed = made_run(tmp_path, names=("psnr", "lpips"), **settings)
    assert resumed.resume() == 3 and resumed.best is None
    said = capsys.readouterr().out
    assert "best was selected by psnr on 16 windows, from here on it is by" in said
    validate_all(resumed)
    assert kept(tmp_path / "best") == best


@pytest.mark.parametrize(("best_by", "best"), [("", -0.05), ("liplmd", -0.05), ("heatmap", None)])
def test_a_state_that_names_no_score_was_measured_by_the_scripts_own(best_by, best, tmp_path):
    names = ("liplmd", "heatmap")
    validate_all(made_run(tmp_path, "liplmd", names), until=3)
    OmegaConf.save({"step": 3, "best": -0.05}, tmp_path / "state" / "step-00000003" / "run.yaml")
    resumed = made_run(tmp_path, best_by, names)
    resumed.resume()
    assert resumed.best == best


def test_a_score_that_the_validation_lacks_is_an_error_and_not_another_score(tmp_path):
    made = made_run(tmp_path, "sync", ("psnr", "sync"))
    with pytest.raises(InputError, match=r"best_by=sync: this validation has no val/sync, only val/PSNR"):
        made.validated(1, {"val/PSNR": 20.0}, {})
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("script", "settings", "words"),
    [
        ("train_heatmap", "train.best_by=psnr", "train.best_by=psnr is no score of this script; use liplmd or heatmap"),
        ("train_face", "train.best_by=heatmap", "is no score of this script; use psnr or lpips or fid or sync"),
        ("train_sync", "train.best_by=psnr", "is no score of this script; use accuracy"),
        ("train_face", "train.best_by=sync", "train.best_by=sync needs an expert; give sync_expert=FOLDER"),
        ("finetune_e2e", "train.best_by=accuracy", "is no score of this script; use psnr or lpips"),
        ("train_heatmap", "train.keep_every=-1", "train.keep_every=-1 must not be negative"),
    ],
)
def test_a_score_that_cannot_be_is_one_line_before_any_work(script, settings, words, tmp_path):
    log, nowhere = tmp_path / "log", Path("/nowhere")
    assert run(script, arguments(script, nowhere, tmp_path / "run", *settings.split()), RUN_LOG=str(log)) == 2
    assert words in log.read_text() and "Traceback" not in log.read_text() and log.read_text().count("error:") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lpips", "fid"])
def test_a_score_whose_weights_or_package_are_absent_stops_the_run(name, monkeypatch, tmp_path):
    monkeypatch.setattr("checkpoints.fetch.DOWNLOADS", tmp_path)
    with pytest.raises(InputError, match=f"best_by={name}: .* is missing .*checkpoints.fetch {name}"):
        best_score(name, SCRIPTS["train_face"].SCORES)
    monkeypatch.setattr("training.best.fetch.require", lambda name, purpose: tmp_path)
    assert best_score(name, SCRIPTS["train_face"].SCORES).name == name
    monkeypatch.setattr("training.best.find_spec", lambda package: None)
    with pytest.raises(InputError, match=f"best_by={name} needs the package .*pip install"):
        best_score(name, SCRIPTS["train_face"].SCORES)


def test_without_a_choice_each_script_keeps_its_own_score():
    assert {name: best_score("", script.SCORES).name for name, script in SCRIPTS.items()} == {
        "train_heatmap": "liplmd",
        "train_face": "psnr",
        "finetune_e2e": "psnr",
    }


@pytest.mark.slow
def test_the_synthesizer_is_kept_by_the_expert_of_the_run_without_its_loss_too(clips, tmp_path):
    expert, config = tmp_path / "expert", SyncExpertConfig(width=0.03)
    save_checkpoint(expert, {"sync_expert": SyncExpert(config)}, {"sync_expert": config})
    settings = ["train.steps=2", "train.validate_every=1", "train.best_by=sync", "frames=5", f"sync_expert={expert}"]
    output, log = tmp_path / "run", tmp_path / "log"
    command = arguments("train_face", clips, output, *settings, "train.keep_every=1")
    assert run("train_face", command, RUN_LOG=str(log)) == 0, log.read_text()
    best = OmegaConf.load(output / "state" / "step-00000002" / "run.yaml").best
    assert f"best -log cos of sound and lips {-best:.4f}; weights in" in log.read_text()
    file = "face_synthesizer.safetensors"
    steps = [(output / f"step-0000000{step}" / file).read_bytes() for step in (1, 2)]
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    scores = [event.value for event in events.Scalars("val/sync")]
    assert min(scores) == pytest.approx(-best) and len(scores) == 2
    assert (output / "best" / file).read_bytes() == steps[scores.index(min(scores))] and steps[0] != steps[1]


# --- LPIPS and FID in validation -------------------------------------------------------------------------------------


class Difference(nn.Module):
    """In LPIPS's place."""

    def forward(self, generated, reference, normalize):
        assert normalize and len(generated) <= 16
        return (generated - reference).abs().mean(dim=(1, 2, 3), keepdim=True)


class Means(nn.Module):
    """In Inception's place; counts the crops that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return [torch.nn.functional.adaptive_avg_pool2d(images, 2)]


FORM = CropForm.square(32)


def test_only_what_is_hidden_is_taken_from_the_generated_crop():
    made, true = torch.rand(2, 2, 3, 26, 20)
    form = CropForm(height=26, width=20, hidden=(0.1, 0.5, 0.75, 1))
    shown = with_visible_part(made, true, form)
    assert torch.equal(shown[..., 13:, 2:15], made[..., 13:, 2:15])
    hidden = torch.from_numpy(form.hidden_mask())
    assert torch.equal(shown[..., ~hidden], true[..., ~hidden])


def test_lpips_and_fid_are_of_the_crops_with_the_upper_half_given(monkeypatch, capsys):
    inception = Means()
    monkeypatch.setattr("metrics.crops.fetch.available", lambda name: True)
    monkeypatch.setattr("metrics.crops.load_lpips", lambda path: Difference())
    monkeypatch.setattr("metrics.crops.load_inception", lambda path: inception)
    torch.manual_seed(0)
    true = torch.rand(7, 5, 3, 32, 32)
    faces = true.clone()
    faces[..., :16, :] = 0.5
    scores = PerceptualScores(true, FORM, torch.device("cpu"))
    assert scores(faces) == {"LPIPS": 0.0, "FID": pytest.approx(0, abs=1e-9)}
    assert inception.seen == 70 and not capsys.readouterr().out

    faces = true + 0.2 * torch.rand(7, 5, 3, 32, 32)
    found = scores(faces)
    assert inception.seen == 105  # the true ones' features are those of the first time
    shown = with_visible_part(faces, true, FORM).clamp(0, 1)
    assert found["LPIPS"] == pytest.approx(float((shown - true).abs().mean()), rel=1e-5)
    sets = FeatureStatistics(), FeatureStatistics()
    for statistics, images in zip(sets, (shown, true), strict=True):
        statistics.update(inception(images.flatten(0, 1))[0].flatten(1).numpy())
    assert found["FID"] == pytest.approx(fid(*sets), rel=1e-4) and found["FID"] > 1e-3


def test_absent_weights_are_said_once_and_leave_the_other_scores(monkeypatch, capsys):
    monkeypatch.setattr("metrics.crops.fetch.available", lambda name: False)
    monkeypatch.setattr("metrics.crops.LipDistance", lambda true, crop: lambda faces: None)
    true = torch.rand(3, 2, 3, 32, 32)
    validation = Validation(true, FORM, torch.device("cpu"))
    faces = true + 0.1
    values = validation(faces)
    assert validation(faces) == values
    expected = crop_scores(faces.flatten(0, 1), true.flatten(0, 1), FORM)
    assert values == {f"val/{name}": pytest.approx(float(score.mean())) for name, score in expected.items()}
    [said] = capsys.readouterr().out.splitlines()
    assert "validation is without LPIPS and FID" in said and "fetch lpips fid" in said


# --- validation in parts ---------------------------------------------------------------------------------------------


def test_a_validation_in_parts_scores_as_a_whole_one(clips, monkeypatch):
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2))).eval()
    batch, weights, sizes = validation_batch(ClipDataset(clips), 18), HeatmapLosses(), []
    predictor.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(inputs[0])))
    values, pictures = train_heatmap.validate(predictor, batch, weights, torch.device("cpu"))
    assert sizes == [16, 2]
    with torch.no_grad():
        heatmaps, landmarks = predictor(*inputs_of(predictor, batch))
    expected = heatmap_terms(heatmaps, landmarks, batch, dataclasses.replace(weights, heatmap=1.0))
    assert values["val/heatmap_distance"] == pytest.approx(float(expected["heatmap"]), rel=1e-5)
    assert values["val/temporal"] == pytest.approx(float(expected["temporal"]), rel=1e-5)
    lips = (landmarks - batch["keypoints"])[..., LIP_KEYPOINTS, :].norm(dim=-1)
    assert values["val/keypoint_LipLMD"] == pytest.approx(float(lips.mean()), rel=1e-5)
    assert [picture.shape[0] for picture in pictures.values()] == [3]


def test_the_mean_of_parts_weighs_each_by_its_samples():
    assert mean_of_parts([(4, {"a": 1.0, "b": 0.0}), (1, {"a": 6.0, "b": 5.0})]) == {"a": 2.0, "b": 1.0}


def test_the_heatmaps_distance_has_no_weight(clips):
    """A run whose weight changes, or is 0, still compares by it."""
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2))).eval()
    batch, cpu = validation_batch(ClipDataset(clips), 2), torch.device("cpu")
    none, twice = (train_heatmap.validate(predictor, batch, HeatmapLosses(heatmap=x), cpu)[0] for x in (0.0, 2.0))
    assert none["val/heatmap_distance"] == twice["val/heatmap_distance"] == pytest.approx(twice["val/heatmap"] / 2)
    assert "val/heatmap" not in none


# --- a checkpoint every so many steps --------------------------------------------------------------------------------


def test_a_checkpoint_is_kept_every_so_many_steps(tmp_path):
    for until in (3, 7):  # and a resumed run goes on keeping
        made = made_run(tmp_path, "psnr", ("psnr",), keep_every=2, keep=1)
        made.resume()
        validate_all(made, until)
    folders = sorted(path.name for path in tmp_path.glob("step-*"))
    assert folders == ["step-00000002", "step-00000004", "step-00000006"]
    assert [kept(tmp_path / name) for name in folders] == [2, 4, 6]
    assert len(list((tmp_path / "state").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kept_checkpoint_dubs_and_survives_a_kill(after, clips, tmp_path):
    output, start = tmp_path / "run", write_checkpoints(tmp_path / "start")
    settings = ["train.steps=2", "train.save_every=1", "train.validate_every=2", "train.keep_every=1", *start]
    command = arguments("finetune_e2e", clips, output, *settings)
    # The files of the second checkpoint: half written, or all of it and not the state.
    kill = Kill("training.run", "Run._keep", 2, after=True) if after else Kill("models.checkpoint", "save_file", 7)
    assert run("finetune_e2e", command, before=kill) == -9
    assert run("finetune_e2e", command) == 0
    assert sorted(path.name for path in output.glob("step-*")) == ["step-00000001", "step-00000002"]
    assert not list(output.rglob("*.partial*"))
    for name in ("heatmap_predictor", "face_synthesizer"):
        file = f"{name}.safetensors"
        assert (output / "step-00000002" / file).read_bytes() == (output / file).read_bytes()
    assert (output / "step-00000001" / file).read_bytes() != (output / file).read_bytes()  # it learned
    load_checkpoint(output / "step-00000001")
