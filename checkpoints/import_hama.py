"""Extract the speech encoder of hama 1.7.0 for the sound features `hama`.

    pip install hama==1.7.0 && python -m checkpoints.import_hama
    pip download hama==1.7.0 --no-deps && python -m checkpoints.import_hama --from hama-1.7.0-py3-none-any.whl

The package (Apache-2.0, https://github.com/hamanlp/hama) holds the weights in `hama/assets/asr_waveform.hama`. --from
names that file, a wheel that holds it, or a folder with either; without --from, the installed package has it. The
file's sha256 is checked. `speech_encoder.safetensors` gets the layers that `media/hama.py` computes, in float16.
"""

import argparse
import hashlib
import importlib.util
import struct
import sys
import zipfile
from pathlib import Path

from media.errors import InputError, Parser, command, first_line, quick_help
from media.files import DOWNLOADS, existing_file, output_folder, replacing

ASSET = "hama/assets/asr_waveform.hama"
SHA256 = "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328"
NOTICE = {
    "source": "hama 1.7.0 by Seongmin Park, https://github.com/hamanlp/hama, asr_waveform.hama",
    "licence": "Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0",
    "changes": "the layers after the last feature are left out; tensors are renamed, linear layers transposed",
}


@quick_help
def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--from", dest="source", type=Path, metavar="PATH", help="the package's file, wheel or folder")
    parser.add_argument(
        "--output", type=Path, default=DOWNLOADS, metavar="DIR", help="folder of the result (default: %(default)s)"
    )
    return parser.parse_args()


import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from media.hama import NAME, HamaEncoder


def read_asset(source: Path | None) -> bytes:
    """The content of the package's file, whose sha256 is right.

    Args:
        source: the file, a wheel with it, or a folder with either; None is the installed package.

    Raises:
        InputError: it is not there, or is another file.
    """
    remedy = "run `pip download hama==1.7.0 --no-deps` and give the wheel with --from"
    if source is None:
        found = importlib.util.find_spec("hama")
        if found is None or not found.submodule_search_locations:
            raise InputError(f"the package hama is not installed; {remedy}")
        path = Path(found.submodule_search_locations[0]).parent / ASSET
    elif source.is_dir():
        candidates = [*source.glob("hama-1.7.0-*.whl"), source / ASSET, source / Path(ASSET).name]
        path = next((path for path in candidates if path.is_file()), source / Path(ASSET).name)
    else:
        path = source
    existing_file(path, "speech encoder")
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                content = wheel.read(ASSET)
        else:
            content = path.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no {ASSET} ({first_line(error)}); {remedy}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{path} is not that of hama 1.7.0 (its sha256 differs); {remedy}")
    return content


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a .hama file.

    8 bytes of magic and a uint32 count; for each tensor a uint16 and its name, uint8 type (0 float32, 1 float16), uint8
    rank, uint32 dimensions, uint64 offset and uint64 bytes; little-endian. The data end with
    the file, and their offsets count from their start.
    """
    tensors, table = {}, []
    (count,), at = struct.unpack_from("<I", content, 8), 12
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        at += 2 + length
        kind, rank = struct.unpack_from("<BB", content, at)
        shape = struct.unpack_from(f"<{rank}I", content, at + 2)
        offset, size = struct.unpack_from("<QQ", content, at + 2 + 4 * rank)
        at += 18 + 4 * rank
        table.append((name, ("<f4", "<f2")[kind], shape, offset, size))
    start = len(content) - max(offset + size for *_, offset, size in table)
    for name, kind, shape, offset, size in table:
        data = content[start + offset : start + offset + size]
        tensors[name] = np.frombuffer(data, kind).reshape(shape)
    return tensors


def encoder_state(tensors: dict[str, np.ndarray], blocks: int, classes: bool = False) -> dict[str, Tensor]:
    """The state of a `HamaEncoder` with `blocks` blocks, and with the classes if asked, from `read_tensors`.

    The file numbers the unnamed tensors of its convolutions and matrix products in the network's order: the stem and a
    depthwise convolution a block with their biases, and six products a block.
    """

    def unnamed(operation: str) -> list[np.ndarray]:
        names = [name for name in tensors if name.startswith(f"onnx::{operation}_")]
        return [tensors[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]

    convolutions, products = unnamed("Conv"), unnamed("MatMul")
    state = {
        "mels": tensors["mel_fb"],
        "stem.weight": convolutions[0],
        "stem.bias": convolutions[1],
    }
    for i in range(blocks):
        of, own = f"acoustic_model.model.blocks.{i}.", f"blocks.{i}."
        wide, back, project, out, wide_2, back_2 = products[6 * i : 6 * i + 6]
        matrices = {
            **{"first.wide": (wide, "ffn1.fc1.bias"), "first.back": (back, "ffn1.fc2.bias")},
            **{"attention.project": (project, "attn.in_proj_bias"), "attention.out": (out, "attn.out_proj.bias")},
            **{"second.wide": (wide_2, "ffn2.fc1.bias"), "second.back": (back_2, "ffn2.fc2.bias")},
            "convolution.gated": (tensors[f"{of}conv.pointwise1.weight"][..., 0].T, "conv.pointwise1.bias"),
            "convolution.out": (tensors[f"{of}conv.pointwise2.weight"][..., 0].T, "conv.pointwise2.bias"),
        }
        for name, (weight, bias) in matrices.items():
            state[f"{own}{name}.weight"], state[f"{own}{name}.bias"] = weight.T, tensors[of + bias]
        norms = {"first": "ffn1.norm", "attention": "attn_norm", "convolution": "conv.norm", "second": "ffn2.norm"}
        for name, norm in [*((f"{part}.norm", norm) for part, norm in norms.items()), ("norm", "norm")]:
            for kind in ("weight", "bias"):
                state[f"{own}{name}.{kind}"] = tensors[f"{of}{norm}.{kind}"]
        state[f"{own}convolution.depthwise.weight"] = convolutions[2 * i + 2]
        state[f"{own}convolution.depthwise.bias"] = convolutions[2 * i + 3]
    if classes:
        state["head.weight"] = tensors["acoustic_model.model.proj.weight"][..., 0]
        state["head.bias"] = tensors["acoustic_model.model.proj.bias"]
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


@command
def main() -> None:
    arguments = parse()
    encoder = HamaEncoder()
    state = encoder_state(read_tensors(read_asset(arguments.source)), len(encoder.blocks))
    encoder.load_state_dict(state)  # all tensors are there, in the right shapes
    half = {name: tensor.contiguous() if name == "mels" else tensor.half() for name, tensor in state.items()}
    path = output_folder(arguments.output) / NAME
    with replacing(path) as temporary:
        save_file(half, temporary, NOTICE)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
