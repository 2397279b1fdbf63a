"""``bundle push``: send a bundle to a registry."""

import shlex
from typing import Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption
from edgekit_runtime.cli.transfer import JobsOption, PlainHttpOption, progress_bar


def push_command(
    bundle: BundleArgument,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="HOST[:PORT]/NAME[:TAG].", show_default=False)
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
        edgekit bundle push my-bundle localhost:5000/support:1.2 --plain-http
    """
    from edgekit.bundling.push import push
    from edgekit_runtime.cli.console import note, show_size, write_json
    from edgekit_runtime.registry.reference import Reference

    with progress_bar("pushing") as show:
        report = push(
            bundle,
            Reference.parse(reference),
            plain_http=plain_http,
            jobs=jobs,
            on_progress=show,
        )
    if as_json:
        write_json(report.to_dict())
        return
    typer.echo(f"pushed {report.pinned}")
    typer.echo(
        f"{show_size(report.pushed_bytes)} sent, {show_size(report.skipped_bytes)} were there"
    )
    plain = " --plain-http" if plain_http else ""
    note(f"next: edgekit bundle pull {shlex.quote(report.reference)} -o DIR{plain}")
