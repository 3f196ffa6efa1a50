"""Runs a function over many items in several processes; if one crashes, the others continue."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from media.errors import InputError


class _Crashed:
    """The result of an item whose process died. Decoders and detectors are native code, which bad files can crash."""


CRASHED = _Crashed()


def spread(
    function: Callable[[Any], Any], items: list, workers: int, backend: str = "loky"
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, function(item)) in order of completion; CRASHED as the result of an item that kills its process.

    Args:
        function: picklable.
        workers: number of processes, this one not counted.
        backend: "loky" uses processes of this machine; "dask" those of the cluster at $DASK_SCHEDULER_ADDRESS, or of a
            local cluster if that is not set.

    Raises:
        InputError: dask is not installed. Exceptions of `function` are raised too.
    """
    if backend == "dask":
        yield from _over_dask(function, items, workers)
        return
    if workers == 1:  # joblib would use this process instead of a worker
        yield from _one_by_one(function, items)
        return
    pending = dict(enumerate(items))
    while pending:
        try:
            parallel = joblib.Parallel(
                workers, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs"
            )
            calls = [joblib.delayed(_numbered)(function, position, item) for position, item in pending.items()]
            for position, result in parallel(calls):
                yield pending.pop(position), result
        except TerminatedWorkerError:
            # joblib does not name the item, but hands items out in order, one per worker: it is one of the next.
            for position in list(pending)[:workers]:
                yield from _one_by_one(function, [pending.pop(position)])


def _numbered(function: Callable[[Any], Any], position: int, item: Any) -> tuple[int, Any]:
    return position, function(item)


def _one_by_one(function: Callable[[Any], Any], items: list) -> Iterator[tuple[Any, Any]]:
    pending = deque(items)
    while pending:
        # With SIGINT's default action a worker ends silently; this process reports the interruption.
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL)
        ) as pool:
            try:
                while pending:
                    result = pool.submit(function, pending[0]).result()
                    yield pending.popleft(), result
            except BrokenProcessPool:
                yield pending.popleft(), CRASHED


def _over_dask(function: Callable[[Any], Any], items: list, workers: int) -> Iterator[tuple[Any, Any]]:
    try:
        from dask.distributed import Client
    except ImportError:
        raise InputError("--backend dask needs dask.distributed; pip install 'dask[distributed]' or use loky") from None
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    client = Client(address) if address else Client(n_workers=workers, threads_per_worker=1, processes=True)
    with client, joblib.parallel_config(backend="dask"):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        calls = [joblib.delayed(_numbered)(function, position, item) for position, item in enumerate(items)]
        for position, result in parallel(calls):
            yield items[position], result
