"""A process that does dangerous work again and again, and is replaced where it dies or hangs."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import EdgekitRuntimeError

RAW: Final = "not a clean error:\n"
MOST_BYTES: Final = 8 * 2**30  # of address space

Work = Callable[[Path], object]


def _outcome(work: Work, path: Path) -> str:
    """The error that somebody gets, or nothing, or what was no clean error."""
    try:
        work(path)
    except EdgekitRuntimeError as err:
        return str(err)
    except Exception:
        return RAW + traceback.format_exc()
    return ""


def _run(work: Work, requests: Connection) -> None:
    """Work until told to end."""
    import resource  # not there on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    while path := requests.recv():
        requests.send(_outcome(work, path))


class Child:
    """A process that works; a new one where the last one died."""

    def __init__(self, work: Work, longest_s: float) -> None:
        self.work, self.longest_s = work, longest_s
        self.n_deaths = self.n_hangs = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.requests, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(self.work, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, path: Path) -> str | None:
        """The error that the work ends with there, if any; None where the process died or hung."""
        self.requests.send(path)
        try:
            if self.requests.poll(self.longest_s):
                return str(self.requests.recv())
            self.n_hangs += 1
        except (EOFError, ConnectionError):
            self.n_deaths += 1
        self.end()
        self._start()
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.requests.close()


@contextmanager
def child_process(work: Work, longest_s: float) -> Iterator[Child]:
    one = Child(work, longest_s)
    try:
        yield one
    finally:
        one.end()
