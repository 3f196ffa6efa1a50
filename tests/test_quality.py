"""metrics.quality: scores as JSON, compared between runs."""

import json
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from networks import built, spoken
from training_runs import write_clips

from benchmarks.inference import trained_like
from data_prep.clips import Clip
from media.audio import audio_windows
from media.crop import STSA, CropForm
from media.face import FaceTracker
from media.heatmap import FULL_FACE, KEYPOINTS, POSE, draw_heatmaps
from media.landmarks import select131
from media.pictures import to_tensor
from media.place import crop_face
from media.references import covering_references
from media.video import read_frames
from metrics import quality
from metrics.crops import crop_scores
from models.fast import accelerate_inference


def scores(opening: float) -> dict:
    row = {"PSNR": 30.0, "SSIM": 0.9, "LipLMD": float("nan"), "keypoints": 0.02}
    return {"true heatmaps": row | {"PSNR": 33.0}, "predicted heatmaps": row, "mouth opening": {"own": opening}}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "run" / "scores.json"
    clips = {"a": scores(0.5), "b": scores(0.7)}
    path.parent.mkdir()
    quality.write_json(path, tmp_path, clips, quality.means_of(clips))
    return path


def test_scores_are_written_as_strict_json(written):
    content = json.loads(written.read_text(), parse_constant=pytest.fail)
    assert content["mean"]["mouth opening"]["own"] == pytest.approx(0.6)
    assert content["clips"]["b"]["predicted heatmaps"] == {"PSNR": 30.0, "SSIM": 0.9, "LipLMD": None, "keypoints": 0.02}


def test_runs_are_compared_a_row_each(written, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality.py", "--compare", str(written)])
    assert quality.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| run | predicted heatmaps | 30.00 | 0.9000 | - | 0.0200 |"


@pytest.mark.parametrize("content", ["", "[]", '{"mean": {}}', '{"mean": {"predicted heatmaps": {}}}'])
def test_a_file_of_something_else_is_one_line(content, tmp_path, monkeypatch, capsys):
    path = tmp_path / "scores.json"
    path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["quality.py", "--compare", str(path)])
    assert quality.main() == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --compare {path} is no file of --json") and err.count("\n") == 1


def test_the_opening_of_generated_faces_is_that_of_their_lips(shared):
    """The landmarks of the whole frame give the expected opening. Crops that show no face are interpolated."""
    crop = CropForm(height=96, width=96, framing="upright")
    true, crops = [], []
    with FaceTracker() as tracker:
        for frame in islice(read_frames(shared / "clips/val/synthetic_13.mp4"), 10, 50):
            points = tracker.find(frame)[0].landmarks
            place = crop.place(points)
            true.append(place.to_crop(select131(points))[KEYPOINTS])
            crops.append(crop_face(frame, place, crop.shape))
    faces = to_tensor(np.stack(crops))
    expected = quality.mouth_opening(np.stack(true))
    assert np.corrcoef(quality.found_opening(faces), expected)[0, 1] > 0.95
    faces[::5] = 0.5
    assert np.corrcoef(quality.found_opening(faces), expected)[0, 1] > 0.9
    faces[::2] = 0.5
    assert np.isnan(quality.found_opening(faces)).all()


def test_what_is_remembered_is_drawn_once():
    drawn = []

    def draw(positions: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        drawn.extend(positions.tolist())
        return true + positions[:, None]

    true = torch.rand(6, 3)
    form = quality.remembering(draw)
    for chosen in ([1, 2, 5], [0, 1, 2, 3], [5, 0]):
        positions = torch.tensor(chosen)
        assert torch.equal(form(positions, true[positions]), true[positions] + positions[:, None])
    assert sorted(drawn) == [0, 1, 2, 3, 5]


@pytest.mark.slow
@torch.no_grad()
def test_the_scores_are_those_of_the_networks_own_faces(tmp_path):
    predictor = trained_like(spoken())
    synthesizer = trained_like(built("face_synthesizer", "region", width=0.125))
    clip = Clip(write_clips(tmp_path, count=1) / "clip_0.safetensors")
    scores = quality.score_clip(clip, clip, predictor, accelerate_inference(synthesizer))

    chosen = covering_references(clip.landmarks)
    shown = np.setdiff1d(np.arange(len(clip)), chosen)
    full, pose = (torch.from_numpy(draw_heatmaps(clip.landmarks, edges))[None] for edges in (FULL_FACE, POSE))
    faces = quality.pictures(clip, np.arange(len(clip)))[None]
    audio = torch.from_numpy(audio_windows(clip.audio("mel"), "mel", clip.frames))[None]
    points = torch.from_numpy(clip.landmarks).float()[None]
    windows = (torch.arange(len(clip))[:, None] + torch.arange(-4, 5)).clamp(0, len(clip) - 1)
    others = points[:, chosen].expand(len(windows), -1, -1, -1)
    heatmaps, keypoints = (
        x[:, 4][None] for x in predictor(audio[0][windows], pose[0][windows], None, points[0][windows], others)
    )
    rows = {
        "true heatmaps": (full, points),
        "predicted heatmaps": (heatmaps, synthesizer.whole_faces(points, keypoints)),
    }
    for row, (guide, placed) in rows.items():
        drawn = synthesizer(faces, guide, faces[:, chosen], full[:, chosen], audio, placed, points[:, chosen])[0]
        expected = crop_scores(drawn[shown], faces[0][shown], STSA)["PSNR"].mean()
        assert scores[row]["PSNR"] == pytest.approx(float(expected), abs=1e-3)
    assert abs(scores["true heatmaps"]["PSNR"] - scores["predicted heatmaps"]["PSNR"]) > 0.01
