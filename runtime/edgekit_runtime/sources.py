"""What people type to say where a bundle comes from."""

from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.staging import Source


def open_source(text: str, *, plain_http: bool = False) -> Source:
    """Open the place that a text names.

    Args:
        text: A reference to a registry.
        plain_http: Speak HTTP without TLS.

    Raises:
        RegistryError: If it names no place, or nothing is there.
    """
    return RegistrySource(Reference.parse(text), plain_http=plain_http)
