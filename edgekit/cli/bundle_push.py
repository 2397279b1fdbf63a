"""``bundle push``: send a bundle to a registry."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption
from edgekit_runtime.cli.transfer import JobsOption, PlainHttpOption, progress_bar

if TYPE_CHECKING:
    from edgekit.bundling.push import PushReport


def push_command(
    bundle: BundleArgument,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="HOST[:PORT]/NAME[:TAG], or hf://USER/NAME.", show_default=False
        ),
    ],
    jobs: JobsOption = 4,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a bundle to a registry.

    Verifies the bundle first. Only files that the registry lacks are sent.
    The login is Docker's own (docker login), or EDGEKIT_REGISTRY and its variables.

    Examples:
        edgekit bundle push my-bundle ghcr.io/me/support:1.2
        edgekit bundle push my-bundle hf://me/support
        edgekit bundle push my-bundle localhost:5000/support:1.2 --plain-http
    """
    from edgekit_runtime.cli.console import note, show_size, write_json

    report = _push(bundle, reference, jobs, plain_http)
    if as_json:
        write_json(report.to_dict())
        return
    typer.echo(f"pushed {report.pinned}")
    if report.pushed_bytes is not None and report.skipped_bytes is not None:
        sent, there = show_size(report.pushed_bytes), show_size(report.skipped_bytes)
        typer.echo(f"{sent} sent, {there} were there")
    plain = " --plain-http" if plain_http else ""
    note(f"next: edgekit bundle pull {shlex.quote(report.reference)} -o DIR{plain}")


def _push(bundle: Path, reference: str, jobs: int, plain_http: bool) -> "PushReport":
    """Send it to where the reference belongs."""
    from edgekit_runtime.hub import SCHEME, HubReference
    from edgekit_runtime.registry.reference import Reference

    if reference.startswith(SCHEME):
        from edgekit.bundling.push_hub import push_to_hub

        return push_to_hub(bundle, HubReference.parse(reference))
    from edgekit.bundling.push import push

    parsed = Reference.parse(reference)
    with progress_bar("pushing") as show:
        return push(bundle, parsed, plain_http=plain_http, jobs=jobs, on_progress=show)
