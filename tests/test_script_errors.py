"""What the training scripts say of settings and clips that cannot be used: one line, and exit code 2."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from training_runs import STEPS, arguments, last_error, run, write_clips


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
        ("train_face", "model.form=landmarks", "form 'landmarks', this version knows paper, released, region; use one"),
        ("train_face", "model.references=-1", "references is -1; it must be positive"),
        ("train_heatmap", "model.layers=0", "layers is 0; it must be positive"),
        ("train_sync", "model.width=0", "width is 0.0; it must be positive"),
        ("train_sync", "model.audio=hama", "form wav2lip takes mel, set form: features"),
        ("train_face", "start_from=/nowhere/run", "/nowhere/run is not a folder"),
        ("train_face", "train.batch_size=1", "raise train.batch_size"),
        ("train_face", "frames=2 train.micro_batch=1", "L_mi compares frames of different windows"),
        ("train_face", "model.mutual_information=false", "contradicts losses.mutual_information=0.01, whose weight"),
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
    assert "step 3: the loss term heatmap is nan on the clips clip_0, clip_0" in message
    assert {path: path.read_bytes() for path in output.rglob("*.safetensors")} == good


@pytest.mark.slow
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
    # The heatmap stage, its validation included, decodes no picture.
    assert run("train_heatmap", arguments("train_heatmap", folder, tmp_path / "heatmap", *STEPS)) == 0
