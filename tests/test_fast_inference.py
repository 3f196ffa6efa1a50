"""The form for inference computes the plain form's faces, with fewer operations."""

import copy

import numpy as np
import pytest
import torch
from networks import spoken

from benchmarks.inference import FastDubbing, Inputs, PlainDubbing, count_gflop, main, random_inputs, trained_like
from dubbing import StsaSpeaker
from dubbing.speaker import FaceJob
from extensions.region_synthesizer import RegionSynthesizerConfig
from media.errors import InputError
from media.heatmap import KEYPOINTS, ORDER, POSE
from models.checkpoint import build_network
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig
from models.fast import accelerate_inference, graphed, padded
from models.guidance import takes_landmarks
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig

FORMS = {
    "paper": FaceSynthesizerConfig(width=0.125),
    "released": FaceSynthesizerConfig.released(width=0.125),
    "paper without ReLU": FaceSynthesizerConfig(width=0.125, spade_relu=False),
    "released with ReLU": FaceSynthesizerConfig(form="released", width=0.125, spade_relu=True),
    "region": RegionSynthesizerConfig(width=0.125),
    "spatial path alone": FaceSynthesizerConfig(width=0.125, temporal=False),
    "temporal path alone": FaceSynthesizerConfig(width=0.125, spatial=False),
}


def predictor():
    return trained_like(HeatmapPredictor(HeatmapPredictorConfig(width=0.125, layers=2)))


def in_float64(inputs: Inputs) -> Inputs:
    return Inputs(*(value.double() for value in vars(inputs).values()))


@pytest.mark.slow
@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_fast_faces_are_the_plain_ones(config):
    """In float64: random weights magnify float32's rounding, which differs between processors, to some 1e-4."""
    synthesizer = trained_like(build_network("face_synthesizer", config)).double()
    fast = accelerate_inference(synthesizer)
    videos = [in_float64(random_inputs(predictor(), synthesizer, 2, seed)) for seed in range(2)]
    names = (
        "frames",
        "heatmaps",
        "audio",
        "landmarks",
        "reference_images",
        "reference_heatmaps",
        "reference_landmarks",
    )
    frames, heatmaps, audio, points, *given = (torch.cat([getattr(video, name) for video in videos]) for name in names)
    with torch.inference_mode():
        further = [points, given[2]] if takes_landmarks(synthesizer) else []
        given = given[: 2 + len(further) // 2]
        expected = synthesizer(frames, heatmaps, *given[:2], audio, *further)
        assert expected.std() > 0.05  # faces that do not depend on the weights would agree too
        for batch, times in ((slice(0, 1), 2), (slice(0, 2), 1)):  # one video's frames share its references in memory
            references = fast.encode_references(*(part[batch] for part in given))
            for _ in range(times):  # rendering leaves the references as they are
                target = frames[batch], heatmaps[batch], references, audio[batch], *(x[batch] for x in further[:1])
                faces = fast.render(*target)
                assert (faces - expected[batch]).abs().max() < 1e-10


def test_accelerating_leaves_the_network_trainable():
    synthesizer = trained_like(FaceSynthesizer(FORMS["released"]))
    before = {name: tensor.clone() for name, tensor in synthesizer.state_dict().items()}
    accelerate_inference(synthesizer)
    assert all(parameter.requires_grad for parameter in synthesizer.parameters())
    after = synthesizer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["released", "paper without ReLU"])
def test_the_fast_line_dubs_the_same_frames_for_less(form):
    networks = predictor(), trained_like(build_network("face_synthesizer", FORMS[form]))
    inputs = random_inputs(*networks, 2)
    plain, fast = PlainDubbing(*networks), FastDubbing(*networks)
    exact = [line(*(copy.deepcopy(each).double() for each in networks)) for line in (PlainDubbing, FastDubbing)]
    with torch.inference_mode():
        fast.prepare(inputs)
        assert count_gflop(lambda: fast.dub(inputs)) < 0.5 * count_gflop(lambda: plain.dub(inputs))
        exact[1].prepare(in_float64(inputs))
        expected, fast_exact = (dub.dub(in_float64(inputs)) for dub in exact)
        assert (fast_exact - expected).abs().max() < 1e-10
        # In float32, in which it runs, the fast line loses no more digits than the plain one.
        fast_error, error = ((dub.dub(inputs) - expected).abs().mean() for dub in (fast, plain))
        assert expected.std() > 0.05 and fast_error < 3 * error + 1e-7


def test_what_the_sources_own_mouth_does_is_not_seen():
    """Landmarks are given to both networks, and of the target's only those of the pose may tell them anything."""
    random = np.random.default_rng(0)
    networks = trained_like(spoken(width=0.125)), trained_like(build_network("face_synthesizer", FORMS["region"]))
    crops = random.integers(0, 255, (5, 8, 8, 3)).astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    points = random.uniform(0.2, 0.8, (5, 131, 2)).astype(np.float32)
    sound = random.normal(0, 1, (40, 80)).astype(np.float32)
    speaker = StsaSpeaker(*networks, torch.device("cpu"))
    references = speaker.encode(crops, points)

    def speak(pose: np.ndarray) -> np.ndarray:
        window = np.arange(speaker.window).clip(max=4)
        return speaker.speak([FaceJob(crops[0], window, window.astype(float), pose[window])], references, sound, {})[0]

    other, moved = points.copy(), points + np.array([0.1, 0], np.float32)
    pose = {end for edge in POSE for end in edge}  # the oval's, too, where the jaw meets it
    other[:, [point for point in KEYPOINTS if ORDER[point] not in pose]] += 0.1
    assert np.array_equal(speak(points), speak(other)) and not np.array_equal(speak(points), speak(moved))


@pytest.fixture
def speaking():
    """A function: the faces and heatmaps of five frames in batches of four, of a `StsaSpeaker` with some changes."""
    random = np.random.default_rng(0)
    face = random.uniform(0.1, 0.9, (131, 2)).astype(np.float32)
    poses = face + random.normal(0, 0.005, (5, 131, 2)).astype(np.float32)
    crops = random.integers(0, 255, (5, 8, 8, 3)).astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    features = random.normal(0, 1, (40, 80)).astype(np.float32)
    networks = predictor(), trained_like(FaceSynthesizer(FaceSynthesizerConfig(width=0.06)))

    def speak(precision: str = "float32", padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
        speaker = StsaSpeaker(*networks, torch.device("cpu"), precision, batch_size=4)
        assert speaker.padding == 0  # nothing is gained on a CPU
        speaker.padding = padding
        references = speaker.encode(crops, poses)
        windows = [np.arange(i - 2, i + 3).clip(0, 4) for i in range(5)]
        jobs = [FaceJob(crops[i], window, window.astype(float), poses[window]) for i, window in enumerate(windows)]
        known: dict = {}
        batches = (speaker.speak(jobs[i : i + 4], references, features, known) for i in (0, 4))
        parts = [[part.copy() for part in batch] for batch in batches]  # the stand-in's next call overwrites them
        faces, heatmaps = (np.concatenate(part) for part in zip(*parts, strict=True))
        return faces, heatmaps

    return speak


def test_padded_batches_run_through_a_graph_give_the_same_faces(speaking, monkeypatch):
    recorded = []

    def stand_in(run, inputs):
        """As a CUDA graph does, it reads its inputs where those of the first call lay, and overwrites its result."""
        static, output = [value.clone() for value in inputs], None
        recorded.append(run.__name__)

        def replay(*inputs):
            nonlocal output
            for target, value in zip(static, inputs, strict=True):
                target.copy_(value)
            result = run(*static)
            results = result if isinstance(result, tuple) else (result,)
            if output is None:
                output = results
            else:
                for target, value in zip(output, results, strict=True):
                    target.copy_(value)
            return output if isinstance(result, tuple) else output[0]

        return replay

    monkeypatch.setattr("dubbing.speaker.graphed", stand_in)
    (faces, heatmaps), (padded_faces, padded_heatmaps) = speaking(), speaking(padding=4)
    assert sorted(recorded) == ["_dub", "_encode_frames"]
    assert faces.shape == (5, 128, 128, 3) and heatmaps.shape == (5, 128, 128)
    assert abs(faces.astype(int) - padded_faces).max() <= 1 and abs(heatmaps - padded_heatmaps).max() < 1e-4
    assert faces.std() > 5


@pytest.mark.slow
def test_half_precision_gives_nearly_the_same_faces(speaking):
    faces, half = speaking()[0].astype(int), speaking("bf16")[0]
    assert 0 < abs(faces - half).mean() < 0.15 * faces.std()  # random weights magnify what trained ones do not


def test_fp16_is_for_cuda():
    networks = predictor(), trained_like(FaceSynthesizer(FORMS["paper"]))
    with pytest.raises(InputError, match="needs a CUDA device"):
        StsaSpeaker(*networks, torch.device("cpu"), "fp16")


def test_padding_repeats_the_last_entry():
    assert padded(torch.tensor([1, 2]), 4).tolist() == [1, 2, 2, 2]
    assert padded(torch.tensor([1, 2]), 0).tolist() == [1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_speaks_as_the_eager_networks_do():
    heatmaps, faces = predictor().cuda(), trained_like(FaceSynthesizer(FORMS["paper"])).cuda()
    fast = accelerate_inference(faces)
    first, second = (random_inputs(heatmaps, faces, 2, seed) for seed in range(2))
    references = fast.encode_references(first.reference_images.cuda(), first.reference_heatmaps.cuda())

    def render(frames, maps, sound):
        return fast.render(frames, maps, references, sound)

    with torch.inference_mode():
        batches = [[x.cuda() for x in (inputs.frames, inputs.heatmaps, inputs.audio)] for inputs in (first, second)]
        replay = graphed(render, batches[0])
        for batch in batches:
            assert (replay(*batch) - render(*batch)).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("network", [["--width", "0.125"], ["--width", "0.03", "--network", "g4g", "--crop", "g4g-64"]])
def test_the_benchmark_prints_each_form(network, capsys):
    assert main([*network, "--batch", "2", "--device", "cpu", "--seconds", "0"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cpu") and "once" not in line]
    found = [(int(line[5:12]), line[14:30].strip()) for line in lines]
    forms = ["plain", "fast"] + ["fast bf16"] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert found == [(frames, form) for frames in (1, 2) for form in forms]


def test_the_benchmark_refuses_a_config_without_networks(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("data: {}\n")
    assert main(["--config", str(config)]) == 2
    assert "has no section heatmap_predictor" in capsys.readouterr().err
