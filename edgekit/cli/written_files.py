"""Files that a command writes because an option names them."""

from pathlib import Path

import typer

from edgekit.errors import EdgekitError


def check_outputs(*paths: Path | None) -> None:
    """Refuse, before any work, places where nothing can be written."""
    for path in paths:
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"'{path}' is a directory; name a file")
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"'{path}': there is no directory '{path.parent}'")


def write_file(path: Path, text: str) -> None:
    """Write a file whole, and say so on stderr."""
    from edgekit_runtime.cli.console import note
    from edgekit_runtime.disk import replace_file

    try:
        replace_file(path, text.encode())
    except OSError as err:
        raise EdgekitError(f"'{path}' cannot be written: {err.strerror or err}") from err
    note(f"wrote {path}")
