"""A run that was killed and started again ends with the same weights, bit for bit, as one that never was."""

import resource
import shutil
from pathlib import Path

import pytest
from training_runs import Kill, arguments, run, write_checkpoints, write_clips

pytestmark = pytest.mark.slow

STEPS = ["train.steps=5", "train.save_every=2", "train.validate_every=3"]
FULL_FACE = ["losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1"]
SETTINGS = {"train_heatmap": STEPS, "train_face": STEPS + FULL_FACE, "train_sync": STEPS}
LAST = Kill("models.checkpoint", "save_file", 3, other="best")  # of train_heatmap: after each of three states
NETWORKS = {"train_heatmap": "heatmap_predictor", "train_face": "face_synthesizer", "train_sync": "sync_expert"}
NETWORKS["finetune_e2e"] = "face_synthesizer"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, list[str]]:
    return SETTINGS | {"finetune_e2e": STEPS + FULL_FACE + write_checkpoints(tmp_path_factory.mktemp("start"))}


@pytest.fixture(scope="module")
def uninterrupted(clips, settings, tmp_path_factory):
    """A function: the output folder of a script's run that nobody killed."""
    folder, done = tmp_path_factory.mktemp("uninterrupted"), {}

    def output(script: str) -> Path:
        if script not in done:
            done[script] = folder / script
            assert run(script, arguments(script, clips, done[script], *settings[script])) == 0
        return done[script]

    return output


def weights(output: Path) -> dict[str, bytes]:
    """The bytes of the newest and the best weights, and of the last state's tensors."""
    files = [*output.glob("*.safetensors"), *output.glob("best/*.safetensors")]
    files += (output / "state" / "step-00000005").glob("*.safetensors")
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def assert_same(output: Path, reference: Path, script: str) -> None:
    found, expected = weights(output), weights(reference)
    assert f"{NETWORKS[script]}.safetensors" in expected and "state/step-00000005/ema.safetensors" in expected
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert sorted(path.name for path in (output / "state").iterdir()) == ["step-00000004", "step-00000005"]
    assert not list(output.rglob("*.partial*"))


@pytest.mark.parametrize(
    ("script", "kill"),
    [
        pytest.param("train_heatmap", Kill("training.learner", "Learner.step", 4), id="heatmap, at step 4"),
        pytest.param("train_heatmap", Kill("training.run", "save_file", 1), id="heatmap, inside the first state"),
        pytest.param("train_face", Kill("training.learner", "Learner.step", 7, after=True), id="face, at step 4"),
        pytest.param("train_face", Kill("training.run", "save_file", 2), id="face, inside the second state"),
        pytest.param("train_face", Kill("models.checkpoint", "save_file", 4), id="face, inside the best weights"),
        pytest.param("train_sync", Kill("training.learner", "Learner.step", 3), id="sync, at step 3"),
        pytest.param("finetune_e2e", Kill("training.learner", "Learner.step", 7, after=True), id="both, at step 4"),
        pytest.param("train_heatmap", LAST, id="heatmap, the last weights"),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(script, kill, clips, settings, uninterrupted, tmp_path):
    command = arguments(script, clips, tmp_path, *settings[script])
    assert run(script, command, before=kill) == -9
    assert (kill is LAST) == (tmp_path / "state" / "step-00000005").is_dir()
    assert run(script, command) == 0
    assert_same(tmp_path, uninterrupted(script), script)


class SmallDisk:
    """No file may grow beyond `limit` bytes: what a library sees is the error of a write, as on a full disk."""

    def __init__(self, limit: int):
        self.limit = limit

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


def test_a_full_disk_leaves_the_last_good_state(clips, uninterrupted, tmp_path):
    script, log = "train_heatmap", tmp_path / "log"
    output = tmp_path / "run"
    command = arguments(script, clips, output, *SETTINGS[script])
    assert run(script, command, before=Kill("training.learner", "Learner.step", 4)) == -9
    good = (output / "state" / "step-00000002" / "model.safetensors").read_bytes()

    limit = SmallDisk(len(good) // 2)
    assert run(script, command, before=limit, RUN_LOG=str(log)) == 2
    message = log.read_text().splitlines()[-1]
    assert message.startswith("error: ") and "cannot be written" in message and "last good state is kept" in message
    assert [path.name for path in (output / "state").iterdir()] == ["step-00000002"]
    assert (output / "state" / "step-00000002" / "model.safetensors").read_bytes() == good

    assert run(script, command) == 0
    assert_same(output, uninterrupted(script), script)


def test_a_state_of_other_networks_and_a_run_that_may_not_go_on_are_refused(clips, uninterrupted, tmp_path):
    output = uninterrupted("train_heatmap")
    before, log = weights(output), str(tmp_path / "log")
    other = arguments("train_heatmap", clips, output, *STEPS, "model.width=0.06", "train.steps=9")
    assert run("train_heatmap", other, RUN_LOG=log) == 2
    assert "step-00000005 is damaged or not a state of this config's networks" in Path(log).read_text()
    fresh = arguments("train_heatmap", clips, output, *STEPS, "train.resume=false")
    assert run("train_heatmap", fresh, RUN_LOG=log) == 2
    assert "already holds a run" in Path(log).read_text()
    assert weights(output) == before


@pytest.mark.parametrize(("file", "content"), [("scheduler.bin", b""), ("optimizer.bin", bytes(99)), ("run.yaml", b"")])
def test_of_a_damaged_state_one_goes_back_to_the_one_before(file, content, clips, uninterrupted, tmp_path):
    script, log, output = "train_heatmap", tmp_path / "log", tmp_path / "run"
    shutil.copytree(uninterrupted(script), output)
    (output / "state" / "step-00000005" / file).write_bytes(content)
    command = arguments(script, clips, output, *SETTINGS[script])
    assert run(script, command, RUN_LOG=str(log)) == 2
    message = log.read_text().splitlines()[-1]
    assert message.startswith("error: ") and "step-00000005 is damaged" in message and "delete it to go on" in message
    shutil.rmtree(output / "state" / "step-00000005")
    assert run(script, command) == 0
    assert_same(output, uninterrupted(script), script)


def test_what_is_validated_is_the_average_up_to_that_step(clips, tmp_path):
    settings = ["train.steps=1", "train.save_every=1", "train.validate_every=1", "train.ema=0.9"]
    assert run("train_heatmap", arguments("train_heatmap", clips, tmp_path, *settings)) == 0
    name = "heatmap_predictor.safetensors"
    assert (tmp_path / "best" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_finished_run_started_again_changes_nothing(clips, uninterrupted):
    output = uninterrupted("train_heatmap")
    before = weights(output)
    assert run("train_heatmap", arguments("train_heatmap", clips, output, *STEPS)) == 0
    assert weights(output) == before
