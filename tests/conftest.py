"""What several test files share: where data lies, and numbers of threads."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_runs import write_clips

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    threads = min(2, os.cpu_count() or 1)
    if "PYTEST_XDIST_WORKER" in os.environ:  # of several workers each has a core
        threads = 1
        os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and papers, which are not part of the repository: $SHARED, or `shared` next to it."""
    folder = Path(os.environ.get("SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the real clips and the papers are not here ({folder}); set SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def pipeline() -> dict[str, np.ndarray]:
    """What the reference pipeline makes of three frames and of a sound; see tests/parity."""
    with np.load(ROOT / "tests" / "parity" / "pipeline.npz") as cases:
        return dict(cases)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Two drawn clips, for tests that only read them."""
    return write_clips(tmp_path_factory.mktemp("clips"))


@contextlib.contextmanager
def threads_of_libraries(count: int) -> Iterator[None]:
    """BLAS, OpenMP, torch and OpenCV compute in `count` threads; with several, denormal numbers are flushed, too.

    A process may have been left in such a state by a library, a launcher or the number of its fellow workers.
    """
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        with threadpoolctl.threadpool_limits(count):
            torch.set_num_threads(count)
            cv2.setNumThreads(count)
            torch.set_flush_denormal(count > 1)
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.fixture
def written(monkeypatch):
    """The frames of each written video by its file's name; of a file written twice, the last ones.

    Videos are compared by them: x264 does not write the same bytes twice on CPUs with AVX-512.
    """
    from media.video import VideoWriter

    frames: dict[str, list[bytes]] = {}
    write, enter = VideoWriter.write, VideoWriter.__enter__

    def entering(writer: VideoWriter) -> VideoWriter:
        frames[writer.path.name] = []
        return enter(writer)

    def writing(writer: VideoWriter, frame: np.ndarray) -> None:
        frames[writer.path.name].append(frame.tobytes())
        write(writer, frame)

    monkeypatch.setattr(VideoWriter, "__enter__", entering)
    monkeypatch.setattr(VideoWriter, "write", writing)
    return frames
