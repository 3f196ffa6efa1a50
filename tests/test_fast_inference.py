"""The form for inference computes the plain form's faces, with fewer operations."""

import pytest
import torch

from benchmarks.inference import FastDubbing, PlainDubbing, count_gflop, main, random_inputs, trained_like
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.fast import accelerate_inference
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig

FORMS = {
    "paper": FaceSynthesizerConfig(width=0.125),
    "released": FaceSynthesizerConfig.released(width=0.125),
    "copying": FaceSynthesizerConfig(width=0.125, alignment="coarsest", copy_references=True),
    "spatial path alone": FaceSynthesizerConfig(width=0.125, temporal=False),
    "temporal path alone": FaceSynthesizerConfig(width=0.125, spatial=False),
}


def predictor():
    return trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.125, layers=2)))


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_fast_faces_are_the_plain_ones(config):
    synthesizer = trained_like(FaceSynthesizer(config))
    fast = accelerate_inference(synthesizer)
    videos = [random_inputs(predictor(), synthesizer, 2, seed) for seed in range(2)]
    frames, heatmaps, images, reference_heatmaps, audio = (
        torch.cat([getattr(video, name) for video in videos])
        for name in ("frames", "heatmaps", "reference_images", "reference_heatmaps", "audio")
    )
    with torch.inference_mode():
        expected = synthesizer(frames, heatmaps, images, reference_heatmaps, audio)
        assert expected.std() > 0.05  # faces that do not depend on the weights would agree too
        for batch, times in ((slice(0, 1), 2), (slice(0, 2), 1)):  # one video's frames share its references in memory
            references = fast.encode_references(images[batch], reference_heatmaps[batch])
            for _ in range(times):  # rendering leaves the references as they are
                faces = fast.render(frames[batch], heatmaps[batch], references, audio[batch])
                assert (faces - expected[batch]).abs().max() < 1e-4


def test_accelerating_leaves_the_network_trainable():
    synthesizer = trained_like(FaceSynthesizer(FORMS["released"]))
    before = {name: tensor.clone() for name, tensor in synthesizer.state_dict().items()}
    accelerate_inference(synthesizer)
    assert all(parameter.requires_grad for parameter in synthesizer.parameters())
    after = synthesizer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_the_fast_line_dubs_the_same_frames_for_less():
    heatmaps, faces = predictor(), trained_like(FaceSynthesizer(FORMS["released"]))
    inputs = random_inputs(heatmaps, faces, 2)
    plain, fast = PlainDubbing(heatmaps, faces), FastDubbing(heatmaps, faces)
    with torch.inference_mode():
        fast.prepare(inputs)
        assert (fast.dub(inputs) - plain.dub(inputs)).abs().max() < 1e-4
        assert count_gflop(lambda: fast.dub(inputs)) < 0.5 * count_gflop(lambda: plain.dub(inputs))


def test_the_benchmark_prints_both_forms(capsys):
    assert main(["--width", "0.125", "--batch", "2", "--device", "cpu", "--seconds", "0"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("cpu")]
    assert [row[1:3] for row in rows if row[2] in ("plain", "fast")] == [
        ["1", "plain"],
        ["1", "fast"],
        ["2", "plain"],
        ["2", "fast"],
    ]


def test_the_benchmark_refuses_a_config_without_networks(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("data: {}\n")
    assert main(["--config", str(config)]) == 2
    assert "has no section heatmap_predictor" in capsys.readouterr().err
