"""Put the networks of several runs into one checkpoint folder, as dubbing needs them.

    python -m checkpoints.combine runs/heatmap/best runs/face/best --output checkpoints/mine [--half]

Each network is taken from the last folder that holds it.
"""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from media.errors import InputError, Parser, command
from models.checkpoint import NETWORKS, load_network, save_checkpoint

# Of a training config: the folders of the machine it ran on, which mean nothing elsewhere.
PLACES = ("data", "output", "start_from", "heatmap_predictor", "face_synthesizer", "sync_expert")


@command
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="checkpoint folders; a later one wins")
    parser.add_argument("--output", required=True, type=Path, help="the checkpoint folder to write")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["heatmap_predictor", "face_synthesizer"])
    parser.add_argument("--half", action="store_true", help="store float16 weights, half the size")
    arguments = parser.parse_args()

    networks, sections = {}, {}
    for name in arguments.networks:
        holders = [folder for folder in arguments.folders if (folder / f"{name}.safetensors").is_file()]
        if not holders:
            folders = ", ".join(map(str, arguments.folders))
            raise InputError(f"none of {folders} holds {name}.safetensors; add the folder of its run")
        networks[name] = load_network(holders[-1], name)
        sections[name] = networks[name].config
        training = OmegaConf.load(holders[-1] / "config.yaml").get("training")
        if training is not None:
            kept = {key: value for key, value in OmegaConf.to_container(training).items() if key not in PLACES}
            sections.setdefault("training", {})[name] = kept
    save_checkpoint(arguments.output, networks, sections, half=arguments.half)
    size = sum(file.stat().st_size for file in arguments.output.glob("*.safetensors")) / 1e6
    print(f"wrote {', '.join(networks)} into {arguments.output}, {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
