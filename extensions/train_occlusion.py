"""Train the network that finds what is before a mouth, dubbing/occlusion.safetensors. It is in no paper.

    python -m extensions.train_occlusion VIDEO_FOLDER ... --output dubbing/occlusion.safetensors

Objects are drawn over the faces of the videos: microphones, hands, masks, paper, cups, captions, food. The network
takes the covered face and the person's usual face, and is supervised by the object's pixels. Every tenth video is held
out; of these, the script prints the share of bare pixels that are marked and of covered ones that are not. The weights
that it writes are a running mean over the steps, so that the training can end at any time.
"""

import argparse
import sys
from pathlib import Path

from media.errors import InputError, Parser, command, positive, quick_help
from media.files import VIDEO_SUFFIXES, files_below, replacing


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="VIDEO_FOLDER")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/occlusion.safetensors"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--steps", type=positive, default=4000, help="default: 4000")
    parser.add_argument("--batch-size", type=positive, default=16, help="default: 16")
    return parser.parse_args()


import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dubbing.occlusion import OcclusionNetwork
from extensions.covered_faces import DRAWN, Clip, clip_of, example
from media.face import FaceTracker
from media.landmarks import select131, tracked
from media.place import crop_face
from media.timeline import FPS
from media.video import read_frames

HELD_OUT = 10
EVERY = 200  # steps between two validations
RATE = 2e-3


def read_clip(video: Path, every: int = 2, most: int = 250) -> Clip | None:
    """The faces of every second frame of `video`; None where there is none."""
    crops, landmarks = [], []
    with FaceTracker() as tracker:
        for i, frame in enumerate(read_frames(video, FPS)):
            face = tracker.track(frame) if i % every == 0 else None
            if face is not None:
                place = DRAWN.place(tracked(face.landmarks))
                crops.append(crop_face(frame, place, DRAWN.shape))
                landmarks.append(place.to_crop(select131(face.landmarks)))
            if len(crops) == most:
                break
    return clip_of(np.stack(crops), np.stack(landmarks)) if crops else None


def batch(rng: np.random.Generator, clips: list[Clip], size: int) -> list[torch.Tensor]:
    parts = zip(*(example(rng, clips) for _ in range(size)), strict=True)
    return [torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts]


def loss_of(network: OcclusionNetwork, inputs: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    losses = F.binary_cross_entropy_with_logits(network(inputs), alpha, reduction="none")
    return (losses * weight).sum() / weight.sum()


@torch.no_grad()
def validate(network: nn.Module, clips: list[Clip]) -> str:
    network.eval()
    inputs, alpha, weight = batch(np.random.default_rng(1), clips, 300)
    found = network(inputs).sigmoid() > 0.5
    bare, hidden = (alpha < 0.1) & (weight > 0), (alpha > 0.9) & (weight > 0)
    untouched = (alpha * weight).amax(dim=(1, 2)) < 0.1
    false = (found & bare)[untouched].sum(dim=(1, 2)) / weight[untouched].sum(dim=(1, 2))
    network.train()
    marked, missed = (found & bare).sum() / bare.sum(), (~found & hidden).sum() / hidden.sum()
    faces = (false > 0.02).float().mean()
    return (
        f"bare pixels marked {marked:.4f}, bare faces with 2 % marked {faces:.3f}, covered pixels missed {missed:.3f}"
    )


def train(clips: list[Clip], held_out: list[Clip], steps: int, size: int, output: Path) -> None:
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), OcclusionNetwork().train()
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    total = 0.0
    for step in range(1, steps + 1):
        loss = loss_of(network, *batch(rng, clips, size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        total += loss.item()
        if step % EVERY == 0 or step == steps:
            print(f"step {step}: loss {total / EVERY:.4f}", flush=True)
            total = 0.0
            if held_out:
                print(validate(averaged.module, held_out), flush=True)
            weights = {name: tensor.half() for name, tensor in averaged.module.state_dict().items()}
            with replacing(output) as temporary:
                save_file(weights, temporary)


@command
def main() -> None:
    arguments = parse()
    videos = sorted(video for folder in arguments.folders for video in files_below(folder, VIDEO_SUFFIXES))
    clips = [clip for video in videos if (clip := read_clip(video)) is not None]
    if len(clips) < 2:
        names = ", ".join(map(str, arguments.folders))
        raise InputError(f"{names}: {len(clips) or 'no'} video with a face; give two at least, one of them is held out")
    held_out = clips[::HELD_OUT]
    clips = [clip for number, clip in enumerate(clips) if number % HELD_OUT]
    train(clips, held_out, arguments.steps, arguments.batch_size, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
