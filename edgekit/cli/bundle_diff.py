"""``bundle diff``: what differs between two bundles, and what of it would travel."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit_runtime.difference import Difference


def diff_command(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="The bundle that is there.", show_default=False)
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="The bundle that is to be.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what differs between two bundles, file by file, and how much of it would travel.

    Compares the manifests; large files that changed are compared chunk by chunk.

    Examples:
        edgekit bundle diff my-bundle my-bundle-2
        edgekit bundle diff my-bundle my-bundle-2 --json
    """
    from edgekit.bundling.difference import compare_bundles
    from edgekit_runtime.cli.console import write_json

    found = compare_bundles(old, new)
    if as_json:
        write_json(found.to_dict())
    else:
        _show(found)


def _show(found: "Difference") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size

    if not found.changes:
        typer.echo(f"the same bundle: {found.new_digest}")
        return
    columns = ["", "was", "is", "travels", "file"]
    table = new_table(None, columns, right=["was", "is", "travels"], text="file")
    for change in found.changes:
        was = "–" if change.kind == "added" else show_size(change.old_bytes)
        now = "–" if change.kind == "removed" else show_size(change.new_bytes)
        travels = show_size(change.travel_bytes) if change.travel_bytes else "–"
        add_row(table, change.kind, was, now, travels, change.path)
    console().print(table)
    travels, total = show_size(found.travel_bytes), show_size(found.total_bytes)
    typer.echo(f"{found.unchanged} files are the same; {travels} of {total} would travel")
