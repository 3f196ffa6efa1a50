"""The level of L_sync: what trains it, what measures it, and what a run says of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import arguments, run, write_clips

from data_prep.clips import Clip
from data_prep.index import clip_paths
from data_prep.sync import SyncDataset
from data_prep.unsynced import draw_shifts
from finetune_e2e import Finetuning
from losses.calibration import SyncLevel, calibrated
from losses.sync import contrastive_loss, sync_classification_loss, sync_loss
from models.checkpoint import save_checkpoint
from models.sync_expert import SyncExpert, SyncExpertConfig, lower_faces
from train_face import SCHEMAS, FaceTraining
from train_sync import SyncTraining, sync_terms, validate
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), frames=40)


# --- what trains the level -------------------------------------------------------------------------------------------


def leveled(angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (8, 10) of length 1, none negative, whose cosines are 1/2 more for true pairs, at any level.

    Sound and faces agree in eight coordinates; `angle` between their other two moves all cosines together.
    """
    shared = math.sqrt(0.5) * torch.eye(8, dtype=torch.float64)
    rest = math.sqrt(0.5) * torch.stack([angle.cos(), angle.sin()])
    start = torch.tensor([math.sqrt(0.5), 0.0], dtype=torch.float64)
    return torch.cat([shared, rest.expand(8, 2)], dim=1), torch.cat([shared, start.expand(8, 2)], dim=1)


def level_after_training(loss, angle: float) -> float:
    """-log cos of true pairs after 100 steps on the level alone; Adam would step by the rounding of a gradient of 0."""
    trained = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([trained], 0.5)
    for _ in range(100):
        descent.zero_grad()
        loss(*leveled(trained)).backward()
        descent.step()
    return sync_loss(*leveled(trained)).item()


def binary(sound: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    unsynced = sync_classification_loss(sound.roll(1, dims=0), faces, torch.zeros(8, dtype=torch.float64))
    return (sync_loss(sound, faces) + unsynced) / 2


@pytest.mark.parametrize("angle", [0.2, 1.5])
def test_binary_cross_entropy_fixes_the_level_of_cosines_and_the_contrastive_loss_does_not(angle):
    start = sync_loss(*leveled(torch.tensor(angle, dtype=torch.float64))).item()
    assert level_after_training(contrastive_loss, angle) == pytest.approx(start, rel=1e-6)
    assert level_after_training(binary, angle) == pytest.approx(-math.log(0.75), rel=1e-3)  # unsynced ones at 1/4


def test_bce_is_the_mean_of_true_and_shifted_pairs():
    torch.manual_seed(0)
    sounds, face = torch.rand(4, 3, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    config = read_config(SyncTraining, ROOT / "configs/stsa_sync.yaml")
    terms = sync_terms(sounds, face, config)
    similar = torch.cosine_similarity(sounds, face[:, None], dim=-1).numpy()
    expected = -(np.log(similar[:, 0]).mean() + np.log(1 - similar[:, 1:]).mean()) / 2
    assert terms.keys() == {"bce"} and float(terms["bce"]) == pytest.approx(expected, rel=1e-9)


def test_bce_draws_its_shifts_evenly_and_within_the_clip(clips):
    random = np.random.default_rng(0)
    drawn = [draw_shifts(random, 1, 250, -8, 20, near=False)[0] for _ in range(3000)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [*range(-8, 0), *range(1, 21)]
    assert counts.min() > 60 and counts.max() < 160  # 107 each
    assert sorted(draw_shifts(random, 3, 9, 0, 1, near=False)) == [-1, 1, 2]  # too short a clip

    dataset = SyncDataset(clips, negatives=1, furthest=250, near=False)
    mel = dataset.clips[0].audio("mel")
    frames = [np.floor(80 / 25 * frame + 1e-6).astype(int) for frame in range(36)]
    inside = {mel[first : first + 16].T.tobytes() for first in frames}
    seen = {dataset[(2, seed)]["sync_audio"][1, 0].numpy().tobytes() for seed in range(40)}
    assert seen <= inside and len(seen) > 15


# --- what measures it ------------------------------------------------------------------------------------------------


class Fixed(SyncExpert):
    """An expert in whose eyes a true window's cosine is `own` and another pair's `other`; it reads which is which."""

    def __init__(self, own: float, other: float):
        nn.Module.__init__(self)
        self.own, self.other, self.unused = own, other, nn.Parameter(torch.zeros(1))
        gram = torch.full((4, 4), other, dtype=torch.float64).fill_diagonal_(own)
        basis = torch.eye(4, dtype=torch.float64)
        self.faces = torch.cat([basis, torch.zeros(4, 4)], dim=1)
        rest = (1 - gram.square().sum(dim=1)).clamp_min(0).sqrt()
        self.sounds = torch.cat([gram, torch.diag(rest)], dim=1)

    def embed_audio(self, mel):
        return self.sounds[mel[:, 0, 0, 0].long()]

    def embed_faces(self, lower):
        return self.faces[(lower[:, 0, 0, 0] * 10).round().long()]


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    number = torch.arange(4.0).view(4, 1, 1, 1)
    return (number[:, None] / 10).expand(4, 5, 3, 96, 96), number.expand(4, 1, 80, 16)


def test_generated_windows_are_compared_with_the_true_ones():
    frames, mel = windows()
    said: list[str] = []
    level = SyncLevel(Fixed(0.8, 0.1), frames, mel, said.append)
    assert not said
    assert (level.true, level.unsynced) == pytest.approx((-math.log(0.8), -math.log(0.1)))
    assert level(frames) == pytest.approx({"sync": -math.log(0.8), "sync_true": -math.log(0.8)})
    swapped = frames[[1, 0, 2, 3]]  # two windows with each other's faces
    expected = -(math.log(0.8) + math.log(0.1)) / 2
    assert level(swapped) == pytest.approx({"sync": expected, "sync_true": -math.log(0.8)})


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (0.5, 0.05, "is 0.69, with the sound of other windows 3.00, where 0.5 or less"),
        (0.48, 0.45, "is 0.73, with the sound of other windows 0.80"),
        (0.7, 0.4, ""),
    ],
)
def test_an_expert_whose_true_windows_are_far_from_0_is_said_to_be_uncalibrated(own, other, words):
    said: list[str] = []
    SyncLevel(Fixed(own, other), *windows(), said.append)
    assert len(said) == bool(words) and words in "".join(said)
    if words:
        assert "not calibrated for L_sync" in said[0] and "loss=bce" in said[0] and "\n" not in said[0]


def test_unsynced_sound_has_to_be_clearly_further():
    assert calibrated(0.3, 0.9) and calibrated(0.3, None)
    assert not calibrated(0.05, 0.1) and not calibrated(0.3, 0.3) and not calibrated(0.6, 2.0)


def test_train_sync_validates_the_level(clips):
    torch.manual_seed(0)
    expert = SyncExpert(SyncExpertConfig(width=0.03)).eval()
    own = [Clip(path) for path in clip_paths(clips)]
    scores = validate(expert, own)
    dataset = SyncDataset(clips, negatives=30, furthest=15)
    true, shifted = [], []
    for index in range(len(dataset)):
        item = dataset[(index, 0)]
        if not 15 <= item["start"] <= 40 - 5 - 15:  # all shifts lie within the sound
            continue
        with torch.no_grad():
            face = expert.embed_faces(lower_faces(item["frames"][None])).double()
            own_sound = expert.embed_audio(item["sync_audio"][:1]).double()
            true.append(-torch.cosine_similarity(own_sound, face).log())
            mel = torch.from_numpy(dataset.clips[0].audio("mel"))  # of the first clip below
            if index < len(dataset) // 2:
                shifts = (*range(-15, -1), *range(2, 16))
                firsts = [math.floor(80 / 25 * (item["start"] + shift) + 1e-6) for shift in shifts]
                sounds = expert.embed_audio(torch.stack([mel[first : first + 16].T[None] for first in firsts]))
                shifted.append(-torch.cosine_similarity(sounds.double(), face).log())
    assert scores["val/sync_true"] == pytest.approx(float(torch.cat(true).mean()), rel=1e-4)
    alone = validate(expert, own[:1])
    assert alone["val/sync_shifted"] == pytest.approx(float(torch.cat(shifted).mean()), rel=1e-4)


# --- what the configs and the runs say -------------------------------------------------------------------------------


def test_l_sync_has_an_expert_of_bce_and_g4g_one_of_the_contrastive_loss():
    stsa, g4g = (read_config(SyncTraining, ROOT / f"configs/{name}_sync.yaml") for name in ("stsa", "g4g"))
    assert (stsa.loss, g4g.loss) == ("bce", "contrastive")
    assert (stsa.train.learning_rate, stsa.train.batch_size) == (1e-4, 64)  # [2]'s
    face, tuned = read_config(FaceTraining, ROOT / "configs/stsa_face.yaml"), ROOT / "configs/stsa_e2e.yaml"
    assert face.sync_expert == read_config(Finetuning, tuned).sync_expert == f"{stsa.output}/best"
    for name in ("g4g", "ablations/g4g_without_alignment"):
        config = read_config(SCHEMAS, ROOT / f"configs/{name}.yaml")
        assert config.sync_expert == f"{g4g.output}/best" and config.data.train == g4g.data.train


@pytest.mark.slow
def test_the_scripts_say_that_an_expert_is_not_calibrated(clips, tmp_path):
    expert, log = tmp_path / "expert", tmp_path / "log"
    steps = ["train.steps=1", "train.save_every=1", "train.validate_every=1"]
    assert run("train_sync", arguments("train_sync", clips, expert, *steps), RUN_LOG=str(log)) == 0
    assert "not calibrated for L_sync (loss=bce is for it); offsets and G4G's eq. 16 need no level" in log.read_text()
    config = SyncExpertConfig(width=0.03)
    save_checkpoint(expert / "fresh", {"sync_expert": SyncExpert(config)}, {"sync_expert": config})
    settings = [*steps, "frames=5", "losses.sync=0.1", f"sync_expert={expert / 'fresh'}"]
    assert run("train_face", arguments("train_face", clips, tmp_path / "face", *settings), RUN_LOG=str(log)) == 0
    assert log.read_text().count("the sync expert is not calibrated for L_sync") == 1
