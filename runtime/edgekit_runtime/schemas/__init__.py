"""JSON Schemas (draft 2020-12) of a bundle's own documents.

They say the form of one document. What fields say against one another, and the digests, the
readers check.
"""

from importlib.resources import files
from typing import Any, Final

from edgekit_runtime.strict_json import loads

NAMES: Final = ("manifest", "adapter", "sockets")


def schema_of(name: str) -> dict[str, Any]:
    """The schema of a document.

    Args:
        name: One of `NAMES`.
    """
    found: dict[str, Any] = loads(files(__name__).joinpath(f"{name}.schema.json").read_bytes())
    return found
