"""Training in several processes, and a step in several parts."""

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from training_runs import InFloat64, arguments, last_error, run, run_group, scalars_and_images, write_checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


class Record:
    """Writes down which windows a process sees, and its weights at the end."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> None:
        from training.learner import Learner
        from training.run import Run

        seen: list[tuple[int, str, int]] = []
        learn, finish = Learner.step, Run.finish

        def recorded(learner, batch, step, compute):
            if "start" in batch:  # the discriminator's have none
                seen.extend((step, clip, int(start)) for clip, start in zip(batch["clip"], batch["start"], strict=True))
            return learn(learner, batch, step, compute)

        def finished(run, summary):
            weights = hashlib.sha256()
            for network in run.networks.values():
                for parameter in network.parameters():
                    weights.update(parameter.detach().numpy().tobytes())
            path = self.path.with_suffix(f".{run.accelerator.process_index}")
            path.write_text(json.dumps({"seen": seen, "weights": weights.hexdigest()}))
            return finish(run, summary)

        mock.patch.object(Learner, "step", recorded).start()
        mock.patch.object(Run, "finish", finished).start()


def test_a_step_in_parts_learns_what_a_whole_one_does(clips, tmp_path):
    settings = ["train.batch_size=2", "train.steps=2", "train.save_every=2", "train.validate_every=2", "frames=2"]
    settings += ["train.freeze_batch_norm=true", "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1"]
    settings += ["model.form=paper", "model.temporal=false"]  # the slower path
    settings += ["extra_losses.mouth=1"]  # else the mean over a part weighs its mouths, that of the whole all
    for size in (0, 1):
        command = arguments("train_face", clips, tmp_path / str(size), *settings, f"train.micro_batch={size}")
        assert run("train_face", command, before=InFloat64()) == 0
    whole, parts = (scalars_and_images(tmp_path / str(size))[0] for size in (0, 1))
    for name in ("train/loss", "train/l1", "train/gan", "train/gradient_norm", "train/discriminator", "val/PSNR"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, err_msg=name)


def test_two_processes_see_every_sample_once_and_learn_what_one_learns(clips, tmp_path):
    settings = ["train.steps=20", "train.save_every=20", "train.validate_every=20", "train.freeze_batch_norm=true"]
    settings += ["model.dropout=0", "train.batch_size=4", "train.learning_rate=1e-4", "train.weight_decay=0"]

    def command(name: str) -> list[str]:
        return arguments("train_heatmap", clips, tmp_path / name, *settings)

    assert run("train_heatmap", command("one"), before=Record(tmp_path / "one.record")) == 0
    assert run_group("train_heatmap", command("two"), [Record(tmp_path / "two.record")] * 2) == [0, 0]

    records = [json.loads((tmp_path / name).read_text()) for name in ("one.0", "two.0", "two.1")]
    one, *two = (record["seen"] for record in records)
    assert sorted(two[0] + two[1]) == sorted(one) and len(one) == 80
    assert records[1]["weights"] == records[2]["weights"]  # bit for bit
    alone, together = (scalars_and_images(tmp_path / name)[0]["train/loss"] for name in ("one", "two"))
    assert len(alone) == 20 and np.allclose(alone, together, rtol=1e-3)
    # One process can go on with what two have begun.
    assert run("train_heatmap", [*command("two"), "train.steps=21", f"output={tmp_path / 'two'}"]) == 0
    assert (tmp_path / "two" / "state" / "step-00000021").is_dir()


def test_two_processes_keep_the_synthesizers_and_the_discriminators_weights_equal(clips, tmp_path):
    settings = ["train.batch_size=4", "train.steps=3", "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1"]
    command = arguments("train_face", clips, tmp_path / "run", *settings, "losses.mutual_information=0.01")
    assert run_group("train_face", command, [Record(tmp_path / "face")] * 2) == [0, 0]
    first, second = (json.loads((tmp_path / f"face.{i}").read_text()) for i in range(2))
    assert first["weights"] == second["weights"]
    windows = [tuple(window) for record in (first, second) for window in record["seen"]]
    assert len(windows) >= 12 and not set(map(tuple, first["seen"])) & set(map(tuple, second["seen"]))


def test_l_mi_compares_the_windows_of_both_processes_and_of_a_steps_parts(clips, tmp_path):
    settings = ["train.batch_size=4", "train.micro_batch=1", "train.steps=2", "train.gradient_norms_every=1"]
    settings += ["frames=2", "losses.mutual_information=0.01"]
    command = arguments("train_face", clips, tmp_path / "run", *settings)
    assert run_group("train_face", command, [Record(tmp_path / "face")] * 2) == [0, 0]
    first, second = (json.loads((tmp_path / f"face.{i}").read_text()) for i in range(2))
    assert first["weights"] == second["weights"]
    scalars, _ = scalars_and_images(tmp_path / "run")
    assert scalars["mutual_information/ln_windows"] == pytest.approx([(np.log(2) + np.log(4)) / 2] * 2)


class Slow:
    """Has process 0 validate for `seconds`, and the processes wait for `wait` seconds at most; each has its `log`."""

    def __init__(self, seconds: float, wait: float, log: Path):
        self.seconds, self.wait, self.log = seconds, wait, log

    def __call__(self) -> None:
        import train_heatmap
        from training import config, run

        sys.stdout = sys.stderr = self.log.with_suffix(f".{os.environ['RANK']}").open("w")
        validate = train_heatmap.validate

        def slow(*given):
            time.sleep(self.seconds)
            return validate(*given)

        mock.patch.object(train_heatmap, "validate", slow).start()
        mock.patch.object(config, "WAIT", timedelta(seconds=self.wait)).start()
        mock.patch.object(run, "LONG", self.seconds).start()


def test_a_validation_that_takes_long_is_waited_for_and_said(clips, tmp_path):
    settings = ["train.steps=2", "train.validate_every=1", "train.batch_size=4"]
    command = arguments("train_heatmap", clips, tmp_path / "run", *settings)
    assert run_group("train_heatmap", command, [Slow(0.5, 600, tmp_path / "log")] * 2) == [0, 0]
    assert "step 1: 1 other processes waited 0 min for process 0, which validated" in (tmp_path / "log.0").read_text()


def test_a_process_that_waits_in_vain_says_so_in_one_line(clips, tmp_path):
    settings = ["train.steps=2", "train.validate_every=1", "train.batch_size=4"]
    command = arguments("train_heatmap", clips, tmp_path / "run", *settings)
    assert run_group("train_heatmap", command, [Slow(60, 20, tmp_path / "log")] * 2) == [2, 2]
    assert "error: process 1 waited for another one of the training, which did not come (" in last_error(
        tmp_path / "log.1"
    )


@pytest.mark.parametrize("weights", [["heatmap_losses.keypoints=0", "heatmap_losses.temporal=0"], []])
def test_two_processes_do_not_wait_for_what_no_loss_reads(weights, clips, tmp_path):
    start = write_checkpoints(tmp_path / "start", mutual_information=True)
    settings = ["train.steps=2", "losses.mutual_information=0", "heatmap_losses.heatmap=1", *weights]
    command = arguments("finetune_e2e", clips, tmp_path / "run", *start, "train.batch_size=4", *settings)
    assert run_group("finetune_e2e", command, [None, None]) == [0, 0]


def test_accelerates_launcher_trains_the_synthesizer_with_two_processes(clips, tmp_path):
    settings = ["train.batch_size=4", "train.steps=2", "losses.gan=0.25", "discriminator.width=0.1"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate_cpu.yaml"]
    command += ["--num_processes", "2"]
    command += ["--main_process_port", "0", str(ROOT / "train_face.py")]
    command += arguments("train_face", clips, tmp_path / "run", *settings)
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "trained the face synthesizer for 2 steps" in done.stdout
    scalars, _ = scalars_and_images(tmp_path / "run")
    assert len(scalars["train/loss"]) == 2 and np.isfinite(scalars["train/discriminator"]).all()
    # Each process saves its own random state: two took part.
    state = tmp_path / "run" / "state" / "step-00000002"
    assert {path.name for path in state.glob("random_states_*")} == {"random_states_0.pkl", "random_states_1.pkl"}
