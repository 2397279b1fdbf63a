"""Compare two bundles on this machine, down to the chunks of large files."""

from pathlib import Path

from edgekit_runtime import Bundle
from edgekit_runtime.chunks import MIN_FILE_BYTES, index_of, missing_bytes
from edgekit_runtime.difference import Difference, compare, missing
from edgekit_runtime.staging import Store


def compare_bundles(old: Path, new: Path) -> Difference:
    """Say what a device that has ``old`` would fetch to get ``new``.

    Args:
        old: A bundle's directory.
        new: Another one's.

    Raises:
        BundleError: If one is no bundle.
    """
    before, after = (Bundle.open(path, verify="sizes").manifest for path in (old, new))
    chunks = Store.of(old).chunks_for(after)
    large = [file for file in missing(before, after) if file.size_bytes >= MIN_FILE_BYTES]
    partial = {
        file.digest: min(
            missing_bytes(index_of(new / file.path, file.digest), chunks.places()), file.size_bytes
        )
        for file in (large if chunks.can_cut else [])
    }
    return compare(before, after, partial)
