"""The two SyncNets against the published ones."""

import cv2
import numpy as np
import pytest
import torch
from parity_cases import parity_case
from torch.testing import assert_close

from models import chung_syncnet, sync_expert
from models.chung_syncnet import ChungSyncNet
from models.sync_expert import SyncExpert, SyncExpertConfig, lower_faces


@torch.no_grad()
def test_sync_expert_is_wav2lips():
    state, inputs, expected = parity_case("wav2lip_syncnet")
    expert = SyncExpert(SyncExpertConfig.released()).double().eval()
    expert.load_state_dict(sync_expert.released_state({f"module.{name}": value for name, value in state.items()}))
    audio, face = expert(inputs["mel"], inputs["lower_faces"])
    assert_close(audio, expected["audio"], atol=1e-5, rtol=0)
    assert_close(face, expected["face"], atol=1e-5, rtol=0)
    assert_close(audio.norm(dim=1), torch.ones(2, dtype=torch.float64))


@torch.no_grad()
def test_chung_syncnet_is_the_published_one():
    state, inputs, expected = parity_case("chung_syncnet")
    network = ChungSyncNet().double().eval()
    network.load_state_dict(chung_syncnet.released_state(state))
    assert_close(network.audio(inputs["mfcc"]), expected["audio"], atol=1e-5, rtol=0)
    assert_close(network.video(inputs["lips"]), expected["lips"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("case", "module", "missing"),
    [
        ("wav2lip_syncnet", sync_expert, "face_encoder.3.conv_block.1.running_mean"),
        ("chung_syncnet", chung_syncnet, "netcnnlip.4.weight"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(case, module, missing):
    state, _, _ = parity_case(case)
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        module.released_state(state)


def test_a_narrow_expert_trains_every_parameter():
    torch.manual_seed(0)
    expert = SyncExpert(SyncExpertConfig(width=0.125))
    audio, face = expert(torch.randn(4, 1, 80, 16), torch.rand(4, 15, 48, 96))
    assert audio.shape == face.shape == (4, 64)
    (audio * face).sum().backward()
    untouched = [name for name, p in expert.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untouched


@pytest.mark.parametrize("size", [96, 128])
def test_lower_faces_are_wav2lips_bgr_crops(size):
    rng = np.random.RandomState(0)
    frames = rng.random_sample((2, 5, size, size, 3)).astype(np.float32)
    windows = []
    for clip in frames:
        bgr = [cv2.resize(frame[..., ::-1], (96, 96))[48:] for frame in clip]
        windows.append(np.concatenate(bgr, axis=2).transpose(2, 0, 1))
    made = lower_faces(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
    assert_close(made, torch.from_numpy(np.stack(windows)), atol=1e-4, rtol=0)


def test_lower_faces_pass_gradients_to_the_lower_half_only():
    frames = torch.rand(1, 5, 3, 128, 128, requires_grad=True)
    lower_faces(frames).sum().backward()
    assert frames.grad is not None and frames.grad[..., 66:, :].any()
    assert not frames.grad[..., :62, :].any()
