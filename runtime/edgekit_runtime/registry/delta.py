"""Assemble a changed file: chunks that are here are copied, the others are fetched by ranges."""

from pathlib import Path

from edgekit_runtime import disk
from edgekit_runtime.chunks import (
    INDEX_TYPE,
    MAX_INDEX_BYTES,
    ChunkIndex,
    OldChunks,
    Segment,
    segments,
)
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import FileRecord
from edgekit_runtime.registry.artifact import Artifact
from edgekit_runtime.registry.repository import Repository, Span
from edgekit_runtime.strict_json import loads
from edgekit_runtime.transfers import OnMoved


def read_index(repository: Repository, artifact: Artifact, record: FileRecord) -> ChunkIndex | None:
    """The chunk index of a file, if whoever pushed the bundle sent one along.

    Raises:
        RegistryError: If there is one that is malformed.
    """
    name = _index_artifact(repository, artifact.digest)
    data = repository.manifest(name) if name is not None else None
    if data is None:
        return None
    indexes = Artifact.from_bytes(data, where=f"the chunk indexes of {repository.reference}")
    layer = indexes.file(record.path)
    if layer is None:
        return None
    content = repository.small_blob(layer, limit=MAX_INDEX_BYTES)
    index = ChunkIndex.from_bytes(content, size_bytes=record.size_bytes)
    return index if index.file == record.digest else None


def fetch_changed(
    repository: Repository,
    record: FileRecord,
    index: ChunkIndex,
    old: OldChunks,
    path: Path,
    on_moved: OnMoved,
) -> None:
    """Write a file from chunks, from where it ends already; the caller checks the digest.

    Raises:
        RegistryError: If a range cannot be fetched; a `RangeError` if the registry knows none.
    """
    start = min(path.stat().st_size if path.exists() else 0, record.size_bytes)
    with disk.open_writer(path, start=start) as file:
        for segment in segments(index, old.places()):
            rest = _behind(segment, start)
            if rest.size_bytes <= 0:
                continue
            if rest.old is not None:
                disk.copy_range(rest.old.path, rest.old.start, rest.size_bytes, file)
                on_moved(rest.size_bytes, moved=False)
                continue
            span = Span(rest.start, rest.start + rest.size_bytes)
            repository.read(record.digest, span, record.size_bytes, file, on_moved, skips=False)


def referrers_tag(digest: str) -> str:
    """The tag that stands in for the referrers of a manifest, where a registry knows none.

    Source: OCI distribution specification 1.1, "Referrers Tag Schema".
    """
    return digest.replace(":", "-")


def _index_artifact(repository: Repository, digest: str) -> str | None:
    """Digest of the artifact with the chunk indexes of another artifact, or None."""
    data = repository.referrers(digest) or repository.manifest(referrers_tag(digest))
    if data is None:
        return None
    try:
        listed = loads(data)["manifests"]
        found = [one["digest"] for one in listed if one.get("artifactType") == INDEX_TYPE]
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise RegistryError(f"the referrers of {repository.reference} are malformed") from err
    return str(found[0]) if found else None


def _behind(segment: Segment, start: int) -> Segment:
    """What of a segment lies at or behind a position."""
    skip = max(start - segment.start, 0)
    old = segment.old
    if old is not None:
        old = old._replace(start=old.start + skip, size_bytes=old.size_bytes - skip)
    return Segment(segment.start + skip, segment.size_bytes - skip, old)
