"""A lock between processes that goes away with its holder, however that ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from edgekit_runtime.errors import BundleError


@contextmanager
def hold(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file; it stays when the lock is gone.

    Args:
        lock: The file; its directory is there.
        what: What is being changed, for the message.

    Raises:
        BundleError: If another process holds it.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(handle)
        except OSError as err:
            raise BundleError(
                f"another process is changing '{what}'", hint="Wait until it has finished."
            ) from err
        yield
    finally:
        os.close(handle)


def lock_in(cache_dir: Path, changed: Path) -> Path:
    """The lock file for a place where no other file may lie."""
    directory = cache_dir / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    key = sha256(os.fspath(changed).encode()).hexdigest()[:24]
    return directory / f"{key}.lock"


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
