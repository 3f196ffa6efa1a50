"""Peak memory, of this process or of a GPU."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_PEAK = Path("/proc/self/clear_refs")  # Linux: writing 5 resets the process's peak


def reset_peak(device: torch.device) -> None:
    """Reset the peak of PyTorch's memory on a GPU, else of this process's memory if the system supports it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _PEAK.write_text("5")


def peak_memory(device: torch.device | None = None) -> float:
    """Peak in MiB since `reset_peak`, or since the start if the system cannot reset it; None: of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, else kB
