"""L_mi, STSA eq. 7: what its estimate can reach, and which frames it compares."""

import math
import multiprocessing
import os
import socket

import pytest
import torch
from conftest import threads_of_libraries
from torch import nn

from losses.mutual_information import StepInformation, gathered, mutual_information_loss
from models.face_synthesizer import FaceSynthesizer, FaceSynthesizerConfig, MutualInformation
from models.modulation import AdaInNorm
from models.spatial import AdaAT


@pytest.mark.parametrize(("rate", "missing"), [(1e-4, 1.0), (1e-3, 0.1)])
def test_separable_features_take_the_estimate_to_its_bound_and_not_beyond(rate, missing):
    """Every E^spa tells its E^tem, and the bound is ln M = 2.5. A cyclic turn of the batch reaches 5.9 and 2140 nats in
    the same steps, one random permutation a step 3.7 and 73."""
    torch.manual_seed(0)
    frames, channels, steps = 12, 16, 1500
    network = MutualInformation([channels], channels)
    adam = torch.optim.Adam(network.parameters(), rate, fused=True)
    losses = []
    with threads_of_libraries(1):  # of such small sums, several threads are slower, and ten times so on a busy machine
        for x in torch.randn(steps, frames, channels, 1, 1):
            [embeddings] = network.embeddings([x], [x])
            loss = mutual_information_loss(network.score(*embeddings))
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.detach())
    assert torch.stack(losses).min() > -math.log(frames) - 1e-4
    assert torch.stack(losses[-200:]).mean() < missing - math.log(frames)


def test_every_frame_meets_every_other_one_and_itself():
    torch.manual_seed(0)
    network = MutualInformation([4], 4).double()
    e_spa, e_tem = torch.randn(2, 4).double(), torch.randn(3, 4).double()
    joint, marginal = network.score(e_spa, e_tem)
    pairs = torch.stack([torch.stack([torch.cat([a, b]) for b in e_tem]) for a in e_spa])
    torch.testing.assert_close(marginal, network.statistics(pairs)[..., 0])
    torch.testing.assert_close(joint, marginal.diagonal())


def test_weights_begin_as_the_authors_do():
    torch.manual_seed(0)
    network = FaceSynthesizer(FaceSynthesizerConfig(width=0.25, mutual_information=True))
    assert network.mutual_information is not None
    linear = [layer for layer in network.mutual_information.statistics if isinstance(layer, nn.Linear)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in linear])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.1)
    assert not any(layer.bias.any() for layer in linear)
    others = [module.shared for module in network.modules() if isinstance(module, (AdaAT, AdaInNorm))]
    others += [module.gamma_beta for module in network.modules() if isinstance(module, AdaInNorm)]
    for layer in others:
        largest = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.9 * largest < layer.weight.abs().max() <= largest


def test_a_part_meets_the_steps_earlier_parts_without_a_gradient():
    torch.manual_seed(0)
    network = MutualInformation([4], 4)
    information = StepInformation(network)
    noise = [torch.randn(6, 4, requires_grad=True) for _ in range(4)]
    parts = [[(noise[0], noise[1])], [(noise[2], noise[3])]]
    for part in parts:
        information(part, frames=3)
    values = information.values()
    assert values["mutual_information/ln_frames"] == pytest.approx((math.log(6) + math.log(12)) / 2)
    assert values["mutual_information/ln_windows"] == pytest.approx((math.log(2) + math.log(4)) / 2)

    information.begin()
    assert information.values() == {}
    first = information(parts[0], frames=3)
    assert first == mutual_information_loss(network.score(*parts[0][0]))  # the step before is forgotten
    second = information(parts[1], frames=3)
    (e_spa, e_tem), earlier = parts[1][0], parts[0][0][1]
    assert second == mutual_information_loss(network.score(e_spa, torch.cat([e_tem, earlier])))
    second.backward()
    assert e_spa.grad is not None and e_tem.grad is not None
    assert e_spa.grad.any() and e_tem.grad.any() and earlier.grad is None
    assert float(values["mutual_information/estimate"]) == pytest.approx(-float((first + second).detach()) / 2)


def _process(rank: int, port: str, embeddings: list, queue: multiprocessing.Queue) -> None:
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"})
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    network = MutualInformation([4], 4).double()
    e_spa, e_tem = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in embeddings)
    information = StepInformation(network)
    loss = information([(e_spa, e_tem)], frames=1)
    loss.backward()
    frames = math.exp(information.values()["mutual_information/ln_frames"])
    assert e_spa.grad is not None and e_tem.grad is not None
    queue.put((rank, loss.item(), frames, e_spa.grad.tolist(), e_tem.grad.tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_compare_the_frames_of_both_and_share_the_gradient():
    torch.manual_seed(0)
    e_spa, e_tem = torch.randn(2, 2, 3, 4).double().unbind()  # of two processes with 3 frames each
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    shares = [(e_spa[i].tolist(), e_tem[i].tolist()) for i in range(2)]
    processes = [context.Process(target=_process, args=(i, port, shares[i], queue)) for i in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()

    torch.manual_seed(0)
    network = MutualInformation([4], 4).double()
    e_spa.requires_grad_(True), e_tem.requires_grad_(True)
    losses = [mutual_information_loss(network.score(e_spa[i], torch.cat([e_tem[i], e_tem[1 - i]]))) for i in range(2)]
    torch.stack(losses).sum().backward()
    assert e_spa.grad is not None and e_tem.grad is not None
    for rank, loss, frames, of_spa, of_tem in found:
        assert loss == pytest.approx(losses[rank].item()) and frames == pytest.approx(6)
        torch.testing.assert_close(torch.tensor(of_spa, dtype=torch.float64), e_spa.grad[rank])
        torch.testing.assert_close(torch.tensor(of_tem, dtype=torch.float64), e_tem.grad[rank])
    x = torch.zeros(1, 1, 1)
    assert gathered(x) is x  # of one process
