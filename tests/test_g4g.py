"""G4G beside STSA: the network's equations, its losses, and the same scripts from clips to a dubbed video."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faces import portraits, small_checkpoint, write_frames
from media_files import write_sound
from omegaconf import OmegaConf
from training_runs import arguments, run, run_group, scalars_and_images, write_clips

from benchmarks.inference import trained_like
from data_prep.clips import Clip
from dubbing import G4GSpeaker, StsaSpeaker, load_speaker
from losses.g4g import G4GLosses, G4GObjective, attribute_loss, freeze_unread, reconstruction_loss
from losses.sync import contrastive_loss, own_sound_nearest
from media.crop import CROPS, STSA, CropForm
from media.errors import InputError
from media.video import read_frames
from metrics.quality import score_g4g_clip
from models import G4GConfig, G4GSynthesizer, load_network, save_checkpoint
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.fast import accelerate_inference
from models.g4g import AlignmentBlock, adain, soft_hidden
from models.guidance import inputs_of
from models.sync_expert import SyncExpert, SyncExpertConfig, lower_faces
from train_face import SCHEMAS, G4GTraining, moved_by_sound, starting_point, unsynced_sounds
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {"width": 0.06}
MADE_CLIPS = ["model.audio=mel", "model.crop=stsa", "model.stride=2"]  # what clips made by `write_clips` suit


def inputs(windows: int = 2, frames: int = 3, crop: CropForm = STSA) -> dict[str, torch.Tensor]:
    random, guidance = torch.Generator().manual_seed(1), (crop.guidance, crop.guidance)
    return {
        "frames": torch.rand(windows, frames, 3, *crop.shape, generator=random),
        "reference_images": torch.rand(windows, 5, 3, *crop.shape, generator=random),
        "reference_heatmaps": torch.rand(windows, 5, 1, *guidance, generator=random),
        "audio": torch.randn(windows, frames, 80, 16, generator=random),
    }


def trained(**options) -> G4GSynthesizer:
    return trained_like(G4GSynthesizer(G4GConfig(**(SMALL | options))))


# --- the network -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"alignment": False, "stride": 4}, {"fusion": False}, {"crop": CropForm.square(64), "references": 2}],
)
def test_references_encoded_once_and_the_fast_form_give_the_same_faces(options):
    network, given = trained(**options).double(), inputs(crop=options.get("crop", STSA))
    given = {name: value.double() for name, value in given.items()}
    for name in ("reference_images", "reference_heatmaps"):
        given[name] = given[name][:, : network.config.references]
    faces = network(**given)
    assert faces.shape == given["frames"].shape and faces.min() >= 0 and faces.max() <= 1
    for form in (network, accelerate_inference(network)):
        references = form.encode_references(given["reference_images"], given["reference_heatmaps"])
        again = form.render(given["frames"], references, given["audio"])
        torch.testing.assert_close(again, faces, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fusion", [True, False])
def test_sound_moves_the_face_and_what_is_hidden_does_not(fusion):
    network, given = trained(fusion=fusion), inputs()
    faces = network(**given)
    hidden = given["frames"].clone()
    hidden[..., 64:, :] = 0.3
    assert torch.equal(network(**(given | {"frames": hidden})), faces)
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
    mask = soft_hidden(STSA)[0]
    assert (mask[64:] == 1).all() and (mask.diff(dim=0) >= 0).all() and mask[:40].max() < 1e-8
    network, given = trained(fusion=False), inputs()
    torch.testing.assert_close(network(**given)[..., :40, :], given["frames"][..., :40, :])


@torch.no_grad()
def test_at_the_papers_crop_all_around_the_mouths_region_is_visible():
    crop = CROPS["g4g"]
    mask = soft_hidden(crop)[0]
    hidden = torch.from_numpy(crop.hidden_mask())
    assert hidden.sum() == 256 * 256 and (mask[hidden] == 1).all() and (mask[~hidden] < 1).all()
    # Half a pixel outside, on each side: the rectangle has rows 128 to 383 and columns 32 to 287.
    edges = mask[127, 160], mask[384, 160], mask[200, 31], mask[200, 288]
    torch.testing.assert_close(torch.stack(edges), torch.full((4,), math.exp(-((0.5 / 10) ** 2) / 2)))
    network, given = trained(fusion=False, width=0.03, crop=crop), inputs(1, 1, crop)
    faces = network(**given)
    assert faces.shape == (1, 1, 3, 416, 320)
    torch.testing.assert_close(faces[..., mask < 1e-8], given["frames"][..., mask < 1e-8])
    other = given["frames"].clone()
    other[..., *crop.hidden_pixels] = torch.rand(256, 256)
    assert torch.equal(network(**given | {"frames": other}), faces)


def test_an_ablated_part_has_no_parameters():
    full, plain = G4GSynthesizer(G4GConfig(**SMALL)), G4GSynthesizer(G4GConfig(**SMALL, alignment=False, fusion=False))
    assert any(isinstance(module, AlignmentBlock) for module in full.modules())
    assert not any(isinstance(module, AlignmentBlock) for module in plain.modules())
    assert plain.fusion is plain.see is plain.hear is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"audio": "mfcc"}, "audio"),
        ({"crop": CropForm.square(102)}, r"crop\.height is 102"),
        ({"crop": CropForm(width=60)}, r"crop\.width is 60; it must be a multiple of 4, at least 64"),
        ({"stride": 8}, "stride"),
        ({"references": 0}, "references"),
    ],
)
def test_a_form_that_cannot_be_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        G4GSynthesizer(G4GConfig(**options))


# --- the losses ------------------------------------------------------------------------------------------------------


def test_the_attribute_loss_is_the_angle_and_moves_one_side():
    """Eq. 12."""
    visual = torch.tensor([[1.0, 0], [1, 1]], requires_grad=True)
    landmarks = torch.tensor([[0.0, 2]], requires_grad=True)
    loss = attribute_loss(visual[None], landmarks)  # two frames of one window
    assert loss.item() == pytest.approx((1 + 1 - 0.5**0.5) / 2, abs=1e-6)
    loss.backward()
    assert visual.grad is not None and visual.grad.abs().sum() > 0 and landmarks.grad is None


def test_the_reconstruction_weighs_the_mouth_most():
    """Eq. 15: the mean over the crop, the hidden half and the mouth, counted by hand."""
    true, landmarks = torch.full((1, 1, 3, 128, 128), 0.5), torch.full((1, 1, 57, 2), 0.75)
    landmarks[..., 0] = 0.5
    wrong = true.clone()
    wrong[..., 90:100, 60:70] += 0.3  # within 0.08 of the lips at (64, 96)
    box = 0.08 * 2 * 128  # px on a side, whole pixels only
    whole, half, mouth = 0.3 * 100 / 128**2, 0.3 * 100 / (128 * 64), 0.3 * 100 / round(box) ** 2
    found = reconstruction_loss(wrong, true, landmarks, STSA).item()
    assert found == pytest.approx((whole + half + mouth) / 3, rel=0.05)
    assert reconstruction_loss(wrong, true, landmarks, STSA, multi_scale=False).item() == pytest.approx(whole, rel=1e-4)


def batch_of(given: dict, windows: int = 2, frames: int = 3) -> dict:
    random = torch.Generator().manual_seed(2)
    landmarks = torch.rand(windows, frames, 57, 2, generator=random)
    return {
        "frames": given["frames"],
        "keypoints": landmarks,
        "sync_audio": torch.randn(windows, 1, 80, 16, generator=random),
    }


def test_the_objective_contrasts_the_windows_middle_frames():
    """Eq. 6 to 10 written out, half of L_con; the rest of eq. 17 stands beside it."""
    network, given = trained(), inputs()
    objective = G4GObjective(G4GLosses(perceptual=0, gan=0), network.config, 3, "")
    faces, aligned = network(**given, alignment=True)
    terms = objective(faces, batch_of(given), None, aligned)
    assert terms.keys() == {"attribute", "reconstruction", "contrastive"}
    similarity = F.normalize(aligned.visual_embedding[:, 1]) @ F.normalize(aligned.audio_embedding[:, 1]).T / 0.07
    both = [F.cross_entropy(scores, torch.arange(2)) for scores in (similarity, similarity.T)]
    torch.testing.assert_close(terms["contrastive"], 5 / 2 * sum(both) / 2)


def test_unsynced_sounds_are_encoded_as_the_windows_own_and_move_no_face():
    """In training too, where batch norm would tell a batch of their own."""
    network, given = trained(), inputs()
    own = given["audio"][:, 1:2]
    faces, aligned = network.train()(**given, alignment=True, unsynced=torch.cat([own, -own], dim=1))
    torch.testing.assert_close(aligned.unsynced[:, 0], aligned.audio_embedding[:, 1])
    assert (aligned.unsynced[:, 1] - aligned.audio_embedding[:, 1]).abs().max() > 1e-3
    with torch.no_grad():
        faces, aligned = network.eval()(**given, alignment=True, unsynced=-own)
        plain, without = network(**given, alignment=True)
    torch.testing.assert_close(faces, plain, atol=1e-5, rtol=0)
    assert network.hear is not None
    torch.testing.assert_close(aligned.unsynced[:, 0], network.hear(network.audio_encoder(-own[:, 0])))
    assert without.unsynced is None
    assert trained(alignment=False)(**given, alignment=True, unsynced=own)[1].unsynced is None


def test_telling_people_apart_is_not_enough_where_there_are_unsynced_sounds():
    """Eq. 16: embeddings of who speaks reach 0 by other windows alone; K sounds of one voice leave log(1 + K)."""
    who = torch.eye(3, dtype=torch.float64)  # three windows of three people
    same_voice = who[:, None].expand(3, 4, 3)
    assert contrastive_loss(who, who) < 1e-5
    # A softmax over five equal similarities, and the half of eq. 9, which has no unsynced faces, at 0.
    loss = 2 * contrastive_loss(who, who, negatives=same_voice)
    assert loss >= math.log(1 + 4) and loss == pytest.approx(math.log(5), abs=1e-5)
    assert contrastive_loss(who[:1], who[:1], negatives=same_voice[:1]) == pytest.approx(math.log(5) / 2)
    what = torch.cat([who, torch.ones(3, 1)], dim=1)  # and embeddings of what is said as well
    others = torch.cat([same_voice, -torch.ones(3, 4, 1)], dim=2)
    assert contrastive_loss(what, what, negatives=others) < 0.01
    assert own_sound_nearest(what, what, others).all() and not own_sound_nearest(who, who, same_voice).any()


def test_the_objective_contrasts_unsynced_sounds_too(tmp_path):
    """Eq. 10 and 16 written out for one window, whose faces have no other window's sound to be told from."""
    torch.manual_seed(0)
    expert = SyncExpert(SyncExpertConfig(width=0.05))
    save_checkpoint(tmp_path, {"sync_expert": expert}, {"sync_expert": expert.config})
    network, given = trained(), inputs(windows=1, frames=5)
    random = torch.Generator().manual_seed(3)
    shifted = {"audio_negatives": torch.randn(1, 4, 80, 16, generator=random)}
    shifted["sync_negatives"] = torch.randn(1, 4, 1, 80, 16, generator=random)
    batch = batch_of(given, windows=1, frames=5) | shifted
    faces, aligned = network(**given, alignment=True, **unsynced_sounds(batch))
    objective = G4GObjective(G4GLosses(perceptual=0, gan=0), network.config, 5, str(tmp_path))
    found = objective(faces, batch, None, aligned)["contrastive"]

    sound, face = expert.eval()(torch.cat([batch["sync_audio"], batch["sync_negatives"][0]]), lower_faces(faces))
    expected = F.cross_entropy(face @ sound.T / 0.07, torch.zeros(1, dtype=torch.long)) / 2
    assert network.hear is not None
    sounds = network.hear(network.audio_encoder(torch.cat([given["audio"][0, 2:3], batch["audio_negatives"][0]])))
    similarity = F.cosine_similarity(aligned.visual_embedding[:, 2], sounds)[None] / 0.07
    expected = expected + F.cross_entropy(similarity, torch.zeros(1, dtype=torch.long)) / 2
    torch.testing.assert_close(found, 5 / 2 * expected, atol=1e-4, rtol=1e-4)
    assert expected > 0.1


def test_an_expert_judges_the_generated_windows(tmp_path):
    """Eq. 16, the other half, which an ablation without alignment keeps at its weight; and the adversary's term."""
    torch.manual_seed(0)
    expert = SyncExpert(SyncExpertConfig(width=0.05))
    save_checkpoint(tmp_path, {"sync_expert": expert}, {"sync_expert": expert.config})
    given = inputs(frames=5)
    weights = G4GLosses(perceptual=0, multi_scale=False)
    judge = PatchDiscriminator(DiscriminatorConfig(width=0.05, scales=1, together=5))
    for alignment in (True, False):
        network = trained(alignment=alignment)
        faces, aligned = network(**given, alignment=True)
        batch = batch_of(given, frames=5)
        terms = G4GObjective(weights, network.config, 5, str(tmp_path))(faces, batch, judge, aligned)
        sound, face = expert.eval()(batch["sync_audio"], lower_faces(faces))
        judged = contrastive_loss(sound, face)
        features = contrastive_loss(aligned.audio_embedding[:, 2], aligned.visual_embedding[:, 2]) if alignment else 0
        torch.testing.assert_close(terms["contrastive"], 2.5 * (judged + features))
        scores = [features[-1] for features in judge(faces)]
        torch.testing.assert_close(terms["gan"], 3 * sum((score - 1).square().mean() for score in scores))
        torch.testing.assert_close(terms["reconstruction"], 4 * (faces - given["frames"]).abs().mean())
        sum(terms.values()).backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_heads_that_no_term_reads_wait_for_no_gradient():
    network, given = trained(), inputs()
    weights = G4GLosses(attribute=0, perceptual=0, gan=0, contrastive=0)
    freeze_unread(network, weights)
    faces, aligned = network(**given, alignment=True)
    sum(G4GObjective(weights, network.config, 3, "")(faces, batch_of(given), None, aligned).values()).backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert network.see is not None
    assert not network.see.weight.requires_grad and not network.to_landmarks.weight.requires_grad


def test_without_alignment_the_contrast_needs_an_expert():
    with pytest.raises(InputError, match="sync_expert=FOLDER"):
        G4GObjective(G4GLosses(perceptual=0), G4GConfig(**SMALL, alignment=False), 5, "")


@torch.no_grad()
def test_a_network_that_does_not_listen_is_told():
    given = inputs() | {"clip": ["a", "b"]}
    network = trained()
    assert moved_by_sound(network, given, network(*inputs_of(network, given))) > 1e-4
    for head in (network.adaat.scale, network.adaat.rotation, network.adaat.translation):
        head.weight.zero_()
    assert moved_by_sound(network, given, network(*inputs_of(network, given))) == 0


# --- the scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("g4g", "g4g_lrs2", "g4g_mouth64", "demo_g4g"),
        *(f"ablations/g4g_without_{part}" for part in ("alignment", "supervision", "fusion")),
    ],
)
def test_every_config_fits_the_script(name):
    config = read_config(SCHEMAS, ROOT / "configs" / f"{name}.yaml")
    assert isinstance(config, G4GTraining) and config.train.steps > 0
    starting_point(config)


def test_the_ablations_change_what_table_2_says_and_nothing_else():
    full: Any = OmegaConf.to_container(OmegaConf.structured(read_config(SCHEMAS, ROOT / "configs/g4g.yaml")))
    expected = {"alignment": ("model", False), "supervision": ("losses", False), "fusion": ("model", False)}
    for part, (section, value) in expected.items():
        config = read_config(SCHEMAS, ROOT / f"configs/ablations/g4g_without_{part}.yaml")
        other: Any = OmegaConf.to_container(OmegaConf.structured(config))
        key = "multi_scale" if part == "supervision" else part
        full[section][key], before = value, full[section][key]
        assert other | {"output": ""} == full | {"output": ""} and before is True
        full[section][key] = before


def test_an_unknown_network_is_one_line():
    with pytest.raises(InputError, match="network=wav2lip is unknown; use face_synthesizer or g4g_synthesizer"):
        read_config(SCHEMAS, ROOT / "configs/g4g.yaml", ["network=wav2lip"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["losses.gan=3"], "discriminator.together=1, or 0"),
        (["train.batch_size=1", "frames=5", "negatives=0"], "set negatives=4, raise train.batch_size"),
        (["negatives=7", "furthest=3"], "negatives=7 must be between 1 and 2 furthest = 6"),
        (["sync_expert=", "model.alignment=false"], "give sync_expert=FOLDER"),
        (["losses.attribute=0", "losses.reconstruction=0", "losses.contrastive=0"], "no loss term has a weight"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(tmp_path, settings, named):
    clips = write_clips(tmp_path / "clips", count=1)
    command = arguments("train_face", clips, tmp_path / "g4g", *MADE_CLIPS, *settings, config="demo_g4g.yaml")
    assert run("train_face", command, RUN_LOG=str(tmp_path / "log")) == 2
    log = (tmp_path / "log").read_text()
    assert named in log.splitlines()[-1] and "Traceback" not in log


@pytest.mark.slow
def test_from_clips_to_a_dubbed_video(tmp_path):
    """train_face.py with every term but VGG's, resumed; what it wrote is scored, and dubs a real face."""
    clips = write_clips(tmp_path / "clips")
    expert = tmp_path / "expert"
    steps = ["train.save_every=1", "train.validate_every=2"]
    assert run("train_sync", arguments("train_sync", clips, expert, "train.steps=1", *steps)) == 0
    settings = ["losses.gan=3", "discriminator.width=0.05", "frames=5", "model.width=0.06", f"sync_expert={expert}"]
    for count in (1, 2):
        settings_now = [*settings, *steps, f"train.steps={count}"]
        command = arguments("train_face", clips, tmp_path / "g4g", *MADE_CLIPS, *settings_now, config="demo_g4g.yaml")
        assert run("train_face", command) == 0
    best = tmp_path / "g4g" / "best"
    assert isinstance(load_speaker(best, torch.device("cpu")), G4GSpeaker)

    network = accelerate_inference(load_network(best, "g4g_synthesizer"))
    with torch.inference_mode():
        clip, voice = map(Clip, sorted(clips.glob("*.safetensors"))[:2])
        scores = score_g4g_clip(clip, voice, network, every=6)
    assert scores.keys() == {"from the sound", "from the sound backward", "copied hidden part"}
    assert all(np.isfinite(row["PSNR"]) for row in scores.values())
    with torch.inference_mode():
        scores = score_g4g_clip(clip, voice, network)
    assert scores["mouth opening"].keys() == {"own", "backward"}  # of made clips, which show no face, it is not known

    output, crops = tmp_path / "dubbed.mp4", tmp_path / "crops.mp4"
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.4)
    video = write_frames(tmp_path / "video.mp4", portraits(10))
    command = [sys.executable, "inference.py", "--video", str(video), "--audio", str(sound)]
    command += ["--output", str(output), "--crop-output", str(crops), "--visualize", str(tmp_path / "panel.mp4")]
    command += ["--checkpoint", str(best)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    first, before = (next(read_frames(path)).astype(int) for path in (output, video))
    changed = np.abs(first - before).mean(axis=2) > 20  # what two steps have taught is no mouth
    rows, columns = np.nonzero(changed)
    height, width = changed.shape
    assert changed.mean() > 0.005 and rows.mean() > 0.45 * height and abs(columns.mean() / width - 0.5) < 0.15
    assert next(read_frames(crops)).shape == (128, 128, 3)

    refused = [*command, "--heatmap-output", str(tmp_path / "heatmaps.mp4")]
    result = subprocess.run(refused, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "predicts none (G4G)" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_one_window_a_step_is_contrasted_with_unsynced_sounds(tmp_path):
    clips = write_clips(tmp_path / "clips")
    settings = ["train.batch_size=1", "frames=2", "train.steps=2", "train.validate_every=2", "model.width=0.06"]
    command = arguments("train_face", clips, tmp_path / "g4g", *MADE_CLIPS, *settings, config="demo_g4g.yaml")
    assert run("train_face", command) == 0
    values, _ = scalars_and_images(tmp_path / "g4g")
    assert min(values["train/contrastive"]) > 0  # without unsynced sounds one window leaves it at 0
    assert 0 <= values["val/own_sound_nearest"][-1] <= 1


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path):
    clips = write_clips(tmp_path / "clips")
    settings = ["train.batch_size=4", "train.steps=2", "model.width=0.06", "losses.attribute=0", "model.fusion=false"]
    command = arguments("train_face", clips, tmp_path / "g4g", *MADE_CLIPS, *settings, config="demo_g4g.yaml")
    assert run_group("train_face", command, [None, None]) == [0, 0]


def test_half_a_checkpoint_is_said_to_be_one(tmp_path):
    small_checkpoint(tmp_path)
    (tmp_path / "heatmap_predictor.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks heatmap_predictor\.safetensors, one of the two"):
        load_speaker(tmp_path, torch.device("cpu"))


@pytest.mark.slow
def test_commands_that_want_stsas_networks_say_so(tmp_path):
    network = G4GSynthesizer(G4GConfig(**SMALL))
    save_checkpoint(tmp_path / "g4g", {"g4g_synthesizer": network}, {"g4g_synthesizer": network.config})
    with pytest.raises(InputError, match="holds G4G's network, and no face_synthesizer"):
        load_network(tmp_path / "g4g", "face_synthesizer")
    command = [sys.executable, "-m", "checkpoints.combine", str(tmp_path / "g4g"), "--output", str(tmp_path / "half")]
    assert subprocess.run([*command, "--half"], cwd=ROOT, capture_output=True).returncode == 0
    assert isinstance(load_speaker(tmp_path / "half", torch.device("cpu")), G4GSpeaker)


def test_a_folder_with_stsas_networks_too_dubs_with_those(tmp_path):
    folder = small_checkpoint(tmp_path / "stsa")
    network = G4GSynthesizer(G4GConfig(**SMALL))
    save_checkpoint(tmp_path / "g4g", {"g4g_synthesizer": network}, {"g4g_synthesizer": network.config})
    (folder / "g4g_synthesizer.safetensors").write_bytes((tmp_path / "g4g/g4g_synthesizer.safetensors").read_bytes())
    assert isinstance(load_speaker(folder, torch.device("cpu")), StsaSpeaker)
    assert load_network(tmp_path / "g4g", "g4g_synthesizer").config == network.config
