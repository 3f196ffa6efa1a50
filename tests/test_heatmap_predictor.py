"""The guidance prediction network against the released one, its fast form against the plain one, its options."""

from typing import Any

import numpy as np
import pytest
import torch
from networks import built
from parity_cases import parity_case
from torch.testing import assert_close

from losses.semantic import frame_distance
from media.heatmap import FULL_FACE, ORDER, POSE, draw_heatmap
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig, released_state

FEATURES = {"mel": (80, 16), "wav2vec2": (768, 10)}


def released_predictor(state) -> HeatmapPredictor:
    """The network with the released file's weights, in float64."""
    predictor = HeatmapPredictor(HeatmapPredictorConfig.released())
    predictor.load_state_dict(released_state(state))
    return predictor.double().eval()


def small_predictor(form="paper", **options) -> Any:
    torch.manual_seed(0)
    return built("heatmap_predictor", form, width=0.125, layers=2, **options)


def random_inputs(audio="mel", batch=2, frames=3, references=2):
    torch.manual_seed(1)
    pose = torch.rand(batch, frames, 1, 128, 128) ** 8
    reference_heatmaps = torch.rand(batch, references, 1, 128, 128) ** 8
    return torch.randn(batch, frames, *FEATURES[audio]), pose, reference_heatmaps


@torch.no_grad()
def settle_statistics(predictor: Any) -> Any:
    """Give the batch norms running statistics of data, as training does, and return the predictor in eval mode."""
    for _ in range(20):
        predictor.train()(*random_inputs())
    return predictor.eval()


@pytest.mark.slow
@torch.no_grad()
def test_released_weights_give_the_released_networks_outputs():
    state, inputs, expected = parity_case("stsa_heatmap")
    heatmaps, landmarks = released_predictor(state)(inputs["audio"], inputs["pose"], inputs["reference"])
    assert_close(heatmaps, expected["heatmaps"], atol=1e-5, rtol=0)
    assert_close(landmarks, expected["landmarks"].mT, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_samples_of_a_batch_do_not_touch_each_other():
    state, inputs, _ = parity_case("stsa_heatmap", seed=7)
    predictor = released_predictor({f"module.{name}": tensor for name, tensor in state.items()})
    batched = predictor(inputs["audio"], inputs["pose"], inputs["reference"])
    alone = predictor(inputs["audio"][1:], inputs["pose"][1:], inputs["reference"][1:])
    for output, single in zip(batched, alone, strict=True):
        assert output.std() > 0.1
        assert_close(output[1:], single, atol=1e-10, rtol=0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("form", ["released", "paper"])
def test_predict_centre_is_forward_without_the_other_frames(form):
    state, inputs, _ = parity_case("stsa_heatmap", seed=3)
    predictor = released_predictor(state) if form == "released" else settle_statistics(small_predictor()).double()
    audio, pose = torch.cat(list(inputs["audio"][:, :4])), torch.cat(list(inputs["pose"][:, :4]))  # a video of 8 frames
    audio = audio if form == "released" else torch.randn(8, 80, 16, dtype=torch.float64)
    references = inputs["reference"][:1]
    windows = (torch.arange(8)[:, None] + torch.arange(-2, 3)).clamp(0, 7)
    expected, landmarks = predictor(audio[windows], pose[windows], references.expand(8, -1, -1, -1, -1))
    encoded = predictor.encode_frames(audio, pose)[windows], predictor.encode_references(references)
    heatmaps, keypoints = predictor.predict_centre(*encoded, pose, keypoints=True)
    assert heatmaps.shape == pose.shape
    assert_close(heatmaps, expected[:, 2], atol=1e-10, rtol=0)
    assert_close(keypoints, landmarks[:, 2], atol=1e-10, rtol=0)


@pytest.mark.parametrize("missing", ["mel_encoder.4.conv_block.0.weight", "fusion_transformer.modality.weight"])
def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(missing):
    state, _, _ = parity_case("stsa_heatmap")
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        released_state(state)


def test_tensors_that_the_network_does_not_use_may_be_absent_or_more():
    state, _, _ = parity_case("stsa_heatmap")
    state = {name: tensor for name, tensor in state.items() if "message_j2l" not in name and not name.endswith(".pe")}
    state["optimizer_step"] = torch.tensor(1)
    released_predictor(state)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keypoint_shortcut": True, "pose_messages": True},
        {"form": "released", "audio": "wav2vec2"},
    ],
)
def test_narrow_networks_give_the_contracts_shapes_and_train_every_parameter(options):
    predictor = small_predictor(**options).train()
    heatmaps, landmarks = predictor(*random_inputs(predictor.config.audio))
    assert heatmaps.shape == (2, 3, 1, 128, 128)
    assert landmarks.shape == (2, 3, 57, 2)
    (heatmaps.square().sum() + landmarks.square().sum()).backward()
    assert not [name for name, p in predictor.named_parameters() if p.grad is None or not p.grad.any()]


@torch.no_grad()
def test_the_papers_form_adds_the_pose_heatmap():
    paper = settle_statistics(small_predictor())
    parts, inputs = [], random_inputs()
    paper.decoder.register_forward_hook(lambda module, inputs, outputs: parts.append(outputs[0] + outputs[1]))
    heatmaps = paper(*inputs)[0]
    assert_close(heatmaps, parts[0].unflatten(0, (2, 3)) + inputs[1])


@torch.no_grad()
def test_the_released_form_shares_one_message_layer_and_leaves_the_pose_heatmap_out():
    options = {"keypoint_shortcut": True, "pose_messages": True}
    paper = settle_statistics(small_predictor(**options))
    released = small_predictor(form="released", **options).eval()
    state = paper.state_dict()
    released.load_state_dict({name: tensor for name, tensor in state.items() if "jaw_to_lip" not in name})
    inputs = random_inputs()
    assert not torch.allclose(paper(*inputs)[0], released(*inputs)[0] + inputs[1], atol=1e-3)
    paper.decoder.jaw_to_lip.load_state_dict(paper.decoder.lip_to_jaw.state_dict())
    heatmaps, landmarks = paper(*inputs)
    expected, keypoints = released(*inputs)
    assert_close((heatmaps, landmarks), (expected + inputs[1], keypoints))


@pytest.mark.slow
@torch.no_grad()
@torch.no_grad()
def test_untrained_keypoints_lie_near_the_middle_of_the_crop():
    keypoints = small_predictor()(*random_inputs())[1]
    assert_close(keypoints, torch.full_like(keypoints, 0.5), atol=0.25, rtol=0)


def test_the_papers_keypoints_are_read_off_the_heatmaps_alone():
    """Heatmaps that stay where the tokens change: with the shortcut, keypoints of other tokens are others."""
    for options, follows in (({}, False), ({"keypoint_shortcut": True}, True), ({"form": "released"}, True)):
        predictor = settle_statistics(small_predictor(**options))
        heatmap = torch.rand(6, 1, 128, 128)
        predictor.decoder.register_forward_hook(lambda module, inputs, outputs, still=heatmap: (still, still))
        inputs = random_inputs()
        keypoints, others = (predictor(audio, *inputs[1:])[1] for audio in (inputs[0], inputs[0].flip(0)))
        assert torch.allclose(keypoints, others, atol=1e-5) != follows


@pytest.mark.slow
@torch.no_grad()
def test_the_papers_decoder_takes_tokens_alone():
    for options, takes in (({}, False), ({"pose_messages": True}, True), ({"form": "released"}, True)):
        decoder = settle_statistics(small_predictor(**options)).decoder
        lip, jaw = torch.randn(2, 2, 64)
        poses = torch.rand(2, 2, 1, 128, 128)
        first, second = (torch.cat(decoder(lip, jaw, pose)) for pose in poses)
        assert torch.equal(first, second) != takes


@torch.no_grad()
def test_frames_speech_pose_and_references_all_reach_the_output():
    predictor = settle_statistics(small_predictor())
    inputs = random_inputs()
    before = predictor(*inputs)[0]
    for i, changed in enumerate(inputs[:3]):
        others = list(inputs)
        others[i] = changed.flip(0)
        assert not torch.allclose(predictor(*others)[0], before, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": "mfcc"}, "mel, wav2vec2"),
        ({"form": "drawn"}, "give paper or released"),
        ({"heads": 5}, "5 heads"),
    ],
)
def test_an_impossible_config_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HeatmapPredictor(HeatmapPredictorConfig(**options))


def test_training_draws_what_the_pose_heatmap_lacks():
    """The output layer (batch norm, ReLU, tanh of one channel) starts alive and learns in few steps."""
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    points = rng.uniform(0.1, 0.9, (len(ORDER), 2)).astype(np.float32)
    pose = torch.from_numpy(draw_heatmap(points, POSE)).expand(2, 2, 1, -1, -1)
    target = torch.from_numpy(draw_heatmap(points, FULL_FACE)).expand(2, 2, 1, -1, -1)
    audio, references = torch.randn(2, 2, 80, 16), target
    predictor = small_predictor().train()
    optimizer = torch.optim.Adam(predictor.parameters(), 3e-3)
    for _ in range(10):
        loss = frame_distance(predictor(audio, pose, references)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.8 * frame_distance(pose, target)
