"""Convert the STSA authors' released weights to a checkpoint folder.

    python -m checkpoints.import_released heatmap_weight.pth face_weight.pth checkpoints/stsa_released
    python inference.py --checkpoint checkpoints/stsa_released --video VIDEO --audio SOUND --output OUT.mp4

The pickled files are read with `weights_only=True`; a file that holds anything but tensors is refused.
"""

import argparse
import sys

from media.errors import Parser, command, quick_help


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("heatmap", metavar="HEATMAP.pth", help="the authors' heatmap_weight.pth")
    parser.add_argument("face", metavar="FACE.pth", help="the authors' face_weight.pth")
    parser.add_argument("folder", metavar="DIR", help="the checkpoint folder to write")
    return parser.parse_args()


from models.checkpoint import load_released, save_checkpoint


@command
def main() -> None:
    arguments = parse()

    predictor, synthesizer = load_released(arguments.heatmap, arguments.face)
    networks = {"heatmap_predictor": predictor, "face_synthesizer": synthesizer}
    sections = {
        "heatmap_predictor": predictor.config,
        "face_synthesizer": synthesizer.config,
        "origin": "released by the authors of STSA (https://github.com/SCAILab-USTC/STSA)",
    }
    save_checkpoint(arguments.folder, networks, sections)
    print(f"imported the released heatmap predictor and face synthesizer into {arguments.folder}")


if __name__ == "__main__":
    sys.exit(main())
