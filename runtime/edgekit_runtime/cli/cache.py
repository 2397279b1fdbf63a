"""``cache``: what was kept to save time later, and what of it may go."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.mounting import PathAwareCommand, new_app
from edgekit_runtime.cli.options import JsonOption


def cache_app(roots: Callable[[], Sequence[Path]]) -> typer.Typer:
    """The commands over some cache directories.

    Args:
        roots: Where they are; asked when a command runs.
    """
    app = new_app()

    @app.callback()
    def group(context: typer.Context) -> None:
        """Show or clear what was kept to save time later.

        Examples:
            edgekit-run cache list
            edgekit cache list
        """
        context.obj = roots()

    app.command(name="list", cls=PathAwareCommand)(list_command)
    app.command(name="prune", cls=PathAwareCommand)(prune_command)
    return app


def list_command(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what lies in the caches, the largest first.

    Chat histories and locks are left out. The Hugging Face Hub's cache is its own:
    hf cache list.

    Example:
        {command}
    """
    from edgekit_runtime.cache import cache_entries
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size, write_json

    roots: Sequence[Path] = context.obj
    entries = cache_entries(roots)
    total = sum(entry.size_bytes for entry in entries)
    if as_json:
        write_json({"entries": [entry.to_dict() for entry in entries], "total_bytes": total})
        return
    table = new_table(None, ["kind", "size", "age", "path"], right=["size", "age"], text="path")
    for entry in entries:
        age = f"{entry.age_days:.0f} d"
        add_row(table, entry.kind, show_size(entry.size_bytes), age, str(entry.path))
    if entries:
        console().print(table)
    typer.echo(f"{show_size(total)} in {', '.join(map(str, roots))}")


def prune_command(
    context: typer.Context,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0.0, help="Keep what was written since; 0: nothing."
        ),
    ] = 30.0,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only this kind of things (repeatable)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what is old from the caches. It is made again when it is needed.

    What another process is making stays, and so do chat histories.

    Examples:
        {command} --dry-run
        {command} --older-than 0 --kind exports
    """
    from edgekit_runtime.cache import cache_entries, prune
    from edgekit_runtime.cli.console import note, show_size, write_json

    roots: Sequence[Path] = context.obj
    entries = [entry for entry in cache_entries(roots) if not kind or entry.kind in kind]
    if dry_run:
        gone = [entry for entry in entries if entry.age_days >= older_than]
    else:
        gone = prune(
            entries,
            older_than_days=older_than,
            on_kept=lambda entry: note(f"in use, kept: {entry.path}"),
        )
    freed = sum(entry.size_bytes for entry in gone)
    if as_json:
        write_json({"removed": [entry.to_dict() for entry in gone], "freed_bytes": freed})
        return
    for entry in gone:
        typer.echo(str(entry.path))
    typer.echo(f"{show_size(freed)} {'would be ' if dry_run else ''}freed")


def _own() -> Sequence[Path]:
    from edgekit_runtime.bundle import default_cache_dir

    return [default_cache_dir()]


app = cache_app(_own)
