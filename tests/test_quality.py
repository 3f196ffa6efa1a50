"""metrics.quality: scores as JSON, compared between runs."""

import json
import sys

import pytest

from metrics import quality


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
