"""Content-defined chunks of large files, so that only what changed inside one travels.

A file is cut where its content says so (FastCDC), so that an insertion moves no cut but its own.
The index of the new file travels; the old file is cut on the device, by the package of the extra
``[delta]``. Without it, changed files travel whole.
"""

import base64
import binascii
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import Fields
from edgekit_runtime.strict_json import loads

# By measurement: docs/decisions/0037-chunks-not-patches.md.
AVERAGE_BYTES = 64 << 10
# Smaller files travel whole: a request costs about as much.
MIN_FILE_BYTES = 1 << 20
MAX_INDEX_BYTES = 64 << 20
INDEX_TYPE = "application/vnd.edgekit.chunks.v1+json"

_CHUNKER = f"fastcdc-2020 {AVERAGE_BYTES}"
_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkIndex:
    """Where a file's chunks end, and what they hold.

    Attributes:
        file: The file's digest.
        sizes: Of the chunks, in bytes, in order.
        digests: Their SHA-256, 32 bytes each, in order.
    """

    file: str
    sizes: tuple[int, ...]
    digests: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The JSON form."""
        value = {
            "schema_version": "1.0",
            "chunker": _CHUNKER,
            "file": self.file,
            "sizes": self.sizes,
            "digests": base64.b64encode(b"".join(self.digests)).decode("ascii"),
        }
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, size_bytes: int) -> Self:
        """Read the JSON form.

        Args:
            data: As `to_bytes` writes it.
            size_bytes: Size of the file, which the chunks must add up to.

        Raises:
            RegistryError: If it is malformed.
        """
        problems: list[str] = []
        try:
            value = loads(data)
            fields = Fields(value, "", problems)
            packed = base64.b64decode(fields.text("digests"), validate=True)
            sizes = tuple(fields.data.get("sizes") or ())
        except (ValueError, TypeError, binascii.Error) as err:
            raise RegistryError(f"a chunk index is malformed: {err}") from err
        if not all(type(size) is int and size > 0 for size in sizes) or sum(sizes) != size_bytes:
            problems.append(f"sizes: expected counts that add up to {size_bytes}")
        if len(packed) != _DIGEST_BYTES * len(sizes):
            problems.append("digests: expected 32 bytes for each size")
        found = cls(
            file=fields.digest("file"),
            sizes=sizes,
            digests=tuple(
                packed[at : at + _DIGEST_BYTES] for at in range(0, len(packed), _DIGEST_BYTES)
            ),
        )
        if problems:
            raise RegistryError("a chunk index is malformed", problems=problems)
        return found


class Place(NamedTuple):
    """Where some bytes lie."""

    path: Path
    start: int
    size_bytes: int


class Segment(NamedTuple):
    """Bytes of a new file that follow one another: all from the old one, or all to be fetched.

    Attributes:
        old: Where they lie already; None: nowhere.
    """

    start: int
    size_bytes: int
    old: Place | None


class OldChunks:
    """The chunks of files that are there, cut when they are first asked for. Thread-safe."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._lock = threading.Lock()
        self._places: dict[bytes, Place] | None = None

    @property
    def can_cut(self) -> bool:
        """Whether there is anything to cut, and something to cut it with."""
        return bool(self._files) and importlib.util.find_spec("pyfastcdc") is not None

    def places(self) -> Mapping[bytes, Place]:
        """SHA-256 of each chunk to a place that has it."""
        with self._lock:
            if self._places is None:
                found: dict[bytes, Place] = {}
                for path in self._files:
                    for start, size, digest in _cut(path):
                        found.setdefault(digest, Place(path, start, size))
                self._places = found
            return self._places


def index_of(path: Path, digest: str) -> ChunkIndex:
    """Cut a file into chunks; the same content gives the same index.

    Args:
        path: The file.
        digest: Its digest.
    """
    chunks = list(_cut(path))
    return ChunkIndex(
        file=digest,
        sizes=tuple(size for _, size, _ in chunks),
        digests=tuple(sha256 for _, _, sha256 in chunks),
    )


def segments(index: ChunkIndex, places: Mapping[bytes, Place]) -> list[Segment]:
    """Join a file's chunks to runs: of the old file where it has them, else to be fetched."""
    found: list[Segment] = []
    start = 0
    for size, digest in zip(index.sizes, index.digests, strict=True):
        place = places.get(digest)
        old = place if place is not None and place.size_bytes == size else None
        if found and _follows(found[-1], old):
            found[-1] = _longer(found[-1], size)
        else:
            found.append(Segment(start, size, old))
        start += size
    return found


def missing_bytes(index: ChunkIndex, places: Mapping[bytes, Place]) -> int:
    """What travels of a file: its index, and the chunks that are nowhere."""
    wanted = sum(one.size_bytes for one in segments(index, places) if one.old is None)
    return wanted + len(index.to_bytes())


def _cut(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Start, size and SHA-256 of each chunk."""
    from pyfastcdc import FastCDC

    for chunk in FastCDC(AVERAGE_BYTES).cut_file(path):
        yield chunk.offset, chunk.length, hashlib.sha256(chunk.data).digest()


def _follows(segment: Segment, old: Place | None) -> bool:
    if segment.old is None or old is None:
        return segment.old is old
    return (segment.old.path, segment.old.start + segment.old.size_bytes) == (old.path, old.start)


def _longer(segment: Segment, size: int) -> Segment:
    place = segment.old
    grown = place._replace(size_bytes=place.size_bytes + size) if place is not None else None
    return Segment(segment.start, segment.size_bytes + size, grown)
