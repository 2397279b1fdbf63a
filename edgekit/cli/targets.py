"""``targets``: the device profiles that bundles are built for."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.mounting import new_app
from edgekit_runtime.cli.options import JsonOption

app = new_app()


@app.callback()
def _group() -> None:
    """List and show the device profiles that bundles are built for.

    Examples:
        edgekit targets list
        edgekit targets show cpu
    """


@app.command(name="list")
def list_command(as_json: JsonOption = False) -> None:
    """List the profiles that ship with edgekit.

    Your own profile is a .yaml file; `edgekit build --target my-device.yaml` takes it.

    Example:
        edgekit targets list
    """
    from edgekit.targets import list_targets
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size, write_json

    profiles = list_targets()
    if as_json:
        write_json({name: profile.model_dump(mode="json") for name, profile in profiles.items()})
        return
    columns = ["target", "provider", "weights", "context", "memory", "description"]
    table = new_table(None, columns, right=["context", "memory"])
    for name, profile in profiles.items():
        add_row(
            table,
            name,
            profile.execution_provider.removesuffix("ExecutionProvider"),
            profile.precision,
            f"{profile.context_length:,}",
            show_size(profile.memory_budget_bytes),
            profile.description,
        )
    console().print(table)


@app.command(name="show")
def show_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of a profile, or the path of your own.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a profile: commented YAML, a starting point for your own.

    NAME is a profile that ships with edgekit, or the path of a .yaml file.

    Examples:
        edgekit targets show cpu
        edgekit targets show cpu > my-device.yaml
    """
    from edgekit.targets import load_target, targets_dir
    from edgekit_runtime.cli.console import write_json

    profile = load_target(name)
    if as_json:
        write_json(profile.model_dump(mode="json"))
        return
    own = Path(name)
    path = own if own.suffix in {".yaml", ".yml"} else targets_dir() / f"{name}.yaml"
    typer.echo(path.read_text(encoding="utf-8"), nl=False)
