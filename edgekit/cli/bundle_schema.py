"""``bundle schema``: the form of a bundle's own documents."""

from enum import StrEnum
from typing import Annotated

import typer


class Document(StrEnum):
    """What a schema is about."""

    manifest = "manifest"
    adapter = "adapter"
    sockets = "sockets"


def schema_command(
    document: Annotated[
        Document,
        typer.Argument(
            help="manifest.json, an adapter's adapter.json, or a target's sockets.json."
        ),
    ] = Document.manifest,
) -> None:
    """Print the JSON schema of a bundle's document, for other readers and writers.

    It says the form of one document. Digests, and what fields say against one another,
    are checked by verify.

    Examples:
        edgekit bundle schema
        edgekit bundle schema adapter > adapter.schema.json
    """
    from edgekit_runtime.cli.console import write_json
    from edgekit_runtime.schemas import schema_of

    write_json(schema_of(document.value))
