"""L_perc, STSA eq. 9: features of a pre-trained VGG-19 and their Gram matrices.

L_perc = sum_i ||phi_i(I_p) - phi_i(I_g)||_1 + ||G_i(I_p) - G_i(I_g)||_1

phi_i are relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, each norm a mean over elements. As in IP-LAP the features are
compared at full and at half size, the Gram matrices at full size alone and with the weight 250.

The normalisation of VGG-19's input x in [0, 1] (`inputs`) fixes the size of both terms:

- "imagenet": (x - mean) / std of RGB channels, as VGG-19 was trained.
- "released": ((x + 1) / 2 - mean) / std of BGR channels, mean and std in RGB order. The authors' module expects RGB in
  [-1, 1], and they feed it BGR in [0, 1], which halves the difference of two images. The weight 4 of L_perc in eq. 10
  was tuned with it.
"""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19

from checkpoints import fetch
from media.errors import InputError
from models.checkpoint import read_foreign
from models.precision import full_precision, total, without_autocast

INPUTS = ("imagenet", "released")
ENDS = (2, 7, 12, 21, 30)  # of the slices of torchvision's `features` whose last layers are relu1_1 ... relu5_1
_SMALLEST = 16  # pixels: the four poolings before relu5_1 divide the size by 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class PerceptualLoss(nn.Module):
    """Eq. 9 with frozen weights read from torchvision's `vgg19-dcbb9e9d.pth`.

    Args:
        weights: that file; None takes the fetched one. Its classifier is not needed and may be absent.
        gram_weight: weight of the Gram term; 0 omits it. With 0 and two scales, this loss is ten times G4G's eq. 13.
        inputs: "imagenet" or "released", see above.
        scales: sizes at which features are compared, each half the one before; 1 or more.

    Raises:
        InputError: the file is missing, is not VGG-19's, or holds more than tensors (no other weights replace it); or
            an option has another value than those above.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: str | os.PathLike | None = None,
        *,
        gram_weight: float,
        inputs: str = "imagenet",
        scales: int = 2,
    ):
        super().__init__()
        check_perceptual(gram_weight, inputs, scales)
        self.gram_weight, self.inputs, self.scales = gram_weight, inputs, scales
        features = _read_features(fetch.require("vgg19", "the perceptual loss") if weights is None else weights)
        self.slices = nn.ModuleList(features[i:j] for i, j in zip((0, *ENDS), ENDS, strict=False))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, faces: Tensor, true_faces: Tensor, grams: bool = True) -> Tensor:
        """Compare RGB images in [0, 1], (..., 3, H, W); a scalar. H and W are at least 16 at the smallest scale.

        `grams=False` omits the Gram term.
        """
        faces, true_faces = faces.flatten(0, -4), true_faces.flatten(0, -4)
        terms = []
        for scale in range(self.scales):
            if scale > 0:
                faces, true_faces = F.avg_pool2d(faces, 2), F.avg_pool2d(true_faces, 2)
            with torch.no_grad():
                true_features = self.features(true_faces)
            for feature, true_feature in zip(self.features(faces), true_features, strict=True):
                terms.append(F.l1_loss(full_precision(feature), full_precision(true_feature)))
                if grams and scale == 0 and self.gram_weight > 0:
                    terms.append(self.gram_weight * F.l1_loss(gram(feature), gram(true_feature)))
        return total(terms)

    def features(self, images: Tensor) -> list[Tensor]:
        """RGB images in [0, 1], (N, 3, H, W) -> the five feature maps, finest first."""
        x = (images.flip(1) + 1) / 2 if self.inputs == "released" else images
        x = (x - self.mean) / self.std
        maps = []
        for part in self.slices:
            x = part(x)
            maps.append(x)
        return maps


def gram(features: Tensor) -> Tensor:
    """Gram matrices F F^T / (C H W): (N, C, H, W) -> (N, C, C), in float32."""
    with without_autocast(features):
        vectors = full_precision(features).flatten(2)
        return vectors @ vectors.mT / (vectors.shape[1] * vectors.shape[2])


def check_perceptual(gram_weight: float, inputs: str, scales: int, size: int | None = None) -> None:
    """Raise InputError if `PerceptualLoss` does not take these options, or not for images of `size` pixels."""
    if inputs not in INPUTS:
        raise InputError(f"losses.perceptual_input={inputs} is unknown; use {' or '.join(INPUTS)}")
    if gram_weight < 0:
        raise InputError(f"losses.gram={gram_weight} must not be negative; use 250, or 0 to leave the Gram term out")
    if scales < 1:
        raise InputError(f"losses.perceptual_scales={scales} must be 1 or more; use 2")
    if size is not None and size >> (scales - 1) < _SMALLEST:
        raise InputError(
            f"losses.perceptual_scales={scales} leaves {size >> (scales - 1)} of {size} pixels, VGG-19 needs "
            f"{_SMALLEST}; use fewer scales"
        )


def perceptual_loss(without_vgg: str, say: Callable[[str], None], **options) -> PerceptualLoss | None:
    """`PerceptualLoss(**options)`; None if VGG-19's weights are absent and `without_vgg` is "skip": `say` prints it."""
    if without_vgg == "stop" or fetch.available("vgg19"):
        return PerceptualLoss(**options)
    say("training without the perceptual term: VGG-19 is absent (python -m checkpoints.fetch vgg19)")
    return None


def _read_features(path: str | os.PathLike) -> nn.Sequential:
    """VGG-19 up to relu5_1 with the weights of `path`."""
    state = read_foreign(path)
    with torch.device("meta"):  # no memory and no random numbers are spent on weights that are replaced at once
        features = vgg19(weights=None, init_weights=False).features[: ENDS[-1]]
    for name, tensor in features.state_dict().items():
        found = state.get(f"features.{name}")
        if found is None or found.shape != tensor.shape:
            raise InputError(f"{path} is not torchvision's VGG-19: features.{name} is missing or has another shape")
    features.load_state_dict({name: state[f"features.{name}"].float() for name in features.state_dict()}, assign=True)
    return features.eval()
