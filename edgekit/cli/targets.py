"""``targets``: the device profiles that bundles are built for, and what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.mounting import new_app
from edgekit_runtime.cli.options import JsonOption

app = new_app()


@app.callback()
def _group() -> None:
    """List, show and check the device profiles that bundles are built for.

    Examples:
        edgekit targets list
        edgekit targets check cuda
    """


@app.command(name="list")
def list_command(as_json: JsonOption = False) -> None:
    """List the profiles that ship with edgekit.

    The column `packages` says whether what a device of that kind installs is
    installed here; `edgekit targets check` looks closer. Your own profile is a
    .yaml file; `edgekit build --target my-device.yaml` takes it.

    Example:
        edgekit targets list
    """
    from edgekit.target_checks import packages_state, short_name
    from edgekit.targets import list_targets
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size, write_json

    profiles = list_targets()
    if as_json:
        write_json(
            {
                name: profile.model_dump(mode="json") | {"packages_here": packages_state(profile)}
                for name, profile in profiles.items()
            }
        )
        return
    columns = ["target", "provider", "context", "memory", "packages", "description"]
    table = new_table(None, columns, right=["context", "memory"], text="description")
    for name, profile in profiles.items():
        add_row(
            table,
            name,
            short_name(profile.execution_provider),
            f"{profile.context_length:,}",
            show_size(profile.memory_budget_bytes),
            packages_state(profile),
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
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show every key, those that it extends too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a profile: commented YAML, a starting point for your own.

    NAME is a profile that ships with edgekit, or the path of a .yaml file.
    The file may extend another; --resolved prints the whole of it, without
    comments, and --json the same as JSON.

    Examples:
        edgekit targets show cpu
        edgekit targets show cuda --resolved > my-device.yaml
    """
    from edgekit.targets import load_target, target_path
    from edgekit_runtime.cli.console import write_json

    profile = load_target(name)
    values = profile.model_dump(mode="json")
    if as_json:
        write_json(values)
    elif resolved:
        import yaml

        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(target_path(name).read_text(encoding="utf-8"), nl=False)


@app.command(name="check")
def check_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Profiles, by name or path; all by default."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="BUNDLE", help="Check the targets of a bundle instead."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check what this machine can do with a target: build, verify, run it.

    Says what is missing, and the exact commands that install what the target's
    device needs. With --bundle: which of a bundle's targets work here, and which
    one an engine would choose. Exit code 1 if a named profile cannot be built
    here, or no target of the bundle works here.

    Examples:
        edgekit targets check
        edgekit targets check cuda my-device.yaml
        edgekit targets check --bundle edgekit-demo/bundle
    """
    if bundle is not None and names:
        raise typer.BadParameter("give profiles or --bundle, not both")
    from edgekit.cli import target_checks

    if bundle is not None:
        is_fine = target_checks.check_bundle(bundle, as_json=as_json)
    else:
        is_fine = target_checks.check_profiles(names or [], as_json=as_json)
    if not is_fine:
        raise typer.Exit(1)


@app.command(name="schema")
def schema_command() -> None:
    """Print the JSON schema of a profile, for editors that complete and check YAML.

    Example:
        edgekit targets schema > target.schema.json
    """
    from edgekit.targets import profile_schema
    from edgekit_runtime.cli.console import write_json

    write_json(profile_schema())
