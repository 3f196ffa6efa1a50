"""Pictures with faces for the tests, and small networks with random weights."""

from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import torch

from media.video import VideoWriter
from models import (
    FaceSynthesizer,
    FaceSynthesizerConfig,
    HeatmapPredictor,
    HeatmapPredictorConfig,
    save_checkpoint,
)

WIDTH, HEIGHT = 240, 224


def portrait(dx: float = 0, dy: float = 0, zoom: float = 1.0) -> np.ndarray:
    """(224, 240, 3) uint8 RGB: the US Navy's photograph of Grace Hopper that ships with matplotlib, moved a little."""
    file = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    read = cv2.imread(str(file))
    assert read is not None
    picture = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    shift = 120 - 264 * 0.7 * zoom + dx, 120 - 247 * 0.7 * zoom + dy
    matrix = np.array([[0.7 * zoom, 0, shift[0]], [0, 0.7 * zoom, shift[1]]], np.float32)
    picture = cv2.GaussianBlur(picture, (5, 5), 1.2)  # its grain would only cost bits
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def portraits(count: int) -> list[np.ndarray]:
    """`count` pictures of a slow movement."""
    return [portrait(4 * np.sin(i / 4), 3 * np.cos(i / 5)) for i in range(count)]


def empty() -> np.ndarray:
    """A picture of the same size without a face."""
    return np.tile(np.linspace(40, 90, WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, 1, 3))


def write_frames(path: Path, frames: list[np.ndarray], fps: int = 25, crf: int = 10) -> Path:
    with VideoWriter(path, frames[0].shape[1], frames[0].shape[0], fps, crf=crf) as video:
        for frame in frames:
            video.write(frame)
    return path


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint folder with small networks of random weights."""
    torch.manual_seed(0)
    networks = {
        "heatmap_predictor": HeatmapPredictor(HeatmapPredictorConfig(width=0.06, layers=1)),
        "face_synthesizer": FaceSynthesizer(FaceSynthesizerConfig(width=0.03)),
    }
    save_checkpoint(folder, networks, {name: network.config for name, network in networks.items()})
    return folder


def small_wav2vec2_folder(folder: Path, channels: int = 32) -> tuple[Path, torch.nn.Module]:
    """`folder` with a small random network of Wav2Vec 2.0 base's kind written to it, and that network."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=channels,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    network = Wav2Vec2Model(config).eval()
    network.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder, network
