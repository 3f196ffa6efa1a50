"""The distance of lips that validation reports."""

from pathlib import Path

import pytest
import torch

from media.crop import STSA
from media.face import FaceTracker
from media.place import crop_face
from media.video import read_frames
from metrics.crops import LipDistance

ROOT = Path(__file__).resolve().parent.parent


def test_lips_are_compared_where_mediapipe_finds_them(capsys):
    pytest.importorskip("mediapipe")
    with FaceTracker() as tracker:
        frame = next(iter(read_frames(ROOT / "assets/portrait.mp4")))
        crop = crop_face(frame, STSA.place(tracker.find(frame)[0].landmarks), STSA.shape)
    true = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    distance = LipDistance(true[None], STSA)
    assert distance(true) == 0
    assert distance(true.roll(6, dims=2)) == pytest.approx(6 / 128, rel=0.2)
    assert distance(torch.cat([torch.zeros_like(true[..., :64, :]), true[..., 64:, :]], dim=-2)) == 0  # dubs keep it
    black = distance(torch.zeros_like(true))
    assert black is not None and black > 0.03
    blank = LipDistance(torch.zeros_like(true)[None], STSA)
    assert blank(true) is None and blank(true) is None
    assert capsys.readouterr().out.count("LipLMD is left out") == 1


def test_without_mediapipe_the_lips_are_left_out_and_that_is_said_once(monkeypatch, capsys):
    def absent():
        raise ImportError("mediapipe")

    monkeypatch.setattr("metrics.crops.FaceTracker", absent)
    faces = torch.zeros(1, 3, 128, 128)
    distance = LipDistance(faces[None], STSA)
    assert distance(faces) is None and distance(faces) is None
    assert capsys.readouterr().out.count("MediaPipe is not installed") == 1
