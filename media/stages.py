"""Stages of a pipeline that overlap, and how long each of them works."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
_END = object()
_POLL = 0.1  # seconds after which a waiting stage looks whether it is still wanted


class _Failure:
    def __init__(self, error: BaseException):
        self.error = error


def background(items: Iterable[T], depth: int) -> Iterator[T]:
    """Give `items` in their order while a thread of its own makes up to `depth` of them ahead.

    An exception in `items` is raised here. When the reader stops early, or fails, the thread ends and `items` is
    closed before this generator is.
    """
    queue: Queue = Queue(max(1, depth))
    unwanted = threading.Event()

    def put(item) -> bool:
        while not unwanted.is_set():
            with contextlib.suppress(Full):
                queue.put(item, timeout=_POLL)
                return True
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put(item):
                    break
                del item  # nothing is held while the next is made
        except BaseException as error:  # whatever it is, it belongs to the reader
            put(_Failure(error))
        else:
            put(_END)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
            del item
    finally:
        unwanted.set()
        with contextlib.suppress(Empty):
            while True:
                queue.get_nowait()
        thread.join()


class Clock:
    """Seconds that each named stage has worked, added up over threads."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def iterate(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Give `items`, counting the time that each takes to come as work of `stage`."""
        iterator = iter(items)
        try:
            while True:
                with self.time(stage):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield item
                del item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
