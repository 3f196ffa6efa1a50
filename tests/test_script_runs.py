"""The training scripts from the command line to checkpoints and curves, on drawn clips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import STEPS, arguments, run, scalars_and_images, write_checkpoints, write_clips

from models.checkpoint import load_network

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_four_scripts_train_one_after_the_other(clips, tmp_path):
    """Expert, predictor, synthesizer with every loss but VGG's, then both end to end, from what the others wrote."""
    outputs = {name: tmp_path / name for name in ("train_sync", "train_heatmap", "train_face", "finetune_e2e")}
    losses = ["losses.sync=0.1", "losses.gan=0.25", "losses.feature=1", "discriminator.width=0.1", "frames=5"]
    losses += ["losses.mutual_information=0.01", "extra_losses.flow=0.1", f"sync_expert={outputs['train_sync']}"]
    start = [f"heatmap_predictor={outputs['train_heatmap']}/best", f"face_synthesizer={outputs['train_face']}/best"]
    extra = {"train_heatmap": ["losses.heatmap=1"], "train_face": losses}
    extra["finetune_e2e"] = [*start, *losses, "heatmap_losses.heatmap=1", "train_predictor=true"]
    extra["finetune_e2e"].remove("discriminator.width=0.1")  # it goes on with the one that train_face trained
    for script, output in outputs.items():
        assert run(script, arguments(script, clips, output, *STEPS, *extra.get(script, []))) == 0, script

    expected = {
        "train_sync": {"shifted"},
        "train_heatmap": {"heatmap", "keypoints", "temporal"},
        "train_face": {"l1", "gradient", "gan", "feature", "sync", "mutual_information", "flow", "discriminator"},
    }
    expected["finetune_e2e"] = expected["train_heatmap"] | expected["train_face"]
    nats = {f"mutual_information/{name}" for name in ("estimate", "ln_frames", "ln_windows")}
    common = {"loss", "gradient_norm", "learning_rate", "samples_per_second", "waiting_for_data"}
    for script, output in outputs.items():
        scalars, images = scalars_and_images(output)
        assert {tag[6:] for tag in scalars if tag.startswith("train/")} >= expected[script] | common, script
        assert all(np.isfinite(values).all() for values in scalars.values()), script
        if script != "train_sync":
            assert images, script
    for script in ("train_face", "finetune_e2e"):
        scalars, _ = scalars_and_images(outputs[script])
        assert scalars.keys() >= {
            "val/PSNR",
            "val/SSIM",
            "val/sync",
            "val/sync_true",
            "train/discriminator_gradient_norm",
            *nats,
        }
        assert scalars["mutual_information/ln_windows"] == pytest.approx([np.log(2)] * 2)
        assert scalars["mutual_information/ln_frames"] == pytest.approx([np.log(10)] * 2)
    for script in ("train_heatmap", "finetune_e2e"):
        assert "val/keypoint_LipLMD" in scalars_and_images(outputs[script])[0]
    assert "val/window_exact" in scalars_and_images(outputs["train_sync"])[0]

    for name in ("heatmap_predictor", "face_synthesizer"):  # gradients reached both
        before = load_network(outputs["train_heatmap" if name == "heatmap_predictor" else "train_face"] / "best", name)
        after = load_network(outputs["finetune_e2e"], name)
        pairs = list(zip(before.parameters(), after.parameters(), strict=True))
        assert sum(not torch.equal(a, b) for a, b in pairs) > len(pairs) / 2, name


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_person_is_fitted_on_most_of_one_clip_and_judged_on_the_rest(tmp_path, frozen):
    clip = write_clips(tmp_path / "clips", count=1, frames=60)
    start = write_checkpoints(tmp_path / "start", demo=True)
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


@pytest.mark.slow
def test_a_run_begins_with_another_ones_synthesizer(clips, tmp_path):
    _, start = (setting.split("=")[1] for setting in write_checkpoints(tmp_path / "start"))
    settings = [*STEPS, f"start_from={start}", "train.learning_rate=0", "losses.mutual_information=0.01"]
    assert run("train_face", arguments("train_face", clips, tmp_path / "face", *settings)) == 0
    before, begun = (load_network(folder, "face_synthesizer") for folder in (start, tmp_path / "face"))
    assert begun.config.width == 0.03 and begun.mutual_information is not None
    weights = begun.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.named_parameters())
