"""Watch every write of the runtime's file layer: count them, stop at one, or keep them all.

As a program it updates an installation and is killed at a given write:
``python -m tests.runtime.disk_recorder OLD_INSTALLATION NEW_BUNDLE KILL_AT``.
"""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from edgekit_runtime import disk

# What the layer consists of; everything else in it is made of these.
PRIMITIVES = (
    "open_writer", "make_directory", "flush", "rename", "link", "remove", "remove_directory",
)  # fmt: skip
Seen = Callable[[tuple[Any, ...]], None]


class Writer:
    """A file that tells of its writes before it makes them."""

    def __init__(self, file: BinaryIO, path: Path, start: int, seen: Seen) -> None:
        self._file = file
        self._path = path
        self._at = start
        self._seen = seen

    def write(self, data: bytes) -> int:
        self._seen(("write", self._path, self._at, bytes(data), self._file))
        self._at += len(data)
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


inside = threading.local()


@contextmanager
def watched(seen: Seen) -> Iterator[None]:
    """Call ``seen`` before every primitive, with its name and arguments."""
    lock = threading.RLock()

    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(disk, name)

        @functools.wraps(original)
        def call(*arguments: Any, **options: Any) -> Any:
            with lock:  # the record's order is the order of what happened
                seen((name, *arguments, *options.values()))
                inside.depth = getattr(inside, "depth", 0) + 1
                try:
                    found = original(*arguments, **options)
                finally:
                    inside.depth -= 1
            if name == "open_writer":
                return Writer(found, arguments[0], options.get("start", 0), seen)
            return found

        return call

    with mock.patch.multiple(disk, **{name: wrap(name) for name in PRIMITIVES}):
        yield


def kill_at(number: int) -> Seen:
    """Kill this process at its nth write; in the middle of it, where it is one of bytes."""
    count = 0

    def seen(event: tuple[Any, ...]) -> None:
        nonlocal count
        count += 1
        if count == number:
            if event[0] == "write":
                event[4].write(event[3][: len(event[3]) // 2])
                event[4].flush()
            os.kill(os.getpid(), signal.SIGKILL)

    return seen


def _main() -> None:
    from edgekit_runtime.installing import install, rollback
    from edgekit_runtime.sources import DirectorySource

    root, bundle, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    steps = 0
    kill = kill_at(number)

    def seen(event: tuple[Any, ...]) -> None:
        nonlocal steps
        steps += 1
        kill(event)

    with watched(seen):
        install(DirectorySource(bundle), root, health=lambda _: ())
        rollback(root)
    print(steps)


if __name__ == "__main__":
    _main()
