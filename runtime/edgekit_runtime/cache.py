"""What was kept to save time later: how much it is, and what may go.

Everything below the cache directories can be made again, chat histories aside.
"""

import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime import disk
from edgekit_runtime.errors import BundleError
from edgekit_runtime.process_lock import hold

_DAY_S = 86_400
# Empty files that only their holders may judge.
_LOCKS = "locks"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One thing in a cache.

    Attributes:
        kind: The folder that it lies in, e.g. ``exports``.
        path: A file or directory.
        size_bytes: All of it.
        age_days: Since it was last written to.
    """

    kind: str
    path: Path
    size_bytes: int
    age_days: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "age_days": round(self.age_days, 1),
        }


def cache_entries(roots: Iterable[Path]) -> list[CacheEntry]:
    """What lies in some cache directories, the largest first; locks are left out."""
    found = [_entry(kind, path) for root in roots for kind, path in _things(root)]
    return sorted(found, key=lambda entry: (-entry.size_bytes, str(entry.path)))


def prune(
    entries: Iterable[CacheEntry],
    *,
    older_than_days: float,
    on_kept: Callable[[CacheEntry], None] = lambda _: None,
) -> list[CacheEntry]:
    """Remove what is old; what another process is making or reading stays.

    Args:
        entries: What may go.
        older_than_days: Younger ones stay.
        on_kept: Called with each that is in use.

    Returns:
        What was removed.
    """
    removed = []
    for entry in entries:
        if entry.age_days < older_than_days:
            continue
        try:
            _remove(entry.path)
        except (OSError, BundleError):
            on_kept(entry)
        else:
            removed.append(entry)
    return removed


def _things(root: Path) -> Iterator[tuple[str, Path]]:
    """Files and folders one level down, by the name of their folder."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir() or folder.name == _LOCKS or folder.is_symlink():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix != ".lock":
                yield folder.name, path


def _entry(kind: str, path: Path) -> CacheEntry:
    is_folder = path.is_dir() and not path.is_symlink()
    files = [path, *path.rglob("*")] if is_folder else [path]
    states = [file.lstat() for file in files]
    return CacheEntry(
        kind=kind,
        path=path,
        size_bytes=sum(state.st_size for state in states if not stat.S_ISDIR(state.st_mode)),
        age_days=(time.time() - max(state.st_mtime for state in states)) / _DAY_S,
    )


def _remove(path: Path) -> None:
    """Remove a thing; where it has a lock beside it, only while nobody holds that."""
    lock = path.with_suffix(".lock")
    if not lock.exists():
        disk.remove_tree(path)
        return
    with hold(lock, str(path)):
        disk.remove_tree(path)
