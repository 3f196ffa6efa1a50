"""media/crop.py alone knows the size of a crop and its hidden part."""

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import built

from benchmarks.inference import trained_like
from losses.reconstruction import hidden_weight, l1_loss
from losses.warp import warp_score
from media.crop import CropForm
from models.face_synthesizer import Alignment
from models.g4g import G4GConfig, G4GSynthesizer
from models.guidance import inputs_of

ROOT = Path(__file__).resolve().parent.parent
FILES = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in FILES
    if path.relative_to(ROOT).parts[0] != "tests" and path != ROOT / "media/crop.py"
}

SIZES = {128, 320, 416}  # px: sides of the named crops and of their heatmaps; 256 and 96 are common numbers of channels
# What such a number is elsewhere, and how often it occurs.
OTHER_NUMBERS = {
    "data_prep/sync.py": (2, "the middle grey level"),
    "data_prep/windows.py": (2, "the middle grey level"),
    "dubbing/detail.py": (5, "denominators of widths in units of the crop's width"),
    "dubbing/blur.py": (1, "denominator of widths in units of the crop's width"),
    "dubbing/live.py": (3, "samples from one feature to the next, at 50 Hz"),
    "dubbing/occlusion.py": (1, "a grey level"),
    "dubbing/paste.py": (2, "the chroma of grey"),
    "extensions/feature_expert.py": (1, "channels"),
    "extensions/region_synthesizer.py": (1, "denominator of a displacement in units of the crop"),
    "media/hama.py": (1, "samples from one feature to the next"),
    "media/turned.py": (1, "side of the picture that MediaPipe's detector takes"),
    "media/whisper.py": (1, "samples from one feature to the next"),
    "metrics/motion.py": (1, "RAFT's smallest picture"),
    "models/arcface.py": (1, "channels"),
    "models/face_synthesizer.py": (1, "channels"),
    "models/heatmap_predictor.py": (3, "channels"),
    "models/i3d.py": (13, "channels"),
    "models/s3fd.py": (5, "channels, and a step of S3FD's sixth map"),
    "models/released_face.py": (1, "channels"),
    "models/sync_expert.py": (2, "channels"),
}
# What a slice with a share of a length takes elsewhere.
OTHER_SLICES = {
    "dubbing/live.py": "rows of audio features",
    "media/noise.py": "samples of sound",
    "metrics/quality.py": "the middle reference",
    "models/fast.py": "AdaIN's gamma",
}


def test_no_other_file_has_a_crops_size():
    numbers = Counter(
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in SIZES
    )
    assert numbers == {name: count for name, (count, _) in OTHER_NUMBERS.items()}


def is_share(node: ast.AST) -> bool:
    """Whether an expression divides, or multiplies by a number that is not whole."""
    if not isinstance(node, ast.BinOp):
        return False
    numbers = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
    product = isinstance(node.op, ast.Mult) and any(isinstance(number, float) for number in numbers)
    return product or isinstance(node.op, ast.Div | ast.FloorDiv)


def test_no_other_file_takes_a_share_of_a_pictures_rows():
    found = {
        name
        for name, tree in TREES.items()
        for piece in ast.walk(tree)
        if isinstance(piece, ast.Slice) and any(map(is_share, ast.walk(piece)))
    }
    assert found == set(OTHER_SLICES)


# Another size, aspect, hidden rectangle and size of heatmaps than STSA's; G4G's network takes multiples of 32.
CROP = CropForm(height=160, width=128, hidden=(0.25, 0.25, 0.75, 0.75), guidance=64)
EDGES = [(39, 64), (120, 64), (80, 31), (80, 96)]  # visible pixels next to the hidden part's four sides


@torch.no_grad()
@pytest.mark.parametrize("kind", ["paper", "released", "region", "g4g"])
def test_a_face_depends_on_the_visible_pixels_and_on_no_hidden_one(kind):
    options: dict[str, Any] = {"width": 0.03, "references": 2, "crop": CROP}
    if kind == "g4g":
        network = trained_like(G4GSynthesizer(G4GConfig(**options)))
    else:
        network = trained_like(built("face_synthesizer", kind, **options))
    # One face six times: as it is, with other hidden pixels, and with another visible pixel at each of the four sides.
    frames = torch.rand(3, *CROP.shape).repeat(6, 1, 1, 1)
    frames[1, :, *CROP.hidden_pixels] = 0.3
    for frame, (y, x) in zip(frames[2:], EDGES, strict=True):
        frame[:, y, x] += 0.5
    heatmaps, audio, landmarks = torch.rand(1, CROP.guidance, CROP.guidance), torch.randn(80, 16), torch.rand(131, 2)
    batch = {"frames": frames[None]}
    batch |= {name: x.expand(1, 6, *x.shape) for name, x in (("heatmaps", heatmaps), ("landmarks", landmarks))}
    batch |= {"audio": audio.expand(1, 6, *audio.shape), "reference_images": torch.rand(1, 2, 3, *CROP.shape)}
    batch |= {"reference_heatmaps": torch.rand(1, 2, *heatmaps.shape), "reference_landmarks": torch.rand(1, 2, 131, 2)}
    faces = network(*inputs_of(network, batch))
    assert faces.shape == batch["frames"].shape
    differences = (faces - faces[:, :1]).abs().amax(dim=(0, 2, 3, 4))
    assert differences[1] < 1e-6 and differences[2:].min() > 1e-4, differences


def test_only_the_hidden_part_counts_in_the_scores_of_training():
    hidden = torch.zeros(CROP.shape)
    hidden[40:120, 32:96] = 1
    assert torch.equal(hidden_weight(CROP), hidden)
    true = torch.rand(1, 1, 3, *CROP.shape)
    batch = {"reference_images": torch.rand(1, 1, 3, *CROP.shape), "frames": true}
    grid = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, *CROP.shape], align_corners=False)
    alignment = Alignment(None, grid.movedim(-1, 1)[None, None], torch.ones(1, 1, 1, 1, *CROP.shape))
    score = warp_score(alignment, batch, CROP)
    assert score == warp_score(alignment, batch | {"frames": true + 0.5 * (1 - hidden)}, CROP)
    assert score != warp_score(alignment, batch | {"frames": true + 0.5 * hidden}, CROP)
    assert l1_loss(true + 0.5 * (1 - hidden), true, hidden_weight(CROP)) == 0
