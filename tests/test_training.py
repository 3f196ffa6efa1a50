"""The parts that the training scripts share: configs, the order of samples, schedules."""

import itertools
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from omegaconf import MISSING
from omegaconf.errors import OmegaConfBaseException
from torch.optim.swa_utils import AveragedModel

from extensions.drawing import CurveDrawing
from media.errors import InputError
from training.config import TrainConfig, read_config, windows_at_once
from training.data import StepSampler
from training.learner import Learner, optimizer, scheduler, train_mode
from training.run import moving_average

ROOT = Path(__file__).resolve().parent.parent


BLOCKED = ("av", "librosa", "lpips", "mediapipe", "pytorch_fid", "python_speech_features")
IMPORT = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
for script in ("train_heatmap", "train_face", "train_sync", "finetune_e2e", "benchmarks.training"):
    importlib.import_module(script)
"""


def test_the_gradient_of_a_step_is_the_sum_of_its_parts():
    accelerator = Accelerator(cpu=True)
    batch = {"clip": list("abcdef"), "x": torch.randn(6, 3)}
    learned = {}
    for size, at_once in ((0, 6), (2, 2), (3, 3), (8, 6)):
        torch.manual_seed(0)
        seen: list[list[str]] = []
        train = TrainConfig(steps=5, batch_size=6, micro_batch=size)
        learner = Learner(torch.nn.Linear(3, 2), train, accelerator)

        def compute(part: dict, learner: Learner = learner, seen: list = seen) -> tuple[dict, int]:
            seen.append(part["clip"])
            y = learner.network(part["x"])
            return {"square": y.square().mean(), "size": 0.1 * y.abs().mean()}, len(part["x"])

        values, others = learner.step(batch, 1, compute)
        assert [*itertools.chain(*seen)] == batch["clip"] and others == [at_once] * (6 // at_once)
        assert windows_at_once(train, accelerator) == at_once
        names = ("loss", "square", "size", "gradient_norm", "learning_rate")
        assert values.keys() == {f"train/{name}" for name in names}
        learned[size] = torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()])
        logged = [torch.as_tensor(values[f"train/{name}"]) for name in ("loss", "gradient_norm")]
        learned[size] = torch.cat([learned[size], torch.stack(logged)])
    for size in (2, 3, 8):
        torch.testing.assert_close(learned[size], learned[0])


def test_parameters_with_a_rate_of_their_own_follow_the_schedule_and_a_resumed_run():
    """Adam's first step has the length of the learning rate, whatever the gradient."""
    accelerator = Accelerator(cpu=True)

    def made(rate: float, learning_rate: float) -> Learner:
        network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        train = TrainConfig(steps=9, batch_size=4, learning_rate=learning_rate, warmup=1)
        return Learner(network, train, accelerator, rates=[(list(network[0].parameters()), rate)])

    def moved(learner: Learner) -> list[float]:
        before = [parameter.detach().clone() for parameter in learner.network.parameters()]
        batch = {"clip": list("abcd"), "x": torch.ones(4, 3)}
        values, _ = learner.step(batch, 1, lambda part: ({"sum": learner.network(part["x"]).sum()}, None))
        assert values["train/learning_rate"] == pytest.approx(learner.schedule.get_last_lr()[0] / 2)
        lengths = [
            float((after.detach() - x).abs().max())
            for after, x in zip(learner.network.parameters(), before, strict=True)
        ]
        return [max(lengths[:2]), max(lengths[2:])]

    learner = made(0.25, learning_rate=0.02)
    assert moved(learner) == pytest.approx([0.0025, 0.01], rel=1e-3)  # half of the rate in the warm-up
    resumed = made(0.5, learning_rate=0.01)
    resumed.optimizer.load_state_dict(learner.optimizer.state_dict())
    resumed.schedule.load_state_dict(learner.schedule.state_dict())
    assert [group["lr"] for group in resumed.optimizer.param_groups] == pytest.approx([0.01, 0.005])


@pytest.mark.slow
def test_training_needs_no_package_that_reads_videos_or_scores_them():
    command = [sys.executable, "-c", IMPORT.format(blocked=BLOCKED)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@dataclass
class Settings:
    train: TrainConfig = field(default_factory=TrainConfig)
    output: str = MISSING


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {steps: 5, batch_size: 4}\noutput: runs/x\n")
    return path


def test_a_config_is_the_file_with_the_overrides(config_file):
    config = read_config(Settings, config_file, ["train.steps=7", "train.learning_rate=3e-4"])
    assert (config.train.steps, config.train.batch_size, config.train.learning_rate) == (7, 4, 3e-4)
    assert isinstance(config.train, TrainConfig)


def test_a_config_overrides_the_one_it_is_based_on(config_file, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("base: run.yaml\ntrain: {steps: 9}\n")
    config = read_config(Settings, child)
    assert (config.train.steps, config.train.batch_size, config.output) == (9, 4, "runs/x")


@pytest.mark.parametrize("setting", ["train.stepz=7", "train.steps=many", "train.steps", "train.keep=[1]"])
def test_an_unknown_key_or_a_wrong_type_is_an_error_that_names_it(config_file, setting):
    with pytest.raises((OmegaConfBaseException, InputError), match=r"stepz|many|train\.steps|keep"):
        read_config(Settings, config_file, [setting])


def test_a_missing_value_a_missing_file_and_a_circle_are_errors(config_file, tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text("train: {steps: 5}\n")
    with pytest.raises(InputError, match=r"output.*train\.batch_size"):
        read_config(Settings, bare)
    with pytest.raises(InputError, match="nowhere"):
        read_config(Settings, tmp_path / "nowhere.yaml")
    circle = tmp_path / "circle.yaml"
    circle.write_text("base: circle.yaml\n")
    with pytest.raises(InputError, match="based on itself"):
        read_config(Settings, circle)


def samples(sampler):
    return [sample for batch in sampler for sample in batch]


def test_every_sample_is_seen_once_an_epoch_and_has_a_seed_of_its_own():
    seen = samples(StepSampler(10, TrainConfig(steps=5, batch_size=4)))
    assert sorted(index for index, _ in seen[:10]) == list(range(10))
    assert sorted(index for index, _ in seen[10:]) == list(range(10))
    assert [index for index, _ in seen[:10]] != [index for index, _ in seen[10:]]
    assert len({seed for _, seed in seen}) == 20


def test_a_resumed_sampler_goes_on_where_the_first_one_was():
    config = TrainConfig(steps=6, batch_size=4, seed=3)
    whole = list(StepSampler(10, config))
    assert list(StepSampler(10, config, first=2)) == whole[2:]
    assert len(StepSampler(10, config, first=2)) == 4


def test_processes_share_each_batch_without_overlap():
    config = TrainConfig(steps=6, batch_size=4)
    whole = list(StepSampler(10, config))
    shares = [list(StepSampler(10, config, process=i, processes=2)) for i in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_the_cosine_schedule_warms_up_and_ends_near_zero():
    train = TrainConfig(steps=100, batch_size=1, learning_rate=1.0, schedule="cosine", warmup=10)
    adam = optimizer([torch.nn.Parameter(torch.zeros(1))], train)
    schedule, rates = scheduler(adam, train), []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        adam.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5, abs=0.01) and rates[-1] < 1e-3


def test_a_state_says_how_far_a_run_is_and_the_config_how_it_goes_on():
    def made(**changes):
        train = TrainConfig(
            steps=100, batch_size=1, **{"learning_rate": 1.0, "warmup": 10, "weight_decay": 0.1} | changes
        )
        adam = optimizer([torch.nn.Parameter(torch.ones(1))], train)
        return adam, scheduler(adam, train)

    adam, schedule = made()
    for _ in range(5):
        adam.param_groups[0]["params"][0].sum().backward()
        adam.step()
        schedule.step()
    slower, its_schedule = made(learning_rate=0.25, weight_decay=0.0, betas=[0.5, 0.9])
    slower.load_state_dict(adam.state_dict())
    its_schedule.load_state_dict(schedule.state_dict())
    group = slower.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.9), 0.0)
    assert group["lr"] == its_schedule.get_last_lr()[0] == 0.25 * 6 / 11
    assert slower.state[group["params"][0]]["step"] == 5
    slower.step()
    its_schedule.step()
    assert group["lr"] == 0.25 * 7 / 11


def test_the_moving_average_moves_weights_and_copies_indices():
    linear, drawing = torch.nn.Linear(1, 1), CurveDrawing()
    network = torch.nn.Sequential(linear, drawing)
    averaged = AveragedModel(network, multi_avg_fn=moving_average(0.9), use_buffers=True)
    torch.nn.init.ones_(linear.weight)
    averaged.update_parameters(network)
    torch.nn.init.zeros_(linear.weight)
    for _ in range(3):
        averaged.update_parameters(network)
    moved: dict[str, torch.Tensor] = dict(averaged.module.named_parameters()) | dict(averaged.module.named_buffers())
    assert moved["0.weight"].item() == pytest.approx(0.9**3)
    assert torch.equal(moved["1.edges"], drawing.edges)  # a mean rounds 0.9 e + 0.1 e down
    assert torch.equal(moved["1.offsets"], drawing.offsets)


def test_frozen_batch_norm_keeps_its_statistics_in_training():
    norm = torch.nn.BatchNorm2d(2)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), norm)
    for frozen in (False, True):
        norm.reset_running_stats()
        train_mode(network, TrainConfig(freeze_batch_norm=frozen))
        network(torch.randn(4, 1, 8, 8) + 5)
        assert norm.running_mean is not None
        assert (not norm.running_mean.any()) == frozen
    assert network[0].training


class Normed(torch.nn.Module):
    """Two batch norms, the first of which is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(2, affine=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.norms[0](self.first(x)).relu()
        twice = self.norms[0](once + once.flip(2)).relu()
        return self.norms[1](self.second(twice))


def a_step(x: torch.Tensor, **settings) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[torch.Tensor]]:
    """The outputs, running statistics and gradients of a step of `Normed`."""
    torch.manual_seed(0)
    train = TrainConfig(steps=5, batch_size=len(x), learning_rate=0.0, **settings)
    learner = Learner(Normed().double(), train, Accelerator(cpu=True))
    gradients: dict[torch.Tensor, torch.Tensor] = {}

    def keep(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradients[parameter] = parameter.grad.clone()  # the sum of the parts so far

    for parameter in learner.network.parameters():
        parameter.register_post_accumulate_grad_hook(keep)

    def compute(part: dict) -> tuple[dict, torch.Tensor]:
        y = learner.network(part["x"])
        return {"loss": (y * part["x"][:, :2, 2:-2, 2:-2]).square().mean()}, y.detach()

    _, outputs = learner.step({"clip": list("abcdef"), "x": x}, 1, compute)
    statistics = {name: value for name, value in learner.network.named_buffers() if "running" in name}
    return torch.cat(outputs), statistics, [gradients[parameter] for parameter in learner.network.parameters()]


def test_batch_norm_can_take_the_whole_step():
    x = torch.randn(6, 3, 9, 9, dtype=torch.float64)
    x[3:] += 2  # parts that differ
    whole, part = a_step(x), a_step(x, micro_batch=2, step_batch_norm=True)
    torch.testing.assert_close(part[0], whole[0])
    torch.testing.assert_close(part[1], whole[1])
    assert (a_step(x, micro_batch=2)[0] - whole[0]).abs().max() > 0.1
    same = torch.cat([x[:2]] * 3)  # of equal parts the gradient is exact
    for ours, true in zip(a_step(same, micro_batch=2, step_batch_norm=True)[2], a_step(same)[2], strict=True):
        torch.testing.assert_close(ours, true)
