"""The training scripts from the command line to checkpoints, curves and error messages, on drawn clips."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file
from training_runs import arguments, run, run_group, write_checkpoints, write_clips

from benchmarks.inference import trained_like
from benchmarks.training import PlainSynthesizer
from data_prep.clips import Clip
from data_prep.manifest import Manifest
from data_prep.offsets import check_expert, find_offset, framed, similarity_curves
from data_prep.sync import SyncDataset
from data_prep.windows import ClipDataset
from finetune_e2e import Dubbing, Finetuning, first_synthesized
from losses.face import FaceLosses, FaceObjective
from losses.heatmap import HeatmapLosses, freeze_unread, heatmap_terms
from media.audio import mfcc
from media.crop import crop_face
from media.errors import InputError
from media.face import FaceTracker
from media.video import read_frames
from metrics.crops import LipDistance
from models.checkpoint import load_any_sync_expert, load_checkpoint, load_network, save_checkpoint
from models.chung_syncnet import ChungSyncNet
from models.face_synthesizer import Alignment, FaceSynthesizer, FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from models.sync_expert import SyncExpert, SyncExpertConfig
from models.transport import mouth_motion
from train_face import FaceTraining
from train_heatmap import HeatmapTraining
from train_sync import SyncTraining
from training.config import read_config
from training.data import validation_batch

ROOT = Path(__file__).resolve().parent.parent
STEPS = ["train.steps=2", "train.save_every=1", "train.validate_every=2"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def scalars_and_images(output: Path) -> tuple[dict[str, list[float]], set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, set(tags["images"])


def last_error(log: Path) -> str:
    """The one line that a failed run wrote; progress bars may precede it."""
    text = log.read_text()
    assert "Traceback" not in text
    errors = [line for line in text.replace("\r", "\n").splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0] == text.splitlines()[-1].split("\r")[-1]
    return errors[0]


# --- configs ---------------------------------------------------------------------------------------------------------


SCHEMAS = {"sync": SyncTraining, "heatmap": HeatmapTraining, "face": FaceTraining, "e2e": Finetuning}
ABLATIONS = ("cil", "sync", "spatial", "temporal", "finetuning")


@pytest.mark.parametrize(
    ("name", "schema"),
    [(f"{size}_{name}", schema) for size in ("stsa", "demo") for name, schema in SCHEMAS.items()]
    + [("person", Finetuning)]
    + [(f"ablations/without_{name}", FaceTraining) for name in ABLATIONS]
    + [("ablations/with_finetuning", Finetuning)],
)
def test_every_config_fits_its_script(name, schema):
    config = read_config(schema, ROOT / "configs" / f"{name}.yaml")
    assert config.train.steps > 0 and config.output


def test_the_ablations_change_what_table_iii_says_and_nothing_else():
    full = OmegaConf.to_container(OmegaConf.structured(read_config(FaceTraining, ROOT / "configs/stsa_face.yaml")))

    def difference(name: str) -> dict:
        config = read_config(FaceTraining, ROOT / f"configs/ablations/{name}.yaml")
        other = OmegaConf.to_container(OmegaConf.structured(config))
        return {
            f"{section}.{key}": value
            for section in ("data", "model", "discriminator", "losses", "train")
            for key, value in other[section].items()
            if value != full[section][key]
        }

    assert difference("without_cil") == {"losses.mutual_information": 0.0}
    assert difference("without_sync") == {"losses.sync": 0.0}
    assert difference("without_spatial") == {"model.spatial": False, "losses.mutual_information": 0.0}
    assert difference("without_temporal") == {"model.temporal": False, "losses.mutual_information": 0.0}
    assert difference("without_finetuning") == {}


# --- runs ------------------------------------------------------------------------------------------------------------


def test_the_four_scripts_train_one_after_the_other(clips, tmp_path):
    """Expert, predictor, synthesizer with every loss but VGG's, then both end to end, from what the others wrote."""
    outputs = {name: tmp_path / name for name in ("train_sync", "train_heatmap", "train_face", "finetune_e2e")}
    losses = ["losses.sync=0.1", "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1", "frames=5"]
    losses += ["losses.mutual_information=0.01", "losses.flow=0.1", f"sync_expert={outputs['train_sync']}"]
    start = [f"heatmap_predictor={outputs['train_heatmap']}/best", f"face_synthesizer={outputs['train_face']}/best"]
    extra = {"train_heatmap": ["losses.heatmap=1"], "train_face": losses}
    extra["finetune_e2e"] = [*start, *losses, "heatmap_losses.heatmap=1", "train_predictor=true"]
    extra["finetune_e2e"].remove("discriminator.width=0.1")  # it goes on with the one that train_face trained
    for script, output in outputs.items():
        assert run(script, arguments(script, clips, output, *STEPS, *extra.get(script, []))) == 0, script

    expected = {
        "train_sync": {"shifted", "face_motion", "sound_motion"},
        "train_heatmap": {"heatmap", "landmarks", "temporal"},
        "train_face": {"l1", "gradient", "gan", "feature", "sync", "mutual_information", "flow", "discriminator"},
    }
    expected["finetune_e2e"] = expected["train_heatmap"] | expected["train_face"]
    common = {"loss", "gradient_norm", "learning_rate", "samples_per_second", "waiting_for_data"}
    for script, output in outputs.items():
        scalars, images = scalars_and_images(output)
        assert {tag[6:] for tag in scalars if tag.startswith("train/")} >= expected[script] | common, script
        assert all(np.isfinite(values).all() for values in scalars.values()), script
        if script != "train_sync":
            assert images, script
    for script in ("train_face", "finetune_e2e"):
        scalars, _ = scalars_and_images(outputs[script])
        assert scalars.keys() >= {"val/PSNR", "val/SSIM", "train/discriminator_gradient_norm"}
    for script in ("train_heatmap", "finetune_e2e"):
        assert "val/keypoint_LipLMD" in scalars_and_images(outputs[script])[0]
    assert "val/window_exact" in scalars_and_images(outputs["train_sync"])[0]

    for name in ("heatmap_predictor", "face_synthesizer"):  # gradients reached both
        before = load_network(outputs["train_heatmap" if name == "heatmap_predictor" else "train_face"] / "best", name)
        after = load_network(outputs["finetune_e2e"], name)
        pairs = list(zip(before.parameters(), after.parameters(), strict=True))
        assert sum(not torch.equal(a, b) for a, b in pairs) > len(pairs) / 2, name


@pytest.mark.parametrize("frozen", [False, True])
def test_a_person_is_fitted_on_most_of_one_clip_and_judged_on_the_rest(tmp_path, frozen):
    clip = write_clips(tmp_path / "clips", count=1, frames=60)
    start = write_checkpoints(tmp_path / "start")
    command = arguments("finetune_e2e", clip, tmp_path / "run", *STEPS)
    command[1] = str(ROOT / "configs/person.yaml")
    command = [setting for setting in command if not setting.startswith("data.val")]
    command += [f"train_predictor={str(not frozen).lower()}"]
    log = tmp_path / "log"
    assert run("finetune_e2e", [*command, *start], RUN_LOG=str(log)) == 0, log.read_text()
    assert "before fine-tuning: PSNR " in log.read_text()

    def changed(name: str) -> bool:
        before, after = (load_network(tmp_path / folder, name).parameters() for folder in ("start", "run"))
        return any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))

    assert changed("face_synthesizer") and changed("heatmap_predictor") != frozen
    scalars, _ = scalars_and_images(tmp_path / "run")
    assert len(scalars["val/PSNR"]) == 2  # where it started, and the end


@pytest.mark.parametrize("landmark_flow", [False, True])
def test_some_windows_are_drawn_from_their_true_heatmaps(clips, landmark_flow):
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2)))
    synthesizer = trained_like(FaceSynthesizer(FaceSynthesizerConfig(width=0.125, landmark_flow=landmark_flow)))
    batch = validation_batch(ClipDataset(clips), 2)
    dubbing = Dubbing(predictor, synthesizer, 5, true_heatmaps=1.0).eval()
    references = batch["reference_images"], batch["reference_heatmaps"]
    with torch.no_grad():
        predicted = dubbing(batch)
        dubbing.training = True  # the networks stay as they are
        told = dubbing(batch)
        points = batch["points"], batch["reference_points"]
        expected = synthesizer(batch["frames"], batch["heatmaps"], *references, batch["audio"], *points)
    torch.testing.assert_close(told[0], expected)
    assert torch.equal(told[3], predicted[3]) and not torch.equal(told[0], predicted[0])
    assert torch.equal(told[2], batch["points"]) and not torch.equal(predicted[2], batch["points"])


def test_eq_3_sees_heatmaps_above_1_that_the_synthesizer_does_not(clips):
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2)))
    synthesizer = trained_like(FaceSynthesizer(FaceSynthesizerConfig(width=0.125)))
    predictor.register_forward_hook(lambda module, inputs, outputs: (outputs[0] + 1, outputs[1]))
    seen = []
    synthesizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        heatmaps = Dubbing(predictor, synthesizer, 5)(validation_batch(ClipDataset(clips), 2))[3]
    assert heatmaps.min() >= 1 and heatmaps.max() > 1.5
    assert seen[0].max() == 1


def test_a_broken_clip_stops_the_run_and_keeps_the_last_good_state(clips, tmp_path):
    folder = write_clips(tmp_path / "clips", count=1)
    output, log = tmp_path / "run", tmp_path / "log"
    assert run("train_heatmap", arguments("train_heatmap", folder, output, *STEPS)) == 0
    good = {path: path.read_bytes() for path in output.rglob("*.safetensors")}

    path = folder / "clip_0.safetensors"
    tensors = load_file(path)
    tensors["audio_mel"][:] = np.nan
    save_file(tensors, path)
    more = arguments("train_heatmap", folder, output, *STEPS, "train.steps=4", f"data.val={clips}")
    assert run("train_heatmap", more, RUN_LOG=str(log)) == 2
    message = last_error(log)
    assert "step 3: the loss term landmarks is nan on the clips clip_0, clip_0" in message
    assert {path: path.read_bytes() for path in output.rglob("*.safetensors")} == good


def test_a_run_begins_with_another_ones_synthesizer(clips, tmp_path):
    _, start = (setting.split("=")[1] for setting in write_checkpoints(tmp_path / "start"))
    settings = [*STEPS, f"start_from={start}", "train.learning_rate=0", "losses.mutual_information=0.01"]
    assert run("train_face", arguments("train_face", clips, tmp_path / "face", *settings)) == 0
    before, begun = (load_network(folder, "face_synthesizer") for folder in (start, tmp_path / "face"))
    assert begun.config.width == 0.03 and begun.mutual_information is not None
    weights = begun.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.named_parameters())


def test_a_synthesizer_of_another_size_than_the_heatmaps_is_refused(tmp_path):
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, size=160))
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1))
    networks = {"heatmap_predictor": predictor, "face_synthesizer": synthesizer}
    save_checkpoint(tmp_path, networks, {name: network.config for name, network in networks.items()})
    with pytest.raises(InputError, match="faces of 160 pixels, the predictor heatmaps of 128; train one with"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("script", "setting", "words"),
    [
        ("train_heatmap", "train.stepz=3", "Did you mean: 'steps'? (train.stepz); correct the key or value"),
        ("train_heatmap", "train.steps=abc", "'abc' of type 'str' could not be converted to Integer (train.steps)"),
        ("train_heatmap", "train.steps=[1", "the value in 'train.steps=[1' is not YAML"),
        ("train_heatmap", "data.val=/nowhere/clips", "/nowhere/clips does not exist"),
        ("train_heatmap", "start_from=/nowhere/run", "/nowhere/run is not a folder"),
        ("train_sync", "output=/proc/nowhere/run", "output folder /proc/nowhere/run cannot be"),
        ("train_heatmap", "data.train=/nowhere/clips", "/nowhere/clips does not exist"),
        ("train_heatmap", "model.audio=wav2vec2", "no wav2vec2 features"),
        ("train_heatmap", "train.batch_size=0", "train.batch_size=0 must be 1 or more"),
        ("train_heatmap", "train.precision=fp16", "needs a CUDA device"),
        ("train_heatmap", "train.learning_rate=-1", "train.learning_rate=-1.0 must not be negative"),
        ("train_heatmap", "train.betas=[0.9]", "must be two numbers"),
        ("train_face", "train.ema=1.5", "train.ema=1.5 must be 0 or more and less than 1"),
        ("train_sync", "data.holdout=0.25", "set it to 0"),
        ("train_face", "losses.perceptual=4", "vgg19"),
        ("train_face", "losses.sync=0.1", "frames=5"),
        ("train_face", "model.spatial=false", "it needs both"),
        ("train_face", "reading.steps=5 model.landmark_flow=false", "reading.steps is for a network that reads points"),
        ("train_face", "model.references=-1", "references is -1; it must be positive"),
        ("train_heatmap", "model.layers=0", "layers is 0; it must be positive"),
        ("train_sync", "model.width=0", "width is 0.0; it must be positive"),
        ("train_heatmap", "reading.batch_size=0", "teach nothing; use 1 or more of both"),
        ("train_sync", "speech.data=/nowhere speech.batch_size=1", "gives batch norm no statistics; use 2 or more"),
        ("train_heatmap", "reading.learning_rate=-1", "learning_rate=-1.0 must be positive"),
        ("train_face", "start_from=/nowhere/run", "/nowhere/run is not a folder"),
        ("train_face", "train.batch_size=1", "raise train.batch_size"),
        ("train_sync", "loss=softmax", "use contrastive, shifted or bce"),
        ("finetune_e2e", "heatmap_predictor=/nowhere/run", "/nowhere/run is not a folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(script, setting, words, clips, tmp_path):
    log = tmp_path / "log"
    settings = setting.split() + ["losses.mutual_information=0.01"] * (script == "train_face")
    assert run(script, arguments(script, clips, tmp_path / "run", *STEPS, *settings), RUN_LOG=str(log)) == 2
    message = last_error(log)
    assert words in message and "reference_type" not in message
    assert sorted(tmp_path.iterdir()) == [log]


def test_a_loaders_worker_that_meets_a_bad_clip_is_one_line_too(tmp_path):
    folder = write_clips(tmp_path / "clips")
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        tensors["faces"][:] = 0
        save_file(tensors, path)
    log, good = tmp_path / "log", write_clips(tmp_path / "good")
    command = arguments("train_face", folder, tmp_path / "run", *STEPS, "data.workers=1", f"data.val={good}")
    assert run("train_face", command, RUN_LOG=str(log)) == 2
    assert "holds something that is not a JPEG" in last_error(log)


def test_lips_are_compared_where_mediapipe_finds_them(capsys):
    pytest.importorskip("mediapipe")
    with FaceTracker() as tracker:
        frame = next(iter(read_frames(ROOT / "assets/portrait.mp4")))
        crop = crop_face(frame, tracker.find(frame)[0].box)
    true = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    distance = LipDistance(true[None])
    assert distance(true) == 0
    assert distance(true.roll(6, dims=2)) == pytest.approx(6 / 128, rel=0.2)
    assert distance(torch.cat([torch.zeros_like(true[..., :64, :]), true[..., 64:, :]], dim=-2)) == 0  # dubs keep it
    assert distance(torch.zeros_like(true)) > 0.03
    blank = LipDistance(torch.zeros_like(true)[None])
    assert blank(true) is None and blank(true) is None
    assert capsys.readouterr().out.count("LipLMD is left out") == 1


def test_without_mediapipe_the_lips_are_left_out_and_that_is_said_once(monkeypatch, capsys):
    def absent():
        raise ImportError("mediapipe")

    monkeypatch.setattr("metrics.crops.FaceTracker", absent)
    faces = torch.zeros(1, 3, 128, 128)
    distance = LipDistance(faces[None])
    assert distance(faces) is None and distance(faces) is None
    assert capsys.readouterr().out.count("MediaPipe is not installed") == 1


# --- several processes -----------------------------------------------------------------------------------------------


class Record:
    """Writes down which windows a process sees, and its weights at the end."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> None:
        from training.learner import Learner
        from training.run import Run

        seen, learn, finish = [], Learner.step, Run.finish

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

        Learner.step, Run.finish = recorded, finished


def test_a_step_in_parts_learns_what_a_whole_one_does(clips, tmp_path):
    settings = ["train.batch_size=4", "train.steps=2", "train.save_every=2", "train.validate_every=2", "frames=2"]
    settings += ["train.freeze_batch_norm=true", "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1"]
    settings += ["train.learning_rate=1e-4"]  # less than what magnifies the order of sums
    for size in (0, 2):
        parts = [*settings, f"train.micro_batch={size}"]
        assert run("train_face", arguments("train_face", clips, tmp_path / str(size), *parts)) == 0
    whole, parts = (scalars_and_images(tmp_path / str(size))[0] for size in (0, 2))
    for name in ("train/loss", "train/gan", "train/gradient_norm", "train/discriminator", "val/PSNR"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=2e-3, err_msg=name)


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


@pytest.mark.parametrize("weights", [["heatmap_losses.landmarks=0", "heatmap_losses.temporal=0"], []])
def test_two_processes_do_not_wait_for_what_no_loss_reads(weights, clips, tmp_path):
    start = write_checkpoints(tmp_path / "start", mutual_information=True, heatmaps="decoded")
    settings = ["train.steps=2", "losses.mutual_information=0", "heatmap_losses.heatmap=1", *weights]
    command = arguments("finetune_e2e", clips, tmp_path / "run", *start, "train.batch_size=4", *settings)
    assert run_group("finetune_e2e", command, [None, None]) == [0, 0]


@pytest.mark.parametrize("heatmaps", ["decoded", "drawn"])
@pytest.mark.parametrize(("heatmap", "points"), [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_what_no_loss_reads_is_frozen_and_nothing_else(heatmaps, heatmap, points):
    torch.manual_seed(0)
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1, heatmaps=heatmaps))
    weights = HeatmapLosses(heatmap, points, points)
    freeze_unread(predictor, weights)
    batch = {"heatmaps": torch.rand(1, 5, 1, 128, 128), "landmarks": torch.rand(1, 5, 57, 2)}
    points = torch.rand(1, 5, 131, 2), torch.rand(1, 2, 131, 2)
    predicted = predictor(torch.randn(1, 5, 80, 16), batch["heatmaps"], torch.rand(1, 2, 1, 128, 128), *points)
    sum(heatmap_terms(*predicted, batch, weights).values()).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


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


def test_a_sync_item_has_its_own_sound_first_and_others_of_the_same_clip(clips):
    dataset = SyncDataset(clips, negatives=5, furthest=6)
    item = dataset[(3, 0)]
    assert item["frames"].shape == (5, 3, 128, 128) and item["mel"].shape == (6, 1, 80, 16)
    own = ClipDataset(clips, window=5, references=1)[(3, 0)]
    assert torch.equal(item["mel"][0], own["mel"]) and torch.equal(item["frames"], own["frames"])
    assert all(not torch.equal(item["mel"][0], other) for other in item["mel"][1:])
    assert torch.equal(dataset[(3, 7)]["mel"], dataset[(3, 7)]["mel"])
    for seed in range(6):
        augmented = SyncDataset(clips, augment=True)[(3, seed)]
        frames = augmented["frames"]
        assert frames.min() >= 0 and frames.max() <= 1 and augmented["mel"].abs().max() <= 4
    clip = dataset.clips[0]
    assert "landmarks" not in vars(clip)  # of thousands of clips they would fill the memory
    assert torch.equal(item["motion"], mouth_motion(torch.from_numpy(clip.landmarks))[3:8])


class LoudMouth(torch.nn.Module):
    """An expert that is right by construction: loudness of the sound against the dark red of the mouth."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def embed_audio(self, mel):
        angle = torch.nn.functional.avg_pool1d((mel.mean(dim=2) + 4) / 8, 3, 3)  # (B, 1, 5), a frame each
        return self.unit(angle.flatten(1))

    def embed_faces(self, lower):
        blue = lower.unflatten(1, (5, 3))[:, :, 0]
        return self.unit((blue < 0.3).float().mean(dim=(2, 3)) * 10)

    def unit(self, x):
        x = x - x.mean(dim=1, keepdim=True)
        return torch.nn.functional.normalize(x, dim=1)


def test_the_offset_of_a_clip_is_found_with_its_sign(tmp_path):
    folder = write_clips(tmp_path, count=1, frames=60)
    path = folder / "clip_0.safetensors"
    assert abs(find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0]) <= 1
    base = find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0]
    tensors = load_file(path)
    tensors["audio_mel"] = np.roll(tensors["audio_mel"], 13, axis=0)  # four frames too late
    save_file(tensors, path)
    assert find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0] == base - 4


def test_an_expert_counts_only_where_it_finds_clips_that_are_in_step(tmp_path):
    folder = write_clips(tmp_path, count=3, frames=60)
    check_expert(LoudMouth(), folder)
    for path in sorted(folder.glob("*.safetensors"))[:2]:
        tensors = load_file(path)
        tensors["audio_mel"] = np.roll(tensors["audio_mel"], 20, axis=0)
        save_file(tensors, path)
    with pytest.raises(InputError, match=r"the expert finds 1 of the 3 clips of .* within a frame"):
        check_expert(LoudMouth(), folder)


def test_faces_are_compared_with_another_clips_sound(tmp_path):
    clip, voice = (Clip(path) for path in sorted(write_clips(tmp_path, frames=60).glob("*.safetensors")))
    foreign = similarity_curves(LoudMouth(), clip, shifts=6, voice=voice)
    dubbed = similarity_curves(LoudMouth(), clip, shifts=6, shown=lambda positions: voice.faces(positions), voice=voice)
    np.testing.assert_array_equal(dubbed, similarity_curves(LoudMouth(), voice, shifts=6))
    assert foreign.mean(axis=0)[6] < dubbed.mean(axis=0)[6] - 0.1


def test_offsets_go_into_the_manifest_and_leave_clips_out(tmp_path):
    folder = write_clips(tmp_path / "clips", count=3)
    expert = tmp_path / "expert"
    config = SyncExpertConfig(width=0.03)
    save_checkpoint(expert, {"sync_expert": SyncExpert(config)}, {"sync_expert": config})
    assert run("data_prep.offsets", [str(folder), "--expert", str(expert)]) == 0
    lines = Manifest(folder).read()
    assert all(isinstance(line["offset"], int) and abs(line["offset"]) <= 15 for line in lines.values())
    assert {line["outcome"] for line in lines.values()} == {"ok"} and len(lines) == 3

    Manifest(folder).add(
        [lines["clip_0"] | {"offset": -2}, lines["clip_1"] | {"offset": 1}, lines["clip_2"] | {"offset": 0}]
    )
    for dataset in (ClipDataset(folder, max_offset=1), SyncDataset(folder, max_offset=1)):
        assert [clip.id for clip in dataset.clips] == ["clip_1", "clip_2"]
    shifted, plain = (SyncDataset(folder, correct_offsets=correct)[(0, 0)]["mel"][0] for correct in (True, False))
    assert not torch.equal(shifted, plain)
    corrected, plain = (ClipDataset(folder, correct_offsets=correct) for correct in (True, False))
    for name in ("audio", "mel"):  # what belongs to frame 5 of clip_0 comes two frames late, with frame 7
        torch.testing.assert_close(corrected[(5, 0)][name], plain[(7, 0)][name])
    assert corrected[(5, 0)]["start"] == plain[(5, 0)]["start"] == 5
    (heard, _), (uncorrected, _) = next(corrected.sounds()), next(plain.sounds())
    np.testing.assert_array_equal(heard[:-2], uncorrected[2:])
    Manifest(folder).add([{name: value for name, value in lines["clip_1"].items() if name != "offset"}])
    for use in ({"max_offset": 1}, {"correct_offsets": True}):
        with pytest.raises(InputError, match=r"no offset of clip clip_1, .*python -m data_prep\.offsets"):
            SyncDataset(folder, **use)
        with pytest.raises(InputError, match=r"no offset of clip clip_1, .*python -m data_prep\.offsets"):
            ClipDataset(folder, **use)
    assert len(ClipDataset(folder).clips) == 3  # nobody asked
    Manifest(folder).add([lines["clip_1"] | {"offset": None}])  # looked for, and too short to tell
    assert [clip.id for clip in ClipDataset(folder, max_offset=1).clips] == ["clip_2"]
    with pytest.raises(InputError, match="no clip"):
        Manifest(folder).add([line | {"offset": 9} for line in lines.values()])
        SyncDataset(folder, max_offset=1)


def test_chungs_syncnet_finds_offsets_too(tmp_path):
    """Random weights find nothing, but the same curve as by the book: every window against every shift on its own."""
    pytest.importorskip("python_speech_features")
    torch.manual_seed(0)
    network = ChungSyncNet()
    torch.save(network.state_dict(), tmp_path / "syncnet_v2.model")
    expert = load_any_sync_expert(tmp_path / "syncnet_v2.model")
    assert isinstance(expert, ChungSyncNet) and not expert.training
    folder = write_clips(tmp_path / "clips", count=1, frames=12)
    clip = Clip(folder / "clip_0.safetensors")
    curves = similarity_curves(expert, clip, shifts=2, batch=2)
    assert curves.shape == (4, 5)  # windows 2 .. 5: the others' shifted sounds would begin or end outside
    sound = mfcc(clip.wav)
    with torch.no_grad():
        faces = np.stack([framed(face, box) for face, box in zip(clip.faces(range(3, 8)), clip.boxes, strict=False)])
        lips = expert.video(torch.from_numpy(faces[..., ::-1].copy()).permute(3, 0, 1, 2)[None].float())
        heard = expert.audio(torch.from_numpy(sound[16:36].T.copy())[None, None].float())
    assert curves[1, 3] == pytest.approx(-float((heard - lips).norm()), rel=1e-4)


def test_a_framed_face_has_its_own_shape_and_a_margin():
    framed_face = framed(np.full((128, 128, 3), 255, np.uint8), np.array([10, 20, 110, 140]))
    rows, columns = np.nonzero((framed_face == 255).all(axis=-1))
    assert framed_face.shape == (224, 224, 3) and framed_face[-1, 0].tolist() == [110, 110, 110]
    assert rows.min() <= 1 and abs(rows.max() - 160) <= 2  # 120 px of a square of 168
    assert abs(columns.max() - columns.min() - 224 * 100 / 168) <= 3 and abs(columns.min() + columns.max() - 223) <= 1


def test_the_sync_loss_takes_wav2lips_file(tmp_path):
    config = SyncExpertConfig.released()
    names = SyncExpert(config).state_dict()
    renamed = {name.replace(".conv.", ".conv_block.0.").replace(".norm.", ".conv_block.1."): name for name in names}
    torch.save({"state_dict": {theirs: names[own] for theirs, own in renamed.items()}}, tmp_path / "expert.pth")
    weights = FaceLosses(perceptual=0, gan=0, feature=0, mutual_information=0)
    objective = FaceObjective(weights, FaceSynthesizerConfig(), 5, str(tmp_path / "expert.pth"))
    assert torch.equal(objective.expert.state_dict()["face_encoder.0.conv.weight"], names["face_encoder.0.conv.weight"])
    with pytest.raises(InputError, match="is not Wav2Lip's expert"):
        torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
        load_any_sync_expert(tmp_path / "other.pth")


def test_the_sound_of_the_sync_loss_is_that_of_the_synthesized_frames(clips):
    """Where the predictor's window is longer than the five frames that the expert sees."""
    longer = ClipDataset(clips, window=9, references=1, mel_from=2)[(3, 0)]
    own = ClipDataset(clips, window=5, references=1)[(5, 0)]
    assert longer["start"] + 2 == own["start"] and torch.equal(longer["mel"], own["mel"])
    assert first_synthesized(HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1, frames=9)), 5) == 2


# --- VGG-19 absent ---------------------------------------------------------------------------------------------------


def test_where_vgg_is_absent_the_config_names_what_takes_its_place(monkeypatch):
    monkeypatch.setattr("losses.perceptual.fetch.available", lambda name: False)
    batch = {"frames": torch.rand(1, 1, 3, 32, 32), "landmarks": torch.rand(1, 1, 57, 2)}
    faces, said = torch.rand(1, 1, 3, 32, 32), []

    def terms(**options) -> dict:
        weights = FaceLosses(gan=0, feature=0, sync=0, mutual_information=0, **options)
        objective = FaceObjective(weights, FaceSynthesizerConfig(), 1, "", said.append)
        return objective(faces, batch, None, Alignment(None, None))

    assert terms(without_vgg="skip") == {} and terms(without_vgg="l1").keys() == {"l1"}
    assert [part in said[1] for part in ("L1 term at weight 1", "checkpoints.fetch vgg19")] == [True, True]
    twice = terms(without_vgg="l1", l1_without_vgg=2.0)["l1"]
    assert twice == 2 * terms(without_vgg="l1")["l1"] and len(said) == 4
    with pytest.raises(InputError, match="use stop, skip or l1"):
        terms(without_vgg="random")


# --- the benchmark's other forward -----------------------------------------------------------------------------------


def test_the_plain_forward_computes_the_same_faces():
    torch.manual_seed(0)
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, references=2)).eval()
    for parameter in synthesizer.parameters():  # no head starts at zero
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    inputs = [torch.rand(1, 2, 3, 128, 128), torch.rand(1, 2, 1, 128, 128)]
    inputs += [torch.rand(1, 2, 3, 128, 128), torch.rand(1, 2, 1, 128, 128), torch.rand(1, 2, 80, 16)]
    with torch.no_grad():
        assert torch.allclose(synthesizer(*inputs), PlainSynthesizer(synthesizer).eval()(*inputs), atol=1e-4)
