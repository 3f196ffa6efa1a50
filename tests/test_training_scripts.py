"""The training scripts from the command line to checkpoints, curves and error messages, on drawn clips."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file
from training_runs import arguments, launch, run, write_clips

from benchmarks.training import PlainSynthesizer
from data_prep.clips import Clip, ClipDataset
from data_prep.manifest import Manifest
from data_prep.offsets import find_offset, similarity_curves
from data_prep.sync import SyncDataset
from finetune_e2e import Finetuning
from media.errors import InputError
from models.checkpoint import load_network, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.sync_expert import SyncExpert, SyncExpertConfig
from train_face import FaceTraining
from train_heatmap import HeatmapTraining
from train_sync import SyncTraining
from training import read_config

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
    losses += ["losses.mutual_information=0.01", f"sync_expert={outputs['train_sync']}"]
    start = [f"heatmap_predictor={outputs['train_heatmap']}/best", f"face_synthesizer={outputs['train_face']}/best"]
    extra = {"train_heatmap": ["losses.heatmap=1"], "train_face": losses}
    extra["finetune_e2e"] = [*start, *losses, "heatmap_losses.heatmap=1"]
    extra["finetune_e2e"].remove("discriminator.width=0.1")  # it goes on with the one that train_face trained
    for script, output in outputs.items():
        assert run(script, arguments(script, clips, output, *STEPS, *extra.get(script, []))) == 0, script

    expected = {
        "train_sync": {"contrastive"},
        "train_heatmap": {"heatmap", "landmarks", "temporal"},
        "train_face": {"l1", "gradient", "gan", "feature", "sync", "mutual_information", "discriminator"},
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
    assert "val/LipLMD" in scalars_and_images(outputs["finetune_e2e"])[0]
    assert "val/window_exact" in scalars_and_images(outputs["train_sync"])[0]

    for name in ("heatmap_predictor", "face_synthesizer"):  # gradients reached both
        before = load_network(outputs["train_heatmap" if name == "heatmap_predictor" else "train_face"] / "best", name)
        after = load_network(outputs["finetune_e2e"], name)
        pairs = list(zip(before.parameters(), after.parameters(), strict=True))
        assert sum(not torch.equal(a, b) for a, b in pairs) > len(pairs) / 2, name


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


@pytest.mark.parametrize(
    ("script", "setting", "words"),
    [
        ("train_heatmap", "train.stepz=3", "stepz"),
        ("train_heatmap", "data.train=/nowhere/clips", "/nowhere/clips does not exist"),
        ("train_heatmap", "model.audio=wav2vec2", "no wav2vec2 features"),
        ("train_heatmap", "train.batch_size=0", "train.batch_size=0 must be 1 or more"),
        ("train_heatmap", "train.precision=fp16", "needs a CUDA device"),
        ("train_face", "losses.perceptual=4", "vgg19"),
        ("train_face", "losses.sync=0.1", "frames=5"),
        ("train_face", "model.spatial=false", "it needs both"),
        ("train_face", "train.batch_size=1", "raise train.batch_size"),
        ("train_sync", "loss=softmax", "use contrastive or bce"),
        ("finetune_e2e", "heatmap_predictor=/nowhere/run", "/nowhere/run is not a folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(script, setting, words, clips, tmp_path):
    log = tmp_path / "log"
    settings = [setting, "losses.mutual_information=0.01"] if script == "train_face" else [setting]
    assert run(script, arguments(script, clips, tmp_path / "run", *STEPS, *settings), RUN_LOG=str(log)) == 2
    assert words in last_error(log)


# --- several processes -----------------------------------------------------------------------------------------------


class Record:
    """Writes down which windows a process sees, and its weights at the end."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> None:
        import train_heatmap
        import training

        seen, backward, finish = [], train_heatmap.backward, training.Run.finish

        def recorded(accelerator, loss, network, train, terms, batch, step):
            seen.extend((step, clip, int(start)) for clip, start in zip(batch["clip"], batch["start"], strict=True))
            return backward(accelerator, loss, network, train, terms, batch, step)

        def finished(run, summary):
            weights = hashlib.sha256()
            for parameter in run.networks["heatmap_predictor"].parameters():
                weights.update(parameter.detach().numpy().tobytes())
            path = self.path.with_suffix(f".{run.accelerator.process_index}")
            path.write_text(json.dumps({"seen": seen, "weights": weights.hexdigest()}))
            return finish(run, summary)

        train_heatmap.backward, training.Run.finish = recorded, finished


def test_two_processes_see_every_sample_once_and_learn_what_one_learns(clips, tmp_path):
    settings = ["train.steps=20", "train.save_every=20", "train.validate_every=20", "train.freeze_batch_norm=true"]
    settings += ["model.dropout=0", "train.batch_size=4", "train.learning_rate=1e-4", "train.weight_decay=0"]

    def command(name: str) -> list[str]:
        return arguments("train_heatmap", clips, tmp_path / name, *settings)

    assert run("train_heatmap", command("one"), before=Record(tmp_path / "one.record")) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        launch(
            "train_heatmap", command("two"), Record(tmp_path / "two.record"), RANK=str(i), LOCAL_RANK=str(i), **group
        )
        for i in range(2)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]

    records = [json.loads((tmp_path / name).read_text()) for name in ("one.0", "two.0", "two.1")]
    one, *two = (record["seen"] for record in records)
    assert sorted(two[0] + two[1]) == sorted(one) and len(one) == 80
    assert records[1]["weights"] == records[2]["weights"]  # bit for bit
    alone, together = (scalars_and_images(tmp_path / name)[0]["train/loss"] for name in ("one", "two"))
    assert len(alone) == 20 and np.allclose(alone, together, rtol=1e-3)
    # One process can go on with what two have begun.
    assert run("train_heatmap", [*command("two"), "train.steps=21", f"output={tmp_path / 'two'}"]) == 0
    assert (tmp_path / "two" / "state" / "step-00000021").is_dir()


def test_accelerates_launcher_trains_the_synthesizer_with_two_processes(clips, tmp_path):
    settings = ["train.batch_size=4", "train.steps=2", "losses.gan=0.25", "discriminator.width=0.1"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", str(ROOT / "train_face.py")]
    command += arguments("train_face", clips, tmp_path / "run", *settings)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
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
    augmented = SyncDataset(clips, augment=True)[(3, 1)]
    assert augmented["frames"].min() >= 0 and augmented["frames"].max() <= 1 and augmented["mel"].abs().max() <= 4


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
    with pytest.raises(InputError, match="no clip"):
        Manifest(folder).add([line | {"offset": 9} for line in lines.values()])
        SyncDataset(folder, max_offset=1)


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
