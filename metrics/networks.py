"""The pretrained networks that metrics need."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from checkpoints import fetch
from media.errors import InputError
from metrics.fid import load_inception
from metrics.fvd import load_i3d
from metrics.identity import load_arcface
from metrics.motion import load_raft
from metrics.perceptual import load_lpips
from metrics.tables import METRICS
from models.checkpoint import load_syncnet

WEIGHTS = {
    "lpips": "lpips",
    "fid": "fid",
    "fvd": "i3d",
    "csim": "arcface",
    "lse_d": "syncnet",
    "lse_c": "syncnet",
    "dme": "raft",
}
_LOAD: dict[str, Callable[[Path], nn.Module]] = {
    "lpips": load_lpips,
    "fid": load_inception,
    "i3d": load_i3d,
    "arcface": load_arcface,
    "syncnet": load_syncnet,
    "raft": load_raft,
}


def load_networks(metrics: Sequence[str], device: str = "cpu") -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Load the pretrained networks that `metrics` need.

    Returns:
        Networks by their name in the weights' manifest, and metric -> footnote for metrics that cannot be computed. The
        footnote names the missing file, its URL and the command that fetches it, or the missing package.

    Raises:
        InputError: a file does not hold the network that it should.
    """
    networks: dict[str, nn.Module] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(WEIGHTS[metric] for metric in metrics if metric in WEIGHTS):
        users = [metric for metric in metrics if WEIGHTS.get(metric) == name]
        try:
            path = fetch.require(name, ", ".join(METRICS[metric].label for metric in users))
        except InputError as missing:
            absent |= dict.fromkeys(users, str(missing))
            continue
        try:
            networks[name] = _LOAD[name](path).to(device)
        except ImportError as missing:
            absent |= dict.fromkeys(users, f"{missing}; run `pip install -r requirements.txt`")
    return networks, absent
