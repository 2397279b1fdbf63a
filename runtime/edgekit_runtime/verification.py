"""Checks a bundle's files against its manifest: links, sizes, digests, strangers."""

import json
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.installation import current_version
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest
from edgekit_runtime.strict_json import loads

SIGNATURE_NAME = "manifest.sig"
_REPARSE_POINT = 0x400  # Windows: junctions and links
_log = logging.getLogger(__name__)


def verify_bundle(root: Path) -> list[str]:
    """Name every problem of the bundle at ``root``, be it ever so broken; empty if sound.

    Of an installation, the current version is meant.
    """
    try:
        root = current_version(root)
        manifest = Manifest.from_bytes((root / MANIFEST_NAME).read_bytes())
    except OSError as err:
        return [f"{MANIFEST_NAME}: {err.strerror}"]
    except EdgekitRuntimeError as err:
        return [err.what, *(f"{MANIFEST_NAME}: {problem}" for problem in err.problems)]
    sizes = size_problems(root, manifest.files)
    broken = {problem.partition(":")[0] for problem in sizes}
    sound = [record for record in manifest.files if record.path not in broken]
    return sorted([*sizes, *digest_problems(root, sound), *_strangers(root, manifest)])


def size_problems(root: Path, records: Iterable[FileRecord]) -> list[str]:
    """Name files that are missing, of another size, or reached through a link."""
    found = []
    for record in records:
        if problem := _place_problem(root, record.path):
            found.append(f"{record.path}: {problem}")
        elif (size := (root / record.path).stat().st_size) != record.size_bytes:
            found.append(f"{record.path}: expected {record.size_bytes} bytes, got {size}")
    return found


def digest_problems(root: Path, records: Iterable[FileRecord]) -> list[str]:
    """Name files whose content was changed."""
    return [
        f"{record.path}: expected {record.digest}, got {digest}"
        for record in records
        if (digest := sha256_of_file(root / record.path)) != record.digest
    ]


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link or junction itself."""
    status = path.lstat()
    attributes = getattr(status, "st_file_attributes", 0)
    return stat.S_ISLNK(status.st_mode) or bool(attributes & _REPARSE_POINT)


def _place_problem(root: Path, path: str) -> str | None:
    """Say what keeps a path from being a plain file inside the bundle."""
    here = root
    for part in path.split("/"):
        here = here / part
        try:
            if is_link(here):
                return f"{here.relative_to(root).as_posix()!r} is a link"
        except OSError:
            return "missing"
    return None if here.is_file() else "is not a regular file"


def _strangers(root: Path, manifest: Manifest) -> list[str]:
    """Name files that the manifest does not list."""
    listed = {record.path for record in manifest.files} | {MANIFEST_NAME, SIGNATURE_NAME}
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if is_link(Path(folder, name))]
        for name in [*files, *links]:
            path = Path(folder, name).relative_to(root).as_posix()
            if path not in listed:
                found.append(f"{path}: not listed in {MANIFEST_NAME}")
    return found


class VerifiedMarker:
    """Remembers on this device that a bundle's digests were checked.

    It saves the time of hashing at every open and proves nothing to an attacker who can write
    to the user's cache: `verify_bundle` never looks at it.

    Args:
        cache_dir: Where markers lie.
        root: The bundle.
        manifest: Its manifest.
    """

    def __init__(self, cache_dir: Path, root: Path, manifest: Manifest) -> None:
        hex_digest = manifest.digest.partition(":")[2]
        self._path = cache_dir / "verified" / f"{hex_digest}.json"
        self._root = root
        self._manifest = manifest

    def holds(self) -> bool:
        """Whether every file still has the size and time that it had when it was checked."""
        try:
            return bool(loads(self._path.read_bytes()) == self._state())
        except (OSError, ValueError):
            return False

    def write(self) -> None:
        """Remember; a cache that cannot be written only costs time at the next open."""
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._state()))
            temporary.replace(self._path)
        except OSError as err:
            _log.debug("cannot remember that the bundle was verified: %s", err)

    def _state(self) -> dict[str, object]:
        files = {}
        for record in self._manifest.files:
            status = (self._root / record.path).stat()
            files[record.path] = [status.st_size, status.st_mtime_ns // 1_000_000]
        return {"root": str(self._root), "files": files}
