"""``pull``: fetch a bundle from a registry."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import JsonOption
from edgekit_runtime.cli.signature_options import PolicyOption, read_policy, refuse_by
from edgekit_runtime.cli.transfer import JobsOption, PlainHttpOption, progress_bar


def pull_command(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="HOST[:PORT]/NAME[:TAG][@DIGEST], or hf://USER/NAME[@REVISION].",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The bundle's new directory.", show_default=False
        ),
    ],
    old: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="OLD", help="A bundle that is here: what it has is not fetched."
        ),
    ] = None,
    policy: PolicyOption = None,
    jobs: JobsOption = 4,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a bundle from a registry.

    The directory appears when every file in it was checked. What was stopped goes on.
    The login is Docker's own (docker login), or EDGEKIT_REGISTRY and its variables.

    Examples:
        {command} ghcr.io/me/support:1.2 -o support
        {command} ghcr.io/me/support:1.3 -o support-1.3 --from support
        {command} hf://me/support@v1 -o support
    """
    from edgekit_runtime.cli.console import note, show_size, write_json
    from edgekit_runtime.pulling import pull
    from edgekit_runtime.sources import open_source

    asked = read_policy(policy)
    source = open_source(reference, plain_http=plain_http)
    with progress_bar("pulling") as show:
        report = pull(
            source,
            output,
            old=old,
            jobs=jobs,
            check=lambda path: refuse_by(asked, path),
            on_progress=show,
        )
    if as_json:
        write_json(report.to_dict())
        return
    typer.echo(f"pulled {report.name} {report.version} to {output}, {report.digest}")
    typer.echo(
        f"{show_size(report.fetched_bytes)} fetched, {show_size(report.reused_bytes)} were here"
    )
    note(f"from {report.source}")
    note(f"next: edgekit-run chat {shlex.quote(str(output))}")
