"""``bundle``: look into a finished bundle, change its adapters, send it and fetch it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.bundle_bom import bom_command
from edgekit.cli.bundle_diff import diff_command
from edgekit.cli.bundle_export import export_command
from edgekit.cli.bundle_inspect import inspect_command
from edgekit.cli.bundle_push import push_command
from edgekit.cli.bundle_schema import schema_command
from edgekit.cli.bundle_sign import sign_command
from edgekit_runtime.cli.install import (
    install_command,
    rollback_command,
    update_command,
    versions_command,
)
from edgekit_runtime.cli.mounting import PathAwareCommand, new_app
from edgekit_runtime.cli.options import BundleArgument, JsonOption, parse_pairs
from edgekit_runtime.cli.pull import pull_command
from edgekit_runtime.cli.verify import verify_command

if TYPE_CHECKING:
    from edgekit.building.parity_figures import ParityFigures

app = new_app()
app.command(name="inspect")(inspect_command)
app.command(name="verify", cls=PathAwareCommand)(verify_command)
app.command(name="sign")(sign_command)
app.command(name="bom")(bom_command)
app.command(name="schema")(schema_command)
app.command(name="diff")(diff_command)
app.command(name="push")(push_command)
app.command(name="pull", cls=PathAwareCommand)(pull_command)
app.command(name="install", cls=PathAwareCommand)(install_command)
app.command(name="update", cls=PathAwareCommand)(update_command)
app.command(name="rollback", cls=PathAwareCommand)(rollback_command)
app.command(name="versions", cls=PathAwareCommand)(versions_command)
app.command(name="export")(export_command)


@app.callback()
def _group() -> None:
    """Look into a bundle, sign, compare or change it, push, pull or export it.

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
    allow_other_quantization: Annotated[
        bool,
        typer.Option(
            "--allow-other-quantization",
            help="Take an adapter that was trained on other quantized weights.",
        ),
    ] = False,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity/--no-parity",
            help="Prove the adapter against PyTorch; without, the bundle is marked unchecked.",
        ),
    ] = True,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="BASE",
            help="Where the float base is now, if the manifest's name does not find it.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a PEFT adapter, whoever trained it, to a bundle.

    Checks it against the base and each target, converts it, and proves it.
    If anything fails, the bundle stays as it was.

    Examples:
        edgekit bundle add my-bundle legal=adapters/legal
        edgekit bundle add my-bundle legal=downloads/legal-lora --assume-base
    """
    from edgekit.bundling.adapters import AdapterSource
    from edgekit.bundling.edit import add_adapter
    from edgekit_runtime.cli.console import console, note, write_json

    (name, source), *_ = parse_pairs([adapter], "NAME=PATH").items()
    with console(stderr=True).status("adding …") as status:
        figures = add_adapter(
            bundle,
            name,
            AdapterSource(path=Path(source)),
            base=base,
            assume_base=assume_base,
            allow_other_quantization=allow_other_quantization,
            parity=parity,
            on_message=status.update,
        )
    if as_json:
        parity_by_target = {target: figure.to_dict() for target, figure in figures.items()}
        write_json({"adapter": name, "parity": parity_by_target})
    else:
        _show_added(name, figures)
    note(f"next: edgekit run {shlex.quote(str(bundle))} --adapter {name} -p ...")


def _show_added(name: str, figures: "Mapping[str, ParityFigures]") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table

    if not figures:
        typer.echo(f"added adapter '{name}', unchecked: the parity gate was switched off")
        return
    columns = ["target", "exact KL", "top-1", "shipping KL", "effect KL"]
    table = new_table(f"Added adapter '{name}'", columns, right=columns[1:])
    for target, figure in figures.items():
        effect = "–" if figure.effect_kl is None else f"{figure.effect_kl:.2f}"
        add_row(
            table,
            target,
            f"{figure.exact_mean_kl:.1e}",
            f"{figure.exact_top1:.2%}",
            f"{figure.shipping_mean_kl:.1e}",
            effect,
        )
    console().print(table)


@app.command(name="remove")
def remove_command(
    bundle: BundleArgument,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Adapter to remove.", show_default=False)
    ],
) -> None:
    """Remove an adapter from a bundle.

    The base and the other adapters stay as they are, byte for byte.

    Example:
        edgekit bundle remove my-bundle legal
    """
    from edgekit.bundling.edit import remove_adapter

    remove_adapter(bundle, name)
    typer.echo(f"removed adapter '{name}' from {bundle}")
