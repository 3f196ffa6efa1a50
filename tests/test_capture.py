"""What dubbing records as CUDA graphs can be recorded, told without a GPU: by the operations that it consists of."""

from unittest import mock

import numpy as np
import pytest
import torch
from networks import built
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dubbing import G4GSpeaker, Speaker, StsaSpeaker
from dubbing.speaker import FaceJob
from models import G4GConfig, G4GSynthesizer

# They wait for a number from the device, which is not computed while a graph is recorded.
WAITING = ("_local_scalar_dense", "_linalg_check_errors", "nonzero", "masked_select", "unique", "equal.default")


class Recording(TorchDispatchMode):
    """Notes each operation that waits for the device, or reads a tensor that the recording neither knew nor made.

    Such a tensor comes from the host, as a list of indices does; a graph has no way to copy it.
    """

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self._alive, self._storages = list(known), {_storage(x) for x in known}
        self.faults: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        masks = "index.Tensor" in str(func) and any(x.dtype == torch.bool for x in args[1] if x is not None)
        waits = masks or any(name in str(func) for name in WAITING)
        if waits or any(_storage(x) not in self._storages for x in read):
            self.faults.append(str(func))
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self._alive += made  # so that no other tensor gets their storage
        self._storages |= {_storage(x) for x in made}
        return result


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def faults(function, *inputs: torch.Tensor, weights=()) -> list[str]:
    with torch.inference_mode(False), torch.no_grad():  # whose operations come in parts
        copies = [x.clone() for x in inputs]
        with Recording([*copies, *weights]) as recording:
            function(*copies)
    return recording.faults


def test_a_recording_tells_what_cannot_be_recorded():
    x = torch.rand(4, 3)
    assert faults(lambda x: (x + 1)[:, 1:].sum() * torch.arange(3) + torch.zeros(3), x) == []
    assert faults(lambda x: x[:, [0, 2]], x) and faults(lambda x: x * torch.tensor([1.0, 2, 3]), x)
    assert faults(lambda x: float(x.sum()), x) and faults(lambda x: torch.linalg.solve(x[:3], x[:3]), x)
    assert faults(lambda x: x[x > 0], x)


@pytest.mark.parametrize("form", ["speech", "paper"])
@pytest.mark.parametrize("other", ["paper", "released", "region"])
def test_both_networks_can_be_recorded(form, other):
    torch.manual_seed(0)
    predictor = built("heatmap_predictor", form, width=0.03, layers=1, audio="mel").eval()
    synthesizer = built("face_synthesizer", other, width=0.03).eval()
    speaker = StsaSpeaker(predictor, synthesizer, torch.device("cpu"))
    assert recorded(speaker, speaker.predictor, speaker.synthesizer) == ["_encode_frames", "_dub"]


def test_g4g_can_be_recorded():
    speaker = G4GSpeaker(G4GSynthesizer(G4GConfig(width=0.05)).eval(), torch.device("cpu"))
    assert recorded(speaker, speaker.synthesizer) == ["_dub"]


def recorded(speaker: Speaker, *networks: torch.nn.Module) -> list[str]:
    """Which functions are recorded as graphs when two faces are made; none of them may have a fault."""
    functions = []

    def run(function, *inputs):
        weights = [x for network in networks for x in (*network.parameters(), *network.buffers())]
        functions.append(function.__name__)
        assert faults(function, *inputs, weights=weights) == [], function.__name__
        return function(*inputs)

    mock.patch.object(speaker, "_run", run).start()
    random = np.random.default_rng(0)
    points = random.uniform(0.2, 0.8, (9, 131, 2)).astype(np.float32)
    crops = random.integers(0, 255, (5, 128, 128, 3)).astype(np.uint8)
    window = np.arange(speaker.window)
    jobs = [FaceJob(crops[i], window, window, points[window]) for i in range(2)]
    sound = random.normal(0, 1, (40, 80)).astype(np.float32)
    faces, _ = speaker.speak(jobs, speaker.encode(crops, points[:5]), sound, {})
    assert faces.shape == (2, 128, 128, 3)
    return functions
