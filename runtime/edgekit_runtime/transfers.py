"""Several files at the same time: counted, shown, and stopped together."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

DEFAULT_JOBS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a transfer is.

    Attributes:
        done_bytes: Of its content, each content once, wherever it came from.
        total_bytes: All of its content.
        moved_bytes: What was sent or fetched.
    """

    done_bytes: int
    total_bytes: int
    moved_bytes: int


OnProgress = Callable[[Progress], None]


class OnMoved(Protocol):
    """Called with bytes that are done; ``moved`` says whether they were sent or fetched."""

    def __call__(self, n_bytes: int, /, *, moved: bool = True) -> None:
        """Count them."""
        ...


class Counter:
    """Adds up bytes from several threads, and carries the word to stop.

    Args:
        total_bytes: What there is to do.
        on_progress: Called at every step, from any thread.
    """

    def __init__(self, total_bytes: int, on_progress: OnProgress) -> None:
        self._lock = threading.Lock()
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._moved_bytes = 0
        self._on_progress = on_progress
        self.stopped = threading.Event()

    def add(self, n_bytes: int, /, *, moved: bool = True) -> None:
        """Count bytes that are done."""
        if self.stopped.is_set():
            raise StoppedError
        with self._lock:
            self._done_bytes += n_bytes
            self._moved_bytes += n_bytes if moved else 0
            progress = self.progress()
        self._on_progress(progress)

    def progress(self) -> Progress:
        """What was counted so far."""
        return Progress(
            done_bytes=self._done_bytes,
            total_bytes=self._total_bytes,
            moved_bytes=self._moved_bytes,
        )


class StoppedError(Exception):
    """Another file failed, or somebody pressed Ctrl-C."""


def run_all(tasks: Iterable[Callable[[], None]], jobs: int, counter: Counter) -> None:
    """Run tasks in parallel; the first failure, or Ctrl-C, stops the rest.

    Args:
        tasks: They count on ``counter``, which is how they are stopped.
        jobs: How many at the same time.
        counter: Told to stop.
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            counter.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
