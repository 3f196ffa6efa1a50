"""G4G beside STSA: the network's equations, its losses, and the same scripts from clips to a dubbed video."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from training_runs import arguments, run, write_clips

from benchmarks.inference import trained_like
from dubbing import G4GSpeaker, StsaSpeaker, load_speaker
from losses.g4g import G4GLosses, G4GObjective, attribute_loss, freeze_unread, reconstruction_loss
from losses.sync import contrastive_loss
from media.errors import InputError
from media.video import read_frames
from models import G4GConfig, G4GSynthesizer, load_network, save_checkpoint
from models.fast import accelerate_inference
from models.g4g import AlignmentBlock, adain, soft_lower_half
from train_face import SCHEMAS, G4GTraining, starting_point
from training import read_config

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"width": 0.06}


def inputs(windows: int = 2, frames: int = 3, size: int = 128) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "frames": torch.rand(windows, frames, 3, size, size, generator=random),
        "heatmaps": torch.rand(windows, frames, 1, size, size, generator=random),
        "reference_images": torch.rand(windows, 5, 3, size, size, generator=random),
        "reference_heatmaps": torch.rand(windows, 5, 1, size, size, generator=random),
        "audio": torch.randn(windows, frames, 80, 16, generator=random),
    }


def trained(**options) -> G4GSynthesizer:
    return trained_like(G4GSynthesizer(G4GConfig(**(SMALL | options))))


# --- the network -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"alignment": False}, {"fusion": False}, {"size": 64, "references": 2}])
def test_references_encoded_once_and_the_fast_form_give_the_same_faces(options):
    network, given = trained(**options), inputs(size=options.get("size", 128))
    for name in ("reference_images", "reference_heatmaps"):
        given[name] = given[name][:, : network.config.references]
    faces = network(**given)
    assert faces.shape == given["frames"].shape and faces.min() >= 0 and faces.max() <= 1
    for form in (network, accelerate_inference(network)):
        references = form.encode_references(given["reference_images"], given["reference_heatmaps"])
        again = form.render(given["frames"], None, references, given["audio"])
        torch.testing.assert_close(again, faces, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", [True, False])
def test_sound_moves_the_face_and_what_is_hidden_does_not(fusion):
    network, given = trained(fusion=fusion), inputs()
    faces = network(**given)
    hidden = given["frames"].clone()
    hidden[..., 64:, :] = 0.3
    assert torch.equal(network(**(given | {"frames": hidden, "heatmaps": None})), faces)
    others = network(**(given | {"audio": given["audio"].flip(0)}))
    assert (others - faces)[..., 64:, :].abs().max() > 1e-3
    looks = network(**(given | {"reference_heatmaps": given["reference_heatmaps"].flip(0)}))
    assert (looks - faces)[..., 64:, :].abs().max() > 1e-4


def test_adain_gives_a_channel_the_mean_and_the_deviation_that_the_landmarks_say():
    """Eq. 5."""
    x, gamma, beta = torch.randn(3, 8, 64) * 3 + 2, torch.randn(3, 8), torch.randn(3, 8)
    aligned = adain(x, torch.cat([gamma, beta], dim=1))
    torch.testing.assert_close(aligned.mean(dim=2), beta, atol=1e-4, rtol=0)
    torch.testing.assert_close(aligned.std(dim=2, correction=0), (1 + gamma).abs(), atol=1e-3, rtol=1e-3)


def test_the_composite_shows_what_is_visible_far_from_the_hidden_half():
    mask = soft_lower_half(128)[0]
    assert (mask[64:] == 1).all() and (mask.diff(dim=0) >= 0).all() and mask[:40].max() < 1e-8
    network, given = trained(fusion=False), inputs()
    torch.testing.assert_close(network(**given)[..., :40, :], given["frames"][..., :40, :])


def test_an_ablated_part_has_no_parameters():
    full, plain = G4GSynthesizer(G4GConfig(**SMALL)), G4GSynthesizer(G4GConfig(**SMALL, alignment=False, fusion=False))
    assert any(isinstance(module, AlignmentBlock) for module in full.modules())
    assert not any(isinstance(module, AlignmentBlock) for module in plain.modules())
    assert plain.fusion is plain.see is plain.hear is None


@pytest.mark.parametrize(("options", "named"), [({"audio": "mfcc"}, "audio"), ({"size": 100}, "size")])
def test_a_form_that_cannot_be_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        G4GSynthesizer(G4GConfig(**options))


# --- the losses ------------------------------------------------------------------------------------------------------


def test_the_attribute_loss_is_the_angle_and_moves_one_side():
    """Eq. 12."""
    visual = torch.tensor([[1.0, 0], [1, 1]], requires_grad=True)
    landmarks = torch.tensor([[0.0, 2], [2, 0]], requires_grad=True)
    loss = attribute_loss(visual, landmarks)
    assert loss.item() == pytest.approx((1 + 1 - 0.5**0.5) / 2, abs=1e-6)
    loss.backward()
    assert visual.grad.abs().sum() > 0 and landmarks.grad is None


def test_the_reconstruction_weighs_the_mouth_most():
    """Eq. 15: the mean over the crop, the hidden half and the mouth, counted by hand."""
    true, landmarks = torch.full((1, 1, 3, 128, 128), 0.5), torch.full((1, 1, 57, 2), 0.75)
    landmarks[..., 0] = 0.5
    wrong = true.clone()
    wrong[..., 90:100, 60:70] += 0.3  # within 0.08 of the lips at (64, 96)
    box = 0.08 * 2 * 128  # px on a side, whole pixels only
    whole, half, mouth = 0.3 * 100 / 128**2, 0.3 * 100 / (128 * 64), 0.3 * 100 / round(box) ** 2
    found = reconstruction_loss(wrong, true, landmarks).item()
    assert found == pytest.approx((whole + half + mouth) / 3, rel=0.05)
    assert reconstruction_loss(wrong, true, landmarks, multi_scale=False).item() == pytest.approx(whole, rel=1e-4)


def test_the_objective_is_eq_17_of_the_networks_own_features():
    network, given = trained(), inputs()
    weights = G4GLosses(perceptual=0, gan=0)
    objective = G4GObjective(weights, network.config, 3, "")
    faces, aligned = network(**given, alignment=True)
    batch = {"frames": given["frames"], "landmarks": torch.rand(2, 3, 57, 2), "mel": torch.zeros(2, 1, 80, 16)}
    terms = objective(faces, batch, None, aligned)
    assert terms.keys() == {"attribute", "reconstruction", "contrastive"}
    similarity = F.normalize(aligned.seen) @ F.normalize(aligned.heard).T / 0.07
    both = [F.cross_entropy(scores, torch.arange(6)) for scores in (similarity, similarity.T)]
    torch.testing.assert_close(terms["contrastive"], 5 * sum(both) / 2)
    assert contrastive_loss(aligned.heard, aligned.seen) * 5 == terms["contrastive"]
    sum(terms.values()).backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert idle == []


def test_heads_that_no_term_reads_wait_for_no_gradient():
    network, given = trained(), inputs()
    weights = G4GLosses(attribute=0, perceptual=0, gan=0, contrastive=0)
    freeze_unread(network, weights)
    faces, aligned = network(**given, alignment=True)
    batch = {"frames": given["frames"], "landmarks": torch.rand(2, 3, 57, 2)}
    sum(G4GObjective(weights, network.config, 3, "")(faces, batch, None, aligned).values()).backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not network.see.weight.requires_grad and not network.to_landmarks.weight.requires_grad


def test_without_alignment_the_contrast_needs_an_expert():
    with pytest.raises(InputError, match="sync_expert=FOLDER"):
        G4GObjective(G4GLosses(perceptual=0), G4GConfig(**SMALL, alignment=False), 5, "")


# --- the scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["g4g", "demo_g4g", *(f"ablations/g4g_without_{part}" for part in ("alignment", "supervision", "fusion"))]
)
def test_every_config_fits_the_script(name):
    config = read_config(SCHEMAS, ROOT / "configs" / f"{name}.yaml")
    assert isinstance(config, G4GTraining) and config.train.steps > 0
    starting_point(config)


def test_the_ablations_change_what_table_2_says_and_nothing_else():
    full = OmegaConf.to_container(OmegaConf.structured(read_config(SCHEMAS, ROOT / "configs/g4g.yaml")))
    expected = {"alignment": ("model", False), "supervision": ("losses", False), "fusion": ("model", False)}
    for part, (section, value) in expected.items():
        config = read_config(SCHEMAS, ROOT / f"configs/ablations/g4g_without_{part}.yaml")
        other = OmegaConf.to_container(OmegaConf.structured(config))
        key = "multi_scale" if part == "supervision" else part
        full[section][key], before = value, full[section][key]
        assert other | {"output": ""} == full | {"output": ""} and before is True
        full[section][key] = before


def test_an_unknown_network_is_one_line():
    with pytest.raises(InputError, match="network=wav2lip is unknown; use face_synthesizer or g4g_synthesizer"):
        read_config(SCHEMAS, ROOT / "configs/g4g.yaml", ["network=wav2lip"])


def test_from_clips_to_a_dubbed_video(tmp_path):
    """train_face.py with every term but VGG's, resumed, and inference.py with what it wrote, on a real face."""
    clips = write_clips(tmp_path / "clips")
    expert = tmp_path / "expert"
    steps = ["train.save_every=1", "train.validate_every=2"]
    assert run("train_sync", arguments("train_sync", clips, expert, "train.steps=1", *steps)) == 0
    settings = ["losses.gan=3", "discriminator.width=0.05", "discriminator.together=5", "frames=5"]
    settings += ["model.width=0.06", f"sync_expert={expert}", *steps]
    for count in (1, 2):
        command = arguments(
            "train_face", clips, tmp_path / "g4g", *settings, f"train.steps={count}", config="demo_g4g.yaml"
        )
        assert run("train_face", command) == 0
    best = tmp_path / "g4g" / "best"
    assert (best / "g4g_synthesizer.safetensors").is_file()
    assert isinstance(load_speaker(best, torch.device("cpu")), G4GSpeaker)

    output = tmp_path / "dubbed.mp4"
    command = [sys.executable, "inference.py", "--video", "assets/portrait.mp4", "--audio", "assets/speech.wav"]
    command += ["--output", str(output), "--visualize", str(tmp_path / "panel.mp4"), "--checkpoint", str(best)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pair = zip(read_frames(output), read_frames(ROOT / "assets/portrait.mp4"), strict=False)
    changes = [np.abs(ours.astype(int) - theirs).mean() for ours, theirs in pair]
    assert len(changes) > 20 and min(changes[:20]) > 0.5
    refused = [*command, "--heatmap-output", str(tmp_path / "heatmaps.mp4")]
    result = subprocess.run(refused, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "G4G predicts no heatmaps" in result.stderr and "Traceback" not in result.stderr


def test_a_folder_with_stsas_networks_too_dubs_with_those(tmp_path):
    from faces import small_checkpoint

    folder = small_checkpoint(tmp_path / "stsa")
    network = G4GSynthesizer(G4GConfig(**SMALL))
    save_checkpoint(tmp_path / "g4g", {"g4g_synthesizer": network}, {"g4g_synthesizer": network.config})
    (folder / "g4g_synthesizer.safetensors").write_bytes((tmp_path / "g4g/g4g_synthesizer.safetensors").read_bytes())
    assert isinstance(load_speaker(folder, torch.device("cpu")), StsaSpeaker)
    assert load_network(tmp_path / "g4g", "g4g_synthesizer").config == network.config
