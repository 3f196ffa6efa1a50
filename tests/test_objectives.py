"""The losses as the training scripts put them together."""

import pytest
import torch
from networks import built

from benchmarks.training import PlainSynthesizer
from losses.face import FaceLosses, FaceObjective
from losses.heatmap import HeatmapLosses, freeze_unread, heatmap_terms
from media.errors import InputError
from models.checkpoint import load_any_sync_expert
from models.face_synthesizer import Alignment, FaceSynthesizer, FaceSynthesizerConfig
from models.precision import total
from models.sync_expert import SyncExpert, SyncExpertConfig


@pytest.mark.parametrize("form", ["paper", "speech"])
@pytest.mark.parametrize(("heatmap", "points"), [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_what_no_loss_reads_is_frozen_and_nothing_else(form, heatmap, points):
    torch.manual_seed(0)
    predictor = built("heatmap_predictor", form, width=0.03, layers=1, audio="mel")
    weights = HeatmapLosses(heatmap, points, points)
    freeze_unread(predictor, weights)
    batch = {"heatmaps": torch.rand(1, 5, 1, 128, 128), "keypoints": torch.rand(1, 5, 57, 2)}
    sound, references = torch.randn(1, 5, 80, 16), torch.rand(1, 2, 1, 128, 128)
    landmarks = torch.rand(1, 5, 131, 2), torch.rand(1, 2, 131, 2)
    inputs = sound, batch["heatmaps"], references, *landmarks
    predicted, keypoints = predictor(*inputs[: len(predictor.inputs)])
    total(heatmap_terms(predicted, keypoints, batch, weights).values()).backward()
    for name, parameter in predictor.named_parameters():  # one is fitted in closed form and always frozen
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_the_sync_loss_takes_wav2lips_file(tmp_path):
    config = SyncExpertConfig.released()
    names = SyncExpert(config).state_dict()
    renamed = {name.replace(".conv.", ".conv_block.0.").replace(".norm.", ".conv_block.1."): name for name in names}
    torch.save({"state_dict": {theirs: names[own] for theirs, own in renamed.items()}}, tmp_path / "expert.pth")
    weights = FaceLosses(perceptual=0, gan=0, feature=0, mutual_information=0)
    objective = FaceObjective(weights, FaceSynthesizerConfig(), 5, str(tmp_path / "expert.pth"))
    assert objective.expert is not None
    assert torch.equal(objective.expert.state_dict()["face_encoder.0.conv.weight"], names["face_encoder.0.conv.weight"])
    with pytest.raises(InputError, match="is not Wav2Lip's expert"):
        torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
        load_any_sync_expert(tmp_path / "other.pth")


def test_without_vgg_the_config_says_whether_a_run_stops(monkeypatch):
    monkeypatch.setattr("losses.perceptual.fetch.available", lambda name: False)
    batch = {"frames": torch.rand(1, 1, 3, 32, 32)}
    faces = torch.rand(1, 1, 3, 32, 32)
    said: list[str] = []

    def terms(**options) -> dict:
        weights = FaceLosses(gan=0, feature=0, sync=0, mutual_information=0, **options)
        objective = FaceObjective(weights, FaceSynthesizerConfig(), 1, "", said.append)
        return objective(faces, batch, None, Alignment(None, None))

    assert terms(without_vgg="skip") == {} and "checkpoints.fetch vgg19" in said[0]
    with pytest.raises(InputError, match="use stop or skip"):
        terms(without_vgg="random")


def test_the_plain_forward_computes_the_same_faces():
    torch.manual_seed(0)
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, references=2)).double().eval()
    for parameter in synthesizer.parameters():  # no head starts at zero
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    shapes = [(1, 1, 3, 128, 128), (1, 1, 1, 128, 128), (1, 2, 3, 128, 128), (1, 2, 1, 128, 128), (1, 1, 80, 16)]
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    with torch.no_grad():
        assert torch.allclose(synthesizer(*inputs), PlainSynthesizer(synthesizer).eval()(*inputs), rtol=0, atol=1e-10)
