"""What several test files share: where the shared data lies, and a fixed number of threads."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    threads = min(2, os.cpu_count() or 1)
    if "PYTEST_XDIST_WORKER" in os.environ:  # of several workers each has a core
        threads = 1
        os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of parity cases and clips that does not travel with the repository: $SHARED, or `shared` beside it."""
    folder = Path(os.environ.get("SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared parity cases and clips are not here ({folder}); set SHARED to their folder")
    return folder
