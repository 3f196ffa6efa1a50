"""Pipeline stages that run concurrently, and the working time of each."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()
_POLL = 0.1  # seconds between a waiting stage's checks that its reader still runs


class _Failure:
    def __init__(self, error: BaseException):
        self.error = error


def background(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield `items` in order while a separate thread produces up to `depth` of them ahead.

    An exception in `items` is raised here. If the reader stops early or fails, the thread ends and `items` is closed
    before this generator is.
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
                del item  # hold no item while the next is produced
        except BaseException as error:  # the reader raises it
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
    """Seconds that each named stage has worked, summed over threads.

    now: the time in seconds; `time.process_time` and `time.thread_time` count the processor's time instead.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = now
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += self._now() - start

    def iterate(self, stage: str, items: Iterable[T]) -> Generator[T, None, None]:
        """Yield `items`; the time until each arrives counts as work of `stage`."""
        iterator = iter(items)
        try:
            while True:
                with self.time(stage):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield cast(T, item)
                del item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
