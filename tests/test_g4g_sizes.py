"""G4G at its paper's 416x320: the sizes of its framing, their curriculum, the sync expert, the dub's pictures."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faces import portraits, write_frames
from media_files import write_sound
from training_runs import arguments, run, write_clips

from benchmarks.inference import trained_like
from dubbing.pictures import panel, panel_size
from losses.g4g import G4GLosses, G4GObjective, reconstruction_loss
from losses.sync import frozen_expert
from media.crop import CROPS, STSA, CropForm
from media.errors import InputError
from media.place import Place, crop_face
from media.video import probe, read_frames
from models import G4GConfig, G4GSynthesizer, load_network, save_checkpoint
from models.sync_expert import SyncExpert, SyncExpertConfig, lower_faces
from train_face import SCHEMAS, G4GTraining, starting_point
from training.config import read_config

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("g4g-64", "g4g-128", "g4g")
SMALL: dict[str, Any] = {"width": 0.03, "stride": 4}


def save(folder: Path, crop: CropForm, **options) -> G4GSynthesizer:
    network = trained_like(G4GSynthesizer(G4GConfig(**(SMALL | options), crop=crop)))
    save_checkpoint(folder, {"g4g_synthesizer": network}, {"g4g_synthesizer": network.config})
    return network


def save_expert(folder: Path, crop: CropForm) -> Path:
    torch.manual_seed(0)
    expert = SyncExpert(SyncExpertConfig(width=0.03, crop=crop))
    save_checkpoint(folder, {"sync_expert": expert}, {"sync_expert": expert.config})
    return folder


def read(name: str, *overrides: str) -> G4GTraining:
    config = read_config(SCHEMAS, ROOT / "configs" / f"{name}.yaml", overrides)
    assert isinstance(config, G4GTraining)
    return config


def expert_form(framing: str) -> CropForm:
    return CropForm(height=96, width=96, framing=framing)


@pytest.mark.parametrize(("name", "mouth"), [("g4g-64", 64), ("g4g-128", 128), ("g4g", 256)])
def test_each_size_shows_the_same_part_of_the_frame_and_hides_its_mouth(name, mouth):
    form, full = CROPS[name], CROPS["g4g"]
    rows, columns = form.hidden_pixels
    assert (rows.stop - rows.start, columns.stop - columns.start) == (mouth, mouth)
    assert (rows.start, columns.start) == (mouth // 2, mouth // 8)
    assert form.shape == (3 * mouth // 2 + mouth // 8, mouth + mouth // 4)
    points = np.random.RandomState(0).uniform(100, 400, (478, 2))
    assert form.place(points) == full.place(points)


@torch.no_grad()
def test_one_networks_weights_fit_every_size_and_make_faces_of_it():
    state = None
    for name in SIZES:
        crop = CROPS[name]
        network = trained_like(G4GSynthesizer(G4GConfig(**SMALL, crop=crop)))
        state = network.state_dict() if state is None else state
        network.load_state_dict(state)
        references = network.encode_references(torch.rand(1, 5, 3, *crop.shape), torch.rand(1, 5, 1, 128, 128))
        frames = torch.rand(1, 1, 3, *crop.shape)
        faces = network.render(frames, references, torch.zeros(1, 1, 80, 16))
        assert isinstance(faces, torch.Tensor) and faces.shape == frames.shape
        frames[..., *crop.hidden_pixels] = 0.3
        again = network.render(frames, references, torch.zeros(1, 1, 80, 16))
        assert isinstance(again, torch.Tensor) and torch.equal(again, faces)


def test_the_three_masks_of_the_reconstruction_are_those_of_the_crop():
    """Eq. 15 at 416x320: the crop, the 256x256 mouth region and the box around the lips, counted by hand."""
    crop = CROPS["g4g"]
    true, keypoints = torch.full((1, 1, 3, *crop.shape), 0.5), torch.full((1, 1, 57, 2), 0.6)
    keypoints[..., 0] = 0.5
    wrong = true.clone()
    wrong[..., 240:260, 150:170] += 0.3  # within 0.08 of the lips at row 249.6, column 160
    box = 66 * 52  # rows 217 to 282, columns 134.4 to 185.6
    expected = 0.3 * 400 * (1 / (416 * 320) + 1 / 256**2 + 1 / box) / 3
    assert reconstruction_loss(wrong, true, keypoints, crop).item() == pytest.approx(expected, rel=0.03)
    seen = true.clone()
    seen[..., 100:120, 150:170] += 0.3  # above the mouth region
    expected = 0.3 * 400 / (416 * 320) / 3
    assert reconstruction_loss(seen, true, keypoints, crop).item() == pytest.approx(expected, rel=1e-4)


# --- the sync expert -------------------------------------------------------------------------------------------------


def test_the_expert_sees_the_same_part_of_the_face_at_every_size(tmp_path):
    """A picture of slow changes, cut by each form, gives the expert the same pixels."""
    y, x = np.mgrid[:600, :500] / 40
    frame = (128 + 50 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)).astype(np.uint8)
    points = np.random.RandomState(1).uniform(180, 320, (478, 2))
    expert = SyncExpertConfig(crop=expert_form("dinet"))
    seen = []
    for form in (expert.faces, *(CROPS[name] for name in SIZES)):
        face = crop_face(frame, form.place(points), form.shape)
        window = torch.from_numpy(face).permute(2, 0, 1)[None, None].expand(1, 5, -1, -1, -1).float() / 255
        seen.append(lower_faces(window))
    for other in seen[1:]:
        assert (other - seen[0]).abs().max() < 4 / 255
    frozen_expert(save_expert(tmp_path, expert_form("dinet")), 5, CROPS["g4g"])


def test_faces_much_larger_than_the_experts_are_averaged():
    checks = torch.from_numpy(np.indices((416, 320)).sum(axis=0) % 2).float().expand(1, 5, 3, -1, -1)
    assert (lower_faces(checks) - 0.5).abs().max() < 0.02
    faces = torch.rand(1, 5, 3, 128, 128)
    plain = F.interpolate(faces[0], (96, 96), mode="bilinear")[:, :, 48:].flip(1).flatten(0, 1)
    assert torch.equal(lower_faces(faces)[0], plain)


@pytest.mark.parametrize(
    ("framing", "crop", "named"),
    [
        ("landmark_box", CROPS["g4g"], "crop.framing=landmark_box, the synthesizer has dinet"),
        ("dinet", STSA, "crop.framing=dinet, the synthesizer has landmark_box"),
        ("dinet", CropForm(256, 256, "dinet"), "dinet faces of 208x160, the synthesizer has 256x256"),
        ("upright", CropForm(256, 192, "upright"), "upright faces of 128x128, the synthesizer has 256x192"),
    ],
)
def test_an_expert_of_another_part_of_the_face_is_refused(tmp_path, framing, crop, named):
    expert = save_expert(tmp_path, expert_form(framing))
    with pytest.raises(InputError, match=f"{named}.*; give an expert that was trained on the same framing"):
        frozen_expert(expert, 5, crop)


def test_the_objective_takes_an_expert_of_its_framing(tmp_path):
    crop = CROPS["g4g-64"]
    expert = save_expert(tmp_path, expert_form("dinet"))
    network = trained_like(G4GSynthesizer(G4GConfig(**SMALL, crop=crop)))
    random = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 5, 3, *crop.shape, generator=random)
    given = torch.rand(2, 5, 3, *crop.shape, generator=random), torch.rand(2, 5, 1, 128, 128, generator=random)
    faces, aligned = network(frames, *given, torch.randn(2, 5, 80, 16, generator=random), alignment=True)
    batch = {"frames": frames, "keypoints": torch.rand(2, 5, 57, 2), "sync_audio": torch.randn(2, 1, 80, 16)}
    terms = G4GObjective(G4GLosses(perceptual=0, gan=0), network.config, 5, str(expert))(faces, batch, None, aligned)
    sum(terms.values()).backward()
    assert terms.keys() == {"attribute", "reconstruction", "contrastive"}
    assert all(parameter.grad is not None for parameter in network.parameters())


# --- the configs and the curriculum ----------------------------------------------------------------------------------


def test_the_configs_have_the_papers_form_and_its_settings():
    """4.3: 416x320 with a mouth region of 256x256, batch 3, learning rate 1e-4."""
    for name in ("g4g", "g4g_lrs2", "g4g_mouth256"):
        config = read(name)
        assert config.model.crop == CROPS["g4g"] and config.model.width == 1 and config.model.stride == 4
        assert config.train.batch_size == 3 and config.train.learning_rate == 1e-4
        assert dataclasses.asdict(config.losses) | {"without_vgg": ""} == dataclasses.asdict(G4GLosses(without_vgg=""))
    assert [read(f"g4g_mouth{mouth}").model.crop for mouth in (64, 128, 256)] == [CROPS[name] for name in SIZES]
    steps = [read(f"g4g_mouth{mouth}").train.steps for mouth in (64, 128, 256)]
    assert sum(steps) == read("g4g").train.steps
    for mouth, before in ((128, 64), (256, 128)):
        config = read(f"g4g_mouth{mouth}")
        assert config.resize and config.start_from == f"{read(f'g4g_mouth{before}').output}/best"


def test_the_small_curriculum_changes_the_size_alone():
    first, second = read("demo_g4g"), read("demo_g4g_128")
    assert second.resize and second.start_from == f"{first.output}/best"
    assert second.model.crop.shape == (128, 128) and first.model.crop.shape == (64, 64)
    assert dataclasses.replace(second.model, crop=first.model.crop) == first.model
    assert second.losses == first.losses and second.negatives == first.negatives > 0


def test_a_run_starts_with_the_weights_of_another_size(tmp_path):
    before = save(tmp_path / "64", CROPS["g4g-64"])
    settings = [f"start_from={tmp_path / '64'}", "resize=true"]
    config = read("g4g_mouth128", *settings)
    network = starting_point(config)
    assert network.config.crop == config.model.crop == CROPS["g4g-128"]
    assert network.config == dataclasses.replace(before.config, crop=CROPS["g4g-128"])
    for name, tensor in before.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    assert isinstance(network, G4GSynthesizer) and network.mask.shape == (1, 208, 160)
    plain = starting_point(read("g4g_mouth128", settings[0], "resize=false"))
    assert plain.config.crop == CROPS["g4g-64"]  # without `resize`, the form is the checkpoint's


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["start_from="], "give start_from=FOLDER, or leave it out"),
        (["model.crop.framing=upright"], "crop.framing=upright, checkpoint .* has dinet; only height, width"),
        (["model.crop.margin=0.2"], "crop.margin=0.2, checkpoint .* has null"),
        (["model.crop.hidden=[0.1, 0.4, 0.9, 0.9]"], "crop.hidden="),
        (["model.crop.width=82"], "crop.width is 82; it must be a multiple of 4, at least 64"),
    ],
)
def test_only_the_size_can_change(tmp_path, settings, named):
    save(tmp_path / "64", CROPS["g4g-64"])
    with pytest.raises(InputError, match=named):
        starting_point(read("g4g_mouth128", f"start_from={tmp_path / '64'}", *settings))


@pytest.mark.slow
def test_the_curriculum_of_the_docs_trains_and_dubs(tmp_path):
    """The three configs one after the other, with every term but VGG's; the last checkpoint dubs at 416x320."""
    clips = write_clips(tmp_path / "clips")
    settings = ["train.steps=1", "train.save_every=1", "train.validate_every=1"]
    expert = tmp_path / "expert"
    assert run("train_sync", arguments("train_sync", clips, expert, *settings, config="g4g_sync.yaml")) == 0
    settings += [f"sync_expert={expert}", "discriminator.width=0.05", "losses.without_vgg=skip", "train.best_by=psnr"]
    settings += ["train.validation_windows=1", "train.precision=no", "model.width=0.03"]
    for mouth, before in ((64, 0), (128, 64), (256, 128)):
        start = [f"start_from={tmp_path / str(before) / 'best'}"] if before else []
        config = f"g4g_mouth{mouth}.yaml"
        command = arguments("train_face", clips, tmp_path / str(mouth), *settings, *start, config=config)
        assert run("train_face", command, RUN_LOG=str(tmp_path / "log")) == 0
        network = load_network(tmp_path / str(mouth) / "best", "g4g_synthesizer")
        assert network.config.crop == CROPS[{64: "g4g-64", 128: "g4g-128", 256: "g4g"}[mouth]]

    output, crops, panels = (tmp_path / f"{name}.mp4" for name in ("dubbed", "crops", "panels"))
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.2)
    video = write_frames(tmp_path / "video.mp4", portraits(6))
    command = [sys.executable, "inference.py", "--video", str(video), "--audio", str(sound), "--output", str(output)]
    command += ["--crop-output", str(crops), "--visualize", str(panels), "--checkpoint", str(tmp_path / "256" / "best")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert next(read_frames(crops)).shape == (416, 320, 3)
    height, width = next(read_frames(video)).shape[:2]
    assert (probe(panels).width, probe(panels).height) == panel_size(width, height, (416, 320))
    dubbed, source = (next(read_frames(path)).astype(int) for path in (output, video))
    rows, columns = np.nonzero(np.abs(dubbed - source).mean(axis=2) > 20)
    assert rows.size > 0.005 * height * width and rows.mean() > 0.45 * height
    assert abs(columns.mean() / width - 0.5) < 0.15


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_panel_keeps_the_crops_aspect_ratio():
    source, result = np.zeros((400, 600, 3), np.uint8), np.full((400, 600, 3), 9, np.uint8)
    heatmap, crop = np.full((128, 128), 0.5), np.full((416, 320, 3), 70, np.uint8)
    shown = panel(source, heatmap, crop, result)
    assert shown.shape == (400, 2 * 600 + 2 * 308, 3) and panel_size(600, 400, (416, 320)) == (1816, 400)
    assert (shown[:, 600:908] == 127).all() and (shown[:, 908:1216] == 70).all() and (shown[:, 1216:] == 9).all()
    assert panel_size(600, 400, (128, 128)) == (2 * 600 + 2 * 400, 400)


def test_a_face_at_the_frames_border_is_padded_and_not_squeezed():
    """Half of the crop lies outside of the frame: it repeats the border, and its inside keeps its scale."""
    y, x = np.mgrid[:200, :200]
    frame = np.repeat((x + y)[..., None] // 2, 3, axis=2).astype(np.uint8)
    face = crop_face(frame, Place(-80, -104, 80, 104), CROPS["g4g-128"].shape)
    np.testing.assert_array_equal(face[104:, 80:], frame[:104, :80])
    assert (face[:104, :80] == frame[0, 0]).all() and (face[:104, 100] == frame[0, 20]).all()
