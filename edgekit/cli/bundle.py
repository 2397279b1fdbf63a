"""``bundle``: look into a finished bundle, and change its adapters."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.inspect import inspect_command
from edgekit_runtime.cli.mounting import PathAwareCommand, new_app
from edgekit_runtime.cli.options import BundleArgument, parse_pairs
from edgekit_runtime.cli.verify import verify_command

app = new_app()
app.command(name="inspect", cls=PathAwareCommand)(inspect_command)
app.command(name="verify", cls=PathAwareCommand)(verify_command)


@app.callback()
def _group() -> None:
    """Inspect or verify a bundle, add or remove its adapters.

    Adding or removing an adapter never rebuilds the base.

    Examples:
        edgekit bundle inspect my-bundle
        edgekit bundle add my-bundle legal=adapters/legal
    """


@app.command(name="add")
def add_command(
    bundle: BundleArgument,
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="NAME=PATH",
            help="Name in the bundle, and the PEFT adapter's directory.",
            show_default=False,
        ),
    ],
    assume_base: Annotated[
        bool,
        typer.Option(
            "--assume-base",
            help="Take an adapter that names another base, if its shapes fit.",
        ),
    ] = False,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity/--no-parity",
            help="Prove the adapter against PyTorch; without, the bundle is marked unchecked.",
        ),
    ] = True,
) -> None:
    """Add a PEFT adapter, whoever trained it, to a bundle.

    Checks it against the base and each target, converts it, and proves it.
    If anything fails, the bundle stays as it was.

    Examples:
        edgekit bundle add my-bundle legal=adapters/legal
        edgekit bundle add my-bundle legal=downloads/legal-lora --assume-base
    """
    from edgekit.bundling.edit import add_adapter

    (name, source), *_ = parse_pairs([adapter], "NAME=PATH").items()
    add_adapter(bundle, name, source, assume_base=assume_base, parity=parity)
    typer.echo(f"added adapter '{name}' to {bundle}", err=True)
    typer.echo(f"next: edgekit run {_quote(bundle)} --adapter {name} -p ...", err=True)


@app.command(name="remove")
def remove_command(
    bundle: BundleArgument,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Adapter to remove.", show_default=False)
    ],
) -> None:
    """Remove an adapter from a bundle.

    Example:
        edgekit bundle remove my-bundle legal
    """
    from edgekit.bundling.edit import remove_adapter

    remove_adapter(bundle, name)
    typer.echo(f"removed adapter '{name}' from {bundle}", err=True)


def _quote(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
