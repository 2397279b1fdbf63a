"""What people type to say where a bundle comes from."""

from pathlib import Path

from edgekit_runtime import disk
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.chunks import OldChunks
from edgekit_runtime.hub import SCHEME, HubReference, HubSource
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.staging import Source
from edgekit_runtime.transfers import OnMoved
from edgekit_runtime.verification import SIGNATURE_NAME


class DirectorySource:
    """A bundle on this machine; its files are copied.

    Raises:
        BundleError: If the directory is no bundle.
    """

    def __init__(self, path: Path) -> None:
        self.path = Bundle.open(path, verify="sizes").path
        self.name = str(path)

    def manifest(self) -> bytes:
        """The bundle's manifest file."""
        return (self.path / MANIFEST_NAME).read_bytes()

    def signature(self) -> bytes | None:
        """The bundle's signature file, if it has one."""
        path = self.path / SIGNATURE_NAME
        return path.read_bytes() if path.is_file() else None

    def fetch(
        self, record: FileRecord, path: Path, on_moved: OnMoved, old: OldChunks | None = None
    ) -> None:
        """Copy a file, from where it ends already; the caller checks the digest."""
        start = min(path.stat().st_size if path.exists() else 0, record.size_bytes)
        with disk.open_writer(path, start=start) as file:
            disk.copy_range(self.path / record.path, start, record.size_bytes - start, file)
        on_moved(record.size_bytes - start)


def open_source(text: str, *, plain_http: bool = False) -> Source:
    """Open the place that a text names.

    Args:
        text: A bundle's directory, a reference to a registry, or ``hf://USER/NAME[@REVISION]``.
        plain_http: Speak HTTP without TLS.

    Raises:
        EdgekitRuntimeError: A child of it, if it names no place, or no bundle is there.
    """
    if text.startswith(SCHEME):
        return HubSource(HubReference.parse(text))
    if Path(text).is_dir():
        return DirectorySource(Path(text))
    return RegistrySource(Reference.parse(text), plain_http=plain_http)
