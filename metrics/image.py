"""Pixel metrics: PSNR, SSIM and MSE of images in [0, 1] (torchmetrics)."""

import torch
from torch import Tensor

from models.precision import exact, without_autocast


def mse(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error over all pixels and channels of each image; lower is better, identical images give 0.

    Args:
        generated, reference: (B, 3, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1].
    """
    return torch.mean((generated - reference) ** 2, dim=(1, 2, 3))


def psnr(generated: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, -10 log10 MSE for a peak of 1; higher is better, infinite for equal images.

    Args:
        generated, reference: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), one value an image. A mean over frames is therefore a mean of decibels, as in the papers' code.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(generated, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(generated: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al., "Image quality assessment: from error visibility to ...", TIP 2004).

    Gaussian window 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, reflection padding, mean over all pixels and colours. Higher
    is better; identical images give 1.

    Args:
        generated, reference: (B, 3, H, W) in [0, 1], H and W at least 11.

    Returns:
        (B,) in [-1, 1].
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # The depthwise convolution is twice as fast on a CPU in the channels-last layout.
    made, true = (exact(images).contiguous(memory_format=torch.channels_last) for images in (generated, reference))
    with without_autocast(generated):
        values = structural_similarity_index_measure(
            made, true, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
        )
    assert isinstance(values, Tensor)  # the pair is returned for `return_full_image` alone
    return values.reshape(-1).to(generated.dtype)
