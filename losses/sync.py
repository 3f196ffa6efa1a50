"""Lip-sync terms on the embeddings of a sync expert: L_sync of STSA eq. 10, and G4G's contrastive loss.

Both embeddings are (B, D): row i of one embeds a window's sound, row i of the other the same window's faces.
"""

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from media.crop import CropForm
from media.errors import InputError
from models.checkpoint import load_sync_expert
from models.precision import full_precision, without_autocast
from models.sync_expert import SyncExpert, check_framing

FLOOR = 0.01


def cosine(sound: Tensor, faces: Tensor) -> Tensor:
    """Cosine similarity of each pair, (..., D), (..., D) -> (...), in float32."""
    return F.cosine_similarity(full_precision(sound), full_precision(faces), dim=-1, eps=1e-6)


def sync_loss(sound: Tensor, faces: Tensor) -> Tensor:
    """L_sync: the mean of -log cos(sound, faces), Wav2Lip's binary cross-entropy with target 1.

    Below a cosine of 0.01, the tangent at 0.01 replaces -log. The loss is then defined for negative cosines, which
    embeddings without a final ReLU have. Its gradient is at most 100, and does not vanish as a clamp's would.
    """
    return negative_log(cosine(sound, faces)).mean()


def sync_classification_loss(sound: Tensor, faces: Tensor, in_sync: Tensor) -> Tensor:
    """The loss of Wav2Lip's expert: binary cross-entropy with the cosine as the probability of being in sync.

    Args:
        sound, faces: (..., D), of shapes that broadcast.
        in_sync: (...), 1 for pairs in sync and 0 for others.
    """
    similarity, in_sync = cosine(sound, faces), full_precision(in_sync)
    return (in_sync * negative_log(similarity) + (1 - in_sync) * negative_log(1 - similarity)).mean()


def contrastive_loss(
    sound: Tensor, faces: Tensor, temperature: float | Tensor = 0.07, negatives: Tensor | None = None
) -> Tensor:
    """G4G eq. 6-10 and 16: find each window's sound among the batch's by its faces, and its faces by its sound.

    The similarity matrix of all pairs is divided by the temperature. The loss is the mean of the cross-entropies of the
    softmax over its rows (eq. 8) and over its columns (eq. 9), with the diagonal as labels. As in CLIP, which G4G
    follows, the embeddings are first normalised to length 1. Eq. 10 divides the softmax by its own sum again, which
    changes nothing.

    Args:
        sound, faces: (B, D), row i of both from the same window. Windows of one clip in a batch are the hard negatives;
            no two rows may be the same window.
        temperature: positive; a tensor may be learned.
        negatives: (B, N, D), further negative sounds for row i of the faces, such as its clip's a few frames away.

    Returns:
        A scalar; log B for uninformative embeddings without `negatives`.
    """
    with without_autocast(sound):
        sound = F.normalize(full_precision(sound), dim=-1, eps=1e-6)
        faces = F.normalize(full_precision(faces), dim=-1, eps=1e-6)
        similarity = faces @ sound.mT / temperature
        rows = similarity
        if negatives is not None:
            negatives = F.normalize(full_precision(negatives), dim=-1, eps=1e-6)
            rows = torch.cat([similarity, (negatives @ faces[..., None])[..., 0] / temperature], dim=1)
    diagonal = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(rows, diagonal) + F.cross_entropy(similarity.mT, diagonal)) / 2


def shifted_loss(sound: Tensor, faces: Tensor, negatives: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Find each window's sound among sounds of its own clip by its faces: eq. 8's softmax without other clips.

    Other clips differ in voice and face too. Trained with them on few speakers, a network learns speaker identity
    instead of speech: its training loss falls, but it finds no offset for held-out speakers. Arguments as in
    `contrastive_loss`.

    Returns:
        A scalar; log(1 + N) for uninformative embeddings.
    """
    with without_autocast(sound):
        sounds = torch.cat([sound[:, None], negatives], dim=1)
        similarity = F.cosine_similarity(full_precision(sounds), full_precision(faces)[:, None], dim=-1, eps=1e-6)
        own = torch.zeros(len(similarity), dtype=torch.long, device=similarity.device)
    return F.cross_entropy(similarity / temperature, own)


def own_sound_nearest(sound: Tensor, faces: Tensor, negatives: Tensor) -> Tensor:
    """Whether each window of faces is closer to its sound than to all N `negatives`; chance is 1 / (1 + N).

    Arguments as in `contrastive_loss`; (B,) bool.
    """
    faces = full_precision(faces)
    own, others = cosine(sound, faces), cosine(negatives, faces[:, None])
    return (own[:, None] > others).all(dim=1)


def frozen_expert(path: str | os.PathLike, frames: int, crop: CropForm) -> SyncExpert:
    """Load the frozen expert that scores generated windows of `frames` frames of the form `crop`.

    Raises:
        InputError: no path is given, it holds no expert (`load_sync_expert`), it was trained on another framing or
            aspect ratio than that of `crop`, or `frames` is not 5.
    """
    if frames != 5:
        raise InputError(f"a sync expert judges windows of five frames; set frames=5, not {frames}, or take it out")
    if not path:
        raise InputError(
            "the sync loss needs an expert; give sync_expert=FOLDER (train_sync.py) or =lipsync_expert.pth "
            "(python -m checkpoints.fetch sync_expert), or set its weight to 0"
        )
    expert = load_sync_expert(path).requires_grad_(False)
    remedy = "give an expert that was trained on the same framing (train_sync.py), or set its weight to 0"
    check_framing(expert.config, f"the sync expert {path}", crop, "the synthesizer", remedy)
    return expert


def negative_log(p: Tensor) -> Tensor:
    """-log p, below 0.01 its tangent there; `p` of any shape, 1 at most."""
    tangent = -math.log(FLOOR) + (FLOOR - p) / FLOOR
    return torch.where(p > FLOOR, -p.clamp_min(FLOOR).log(), tangent)
