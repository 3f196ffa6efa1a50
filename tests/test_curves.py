"""Curves of runs: what was logged is what is drawn, resumed runs included."""

import cv2
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from media.errors import InputError
from media.files import named_paths
from metrics import curves


def log(folder, values: dict[int, float], tag: str = "val/PSNR") -> None:
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step, value in values.items():
            writer.add_scalar(tag, value, step)


def test_a_resumed_run_is_one_curve(tmp_path):
    log(tmp_path, {0: 20.0, 10: 21.0, 20: 99.0})
    log(tmp_path, {20: 22.0, 30: 23.0})  # killed after step 20 was logged, before it was saved
    steps, values = curves.scalar(tmp_path, "val/PSNR")
    np.testing.assert_array_equal(steps, [0, 10, 20, 30])
    np.testing.assert_allclose(values, [20, 21, 22, 23])


def test_each_run_is_drawn_in_each_panel(tmp_path):
    log(tmp_path / "a", {0: 1.0, 10: 2.0})
    log(tmp_path / "b", {0: 2.0, 10: 1.0})
    figure = tmp_path / "curves.png"
    runs = [f"first={tmp_path / 'a'}", str(tmp_path / "b")]
    assert curves.main([*runs, "--scalars", "val/PSNR", "val/PSNR", "--output", str(figure)]) == 0
    picture = cv2.imread(str(figure))
    height, width = picture.shape[:2]
    assert width > 2 * height
    for panel in (picture[:, : width // 2], picture[:, width // 2 :]):
        for colour in ((180, 119, 31), (14, 127, 255)):  # matplotlib's first two, as OpenCV orders them
            assert (np.abs(panel.astype(int) - colour).max(axis=2) < 20).sum() > 100


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{run}", "--scalars", "val/SSIM"], "has no scalar val/SSIM; it has val/PSNR"),
        (["{run}/absent"], "holds no TensorBoard curves"),
        (["{run}", "--output", "curves.txt"], "must end in one of"),
        (["x={run}", "x={run}"], "names x twice"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, capsys, arguments, complaint):
    log(tmp_path / "run", {0: 1.0})
    assert curves.main([argument.format(run=tmp_path / "run") for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_a_path_may_hold_an_equals_sign(tmp_path):
    odd = tmp_path / "width=1"
    odd.mkdir()
    assert named_paths("RUN", [str(odd), f"mine={odd}"]) == {"width=1": odd, "mine": odd}
    with pytest.raises(InputError, match="RUN names mine twice"):
        named_paths("RUN", ["mine=a", "mine=b"])
