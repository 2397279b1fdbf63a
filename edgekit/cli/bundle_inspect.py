"""``bundle inspect``: what a bundle holds, and how it was made."""

from typing import Annotated

import typer

from edgekit_runtime.cli.inspect import inspect_command as look_inside
from edgekit_runtime.cli.options import BundleArgument, JsonOption


def inspect_command(
    bundle: BundleArgument,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Print the recipe that builds it again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds: base, targets, adapters, files.

    Reads the manifest and checks the files' sizes; `verify` checks their content.

    Examples:
        edgekit bundle inspect my-bundle
        edgekit bundle inspect my-bundle --json
        edgekit bundle inspect my-bundle --rebuild > bundle.yaml
    """
    if not rebuild:
        look_inside(bundle, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("--rebuild prints YAML, not JSON")
    from edgekit.bundling.rebuild import rebuild_recipe

    typer.echo(rebuild_recipe(bundle), nl=False)
