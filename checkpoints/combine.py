"""Combine the networks of several runs into one checkpoint folder for dubbing.

    python -m checkpoints.combine runs/heatmap/best runs/face/best --output checkpoints/mine [--half]

Each network is taken from the last folder that holds it. With `--blend 0.25`, a network that several folders hold is a
mean of the last two: a quarter of the last one's weights and three quarters of those before. A fine-tuned network
thereby keeps more of its earlier abilities (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from media.errors import InputError, Parser, command, quick_help
from models import NETWORK_NAMES


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="checkpoint folders; a later one wins")
    parser.add_argument("--output", required=True, type=Path, help="the checkpoint folder to write")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORK_NAMES,
        help="default: STSA's two, or G4G's of its folders, and the sync expert, where a folder holds one",
    )
    parser.add_argument("--half", action="store_true", help="store float16 weights, half the size")
    parser.add_argument("--blend", type=float, default=1.0, metavar="SHARE", help="of the last holder's weights")
    return parser.parse_args()


import torch
from omegaconf import OmegaConf
from torch import nn

from models.checkpoint import check_crops, is_g4g, load_network, save_checkpoint

# Keys of a training config that hold folders of the machine it ran on; these mean nothing elsewhere.
PLACES = ("data", "output", "start_from", "heatmap_predictor", "face_synthesizer", "sync_expert")


def blend(first: nn.Module, second: nn.Module, share: float, name: str) -> nn.Module:
    """Move the weights of `first` by `share` towards those of `second`, which was fine-tuned from it.

    Raises:
        InputError: their configs differ.
    """
    if first.config != second.config:
        raise InputError(f"--blend: the two forms of {name} differ in their config; give one fine-tuned from the other")
    with torch.no_grad():
        for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            ours.copy_(ours.lerp(theirs, share) if ours.is_floating_point() else theirs)
    return first


@command
def main() -> None:
    arguments = parse()
    if not 0 <= arguments.blend <= 1:
        raise InputError(f"--blend {arguments.blend} must be between 0 and 1")

    held = [{path.stem for path in folder.glob("*.safetensors")} & set(NETWORK_NAMES) for folder in arguments.folders]
    of_g4g = [is_g4g(folder) for folder, names in zip(arguments.folders, held, strict=True) if names != {"sync_expert"}]
    wanted = ["g4g_synthesizer"] if of_g4g and all(of_g4g) else ["heatmap_predictor", "face_synthesizer"]
    if any("sync_expert" in names for names in held):
        wanted.append("sync_expert")  # by which `--face speaking` finds the speaker
    networks: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    folders: dict[str, Path] = {}
    for name in arguments.networks or wanted:
        holders = [folder for folder in arguments.folders if (folder / f"{name}.safetensors").is_file()]
        if not holders:
            given = ", ".join(map(str, arguments.folders))
            raise InputError(f"none of {given} holds {name}.safetensors; add the folder of its run")
        networks[name] = load_network(holders[-1], name)
        if arguments.blend < 1 and len(holders) > 1:
            networks[name] = blend(load_network(holders[-2], name), networks[name], arguments.blend, name)
        sections[name], folders[name] = networks[name].config, holders[-1]
        saved: Any = OmegaConf.load(holders[-1] / "config.yaml")
        training = saved.get("training")
        if training is not None:
            own = training.get(name)  # a section if this command wrote it; else it may be a folder
            settings: Any = OmegaConf.to_container(own if OmegaConf.is_dict(own) else training)
            kept = {key: value for key, value in settings.items() if key not in PLACES}
            # Relative ones tell `metrics.reproduce` which clips the network has seen, and nothing of the machine.
            data = {key: settings.get("data", {}).get(key) for key in ("train", "val")}
            data = {key: folder for key, folder in data.items() if folder and not Path(folder).is_absolute()}
            kept |= {"data": data} if data else {}
            sections.setdefault("training", {})[name] = kept
    if {"heatmap_predictor", "face_synthesizer"} <= networks.keys():
        pair = networks["heatmap_predictor"], networks["face_synthesizer"]
        check_crops(*pair, folders["heatmap_predictor"], folders["face_synthesizer"])
    save_checkpoint(arguments.output, networks, sections, half=arguments.half, ears=arguments.folders)
    size = sum(file.stat().st_size for file in arguments.output.glob("*.safetensors")) / 1e6
    print(f"wrote {', '.join(networks)} into {arguments.output}, {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
