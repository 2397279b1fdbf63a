"""A bundle in a registry, as something that can be pulled."""

from contextlib import suppress
from pathlib import Path

from edgekit_runtime import disk
from edgekit_runtime.chunks import MIN_FILE_BYTES, OldChunks
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord
from edgekit_runtime.registry.artifact import Artifact
from edgekit_runtime.registry.delta import fetch_changed, read_index
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.repository import RangeError, Repository, Span
from edgekit_runtime.transfers import OnMoved
from edgekit_runtime.verification import SIGNATURE_NAME

MAX_BUNDLE_MANIFEST_BYTES = 16 << 20
_MAX_SIGNATURE_BYTES = 4 << 20


class RegistrySource:
    """A bundle at a reference. What its tag means is asked once, here.

    Args:
        reference: Where; a digest decides over a tag.
        plain_http: Speak HTTP without TLS.

    Raises:
        RegistryError: If the registry has no bundle there.
    """

    def __init__(self, reference: Reference, *, plain_http: bool = False) -> None:
        self.repository = Repository(reference, plain_http=plain_http)
        name = reference.digest or reference.tag or "latest"
        data = self.repository.manifest(name)
        if data is None:
            raise RegistryError(
                f"registry '{reference.host}' has no {reference}",
                hint="Check the name and the tag, or push it first: edgekit bundle push.",
            )
        self.artifact = Artifact.from_bytes(data, where=str(reference))
        self.name = str(reference.at(self.artifact.digest))

    def manifest(self) -> bytes:
        """The bundle's manifest file."""
        layer = self.artifact.file(MANIFEST_NAME)
        if layer is None:
            raise RegistryError(
                f"{self.name} is no bundle: no layer holds {MANIFEST_NAME}",
                hint="Push a bundle there first: edgekit bundle push.",
            )
        return self.repository.small_blob(layer, limit=MAX_BUNDLE_MANIFEST_BYTES)

    def signature(self) -> bytes | None:
        """The bundle's signature file, if it has one."""
        layer = self.artifact.file(SIGNATURE_NAME)
        if layer is None:
            return None
        return self.repository.small_blob(layer, limit=_MAX_SIGNATURE_BYTES)

    def fetch(
        self, record: FileRecord, path: Path, on_moved: OnMoved, old: OldChunks | None = None
    ) -> None:
        """Write a file, from where it ends already; the caller checks the digest.

        A large file comes by its chunks where the registry has an index of them and knows ranges.
        """
        if old is not None and old.can_cut and record.size_bytes >= MIN_FILE_BYTES:
            index = read_index(self.repository, self.artifact, record)
            with suppress(RangeError):
                if index is not None:
                    fetch_changed(self.repository, record, index, old, path, on_moved)
                    return
        self._fetch_whole(record, path, on_moved)

    def _fetch_whole(self, record: FileRecord, path: Path, on_moved: OnMoved) -> None:
        start = min(path.stat().st_size if path.exists() else 0, record.size_bytes)
        with disk.open_writer(path, start=start) as file:
            span = Span(start, record.size_bytes)
            self.repository.read(record.digest, span, record.size_bytes, file, on_moved)
