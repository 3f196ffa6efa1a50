"""Predictor and synthesizer trained together: what each is given."""

import pytest
import torch
from networks import spoken

from benchmarks.inference import trained_like
from data_prep.windows import ClipDataset
from finetune_e2e import Dubbing, first_synthesized
from media.crop import CROPS
from media.errors import InputError
from models.checkpoint import build_network, load_checkpoint, network_class, save_checkpoint
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.guidance import inputs_of
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig
from training.data import validation_batch


@pytest.mark.slow
@pytest.mark.parametrize("form", ["paper", "region"])
def test_some_windows_are_drawn_from_their_true_heatmaps(clips, form):
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2)))
    config = network_class("face_synthesizer", form).Config(width=0.125)
    synthesizer = trained_like(build_network("face_synthesizer", config))
    batch = validation_batch(ClipDataset(clips), 2)
    dubbing = Dubbing(predictor, synthesizer, 5, true_heatmaps=1.0).eval()
    with torch.no_grad():
        predicted = dubbing(batch)
        dubbing.training = True  # the networks stay as they are
        mixed = dubbing(batch)
        expected = synthesizer(*inputs_of(synthesizer, batch))
    torch.testing.assert_close(mixed[0], expected)
    assert torch.equal(mixed[3], predicted[3]) and not torch.equal(mixed[0], predicted[0])
    assert torch.equal(mixed[2], batch["landmarks"])
    assert torch.equal(predicted[2], batch["landmarks"]) == (form == "paper")  # which takes no landmarks


def test_gradients_of_the_papers_faces_reach_a_predictor_of_form_speech(clips):
    """As scripts/ablations.sh joins them: both take log-mel, and the predictor's window is longer."""
    predictor, synthesizer = trained_like(spoken()), trained_like(FaceSynthesizer(FaceSynthesizerConfig(width=0.125)))
    faces = Dubbing(predictor, synthesizer, 5)(validation_batch(ClipDataset(clips, window=9), 2))[0]
    assert faces.shape == (2, 5, 3, 128, 128)
    faces.square().mean().backward()
    trained = {name: parameter for name, parameter in predictor.named_parameters() if parameter.requires_grad}
    assert trained and all(parameter.grad is not None and parameter.grad.any() for parameter in trained.values())


def test_eq_3_sees_heatmaps_above_1_that_the_synthesizer_does_not(clips):
    predictor = trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.0625, layers=1, heads=2)))
    synthesizer = trained_like(FaceSynthesizer(FaceSynthesizerConfig(width=0.125)))
    predictor.register_forward_hook(lambda module, inputs, outputs: (outputs[0] + 1, outputs[1]))
    seen = []
    synthesizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        heatmaps = Dubbing(predictor, synthesizer, 5)(validation_batch(ClipDataset(clips), 2))[3]
    assert heatmaps.min() >= 1 and heatmaps.max() > 1.5
    assert seen[0].max() == 1


def test_the_sound_of_the_sync_loss_is_that_of_the_synthesized_frames(clips):
    """Where the predictor's window is longer than the five frames that the expert sees."""
    longer = ClipDataset(clips, window=9, references=1, sync_from=2)[(3, 0)]
    own = ClipDataset(clips, window=5, references=1)[(5, 0)]
    assert longer["start"] + 2 == own["start"] and torch.equal(longer["sync_audio"], own["sync_audio"])
    assert first_synthesized(HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1, frames=9)), 5) == 2


def test_two_networks_of_different_crops_are_refused(tmp_path):
    synthesizer = FaceSynthesizer(FaceSynthesizerConfig(width=0.03, crop=CROPS["stsa-256"]))
    predictor = HeatmapPredictor(HeatmapPredictorConfig(width=0.03, layers=1))
    networks = {"heatmap_predictor": predictor, "face_synthesizer": synthesizer}
    save_checkpoint(tmp_path, networks, {name: network.config for name, network in networks.items()})
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path)
    assert str(error.value) == (
        f"the heatmap_predictor of {tmp_path} has crop.height=128, the face_synthesizer of {tmp_path} has 256; "
        f"give two networks that were trained with the same crop"
    )
