"""Speed of the training scripts: each runs some steps on drawn clips, in a process of its own, as a user starts it.

    python -m benchmarks.scripts --precision bf16 --windows 16                    # on a GPU, at the papers' size
    python -m benchmarks.scripts --device cpu --width 0.03125 --windows 2 --steps 4    # on a CPU, a small form

The configs are those of the papers (`configs/stsa_*.yaml`). Prints the windows a second and the share of time spent
waiting for data, as the scripts write them to TensorBoard: over the second half of the steps, so that the first half
warms up and compiles. `finetune_e2e.py` starts from the networks that the other scripts have written. Terms whose
weights are absent (VGG-19) are left out and named.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from models.devices import add_device

SCRIPTS = {"sync": "train_sync", "heatmap": "train_heatmap", "face": "train_face", "e2e": "finetune_e2e"}


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=positive, default=20, help="steps of each script (default: 20)")
    parser.add_argument("--windows", type=positive, default=16, help="windows a step (default: 16)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the networks (default: 1, the papers')")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: 2)")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--compile", action="store_true", help="with train.compile=true")
    add_device(parser)
    return parser.parse_args()


import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.training import draw_clips
from checkpoints import fetch
from training.config import check_compiler

ROOT = Path(__file__).resolve().parent.parent
_CLIPS = 16


def settings(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """The settings of a run of `SCRIPTS[name]` into `folder`/`name` that differ from the config's."""
    data = [f"data.{part}={folder / 'clips'}" for part in ("train", "val")]
    train = {
        "steps": options.steps,
        "batch_size": options.windows,
        "precision": options.precision,
        "compile": str(options.compile).lower(),
        "log_every": max(1, options.steps // 2),
        "gradient_norms_every": 0,
        "validate_every": options.steps,
        "validation_windows": 2,
        "save_every": options.steps,
        "keep_every": 0,
    }
    own = [f"train.{key}={value}" for key, value in train.items()]
    if name == "sync":  # has neither
        own = [each for each in own if not each.startswith(("train.gradient_norms", "train.keep_every"))]
    if name in ("face", "e2e"):
        own += ["train.best_by=psnr", f"sync_expert={folder / 'sync'}", "losses.without_vgg=skip"]
        own += [f"discriminator.width={options.width:g}"]
    if name == "face":
        own += ["train.warp_steps=0"]  # its first steps would train the flow alone
    if name == "e2e":
        own += [f"heatmap_predictor={folder / 'heatmap'}", f"face_synthesizer={folder / 'face'}"]
    else:
        own += [f"model.width={options.width:g}"]
    return [*data, f"data.workers={options.workers}", *own, f"output={folder / name}"]


def speed(run: Path) -> tuple[float, float]:
    """Windows a second and the share of time spent waiting for data, of a run's last TensorBoard entry."""
    events = next(run.rglob("events.out.tfevents*"), None)
    if events is None:
        raise InputError(f"run {run} has no TensorBoard file; the script was interrupted")
    scalars = EventAccumulator(str(events)).Reload()
    windows, waiting = (scalars.Scalars(f"train/{key}")[-1].value for key in ("samples_per_second", "waiting_for_data"))
    return windows, waiting


@command
def main() -> None:
    options = parse()
    if options.compile:
        check_compiler(options.device)
    environment = dict(os.environ)
    if options.device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    form = f"width {options.width:g}, {options.windows} windows a step, precision {options.precision}"
    print(f"{form}{', compiled' * options.compile}, {options.device}, torch {torch.__version__}")
    if not fetch.available("vgg19"):
        print("without the perceptual loss")
    print("script | windows/s | waiting for data | whole run, s", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw_clips(folder / "clips", _CLIPS, "wav2vec2")  # with log-mel, for the sync expert
        for name, script in SCRIPTS.items():
            config = ROOT / "configs" / f"stsa_{name}.yaml"
            call = [sys.executable, str(ROOT / f"{script}.py"), "--config", str(config)]
            began = time.perf_counter()
            done = subprocess.run(
                [*call, *settings(name, options, folder)], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
                raise InputError(f"{script}.py ended with {done.returncode}: {last}")
            windows, waiting = speed(folder / name)
            seconds = time.perf_counter() - began
            print(f"{script}.py | {windows:.2f} | {100 * waiting:.1f} % | {seconds:.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
