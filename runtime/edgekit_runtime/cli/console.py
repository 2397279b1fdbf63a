"""What the commands share about terminals: safe text, sizes, tables, JSON."""

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Everything that a terminal could obey: C0 but tab and newline, DEL, C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# A pipe has no width; rich would take 80 columns and cut paths.
_PIPE_WIDTH = 120
_UNITS = ("B", "kB", "MB", "GB", "TB")


def printable(text: str) -> str:
    """Drop the control characters of a model's text, so that it cannot steer the terminal."""
    return _CONTROL.sub("", text)


def write_text(text: str) -> None:
    """Write a model's text to stdout at once: verbatim, but without control on a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """Write a remark for a person to stderr, dim on a terminal."""
    _say(text, "dim")


def warn(text: str, *, on: "Console | None" = None) -> None:
    """Write a complaint that does not stop the command to stderr.

    Args:
        text: What to say.
        on: The console of a progress bar that is running on stderr.
    """
    _say(text, "yellow", on)


def _say(text: str, style: str, on: "Console | None" = None) -> None:
    stderr = on or console(stderr=True)
    # Whole lines in a pipe or log; words kept together on a terminal.
    whole = not stderr.is_terminal
    stderr.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=whole)


def console(*, stderr: bool = False) -> "Console":
    """A rich console on the stream of this moment; plain where it is no terminal."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = _PIPE_WIDTH
    return found


def show_size(n_bytes: int) -> str:
    """A size for people: ``86.4 MB``, in powers of ten as disks are sold."""
    size = float(n_bytes)
    unit = _UNITS[0]
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def new_table(
    title: str | None, columns: Iterable[str], right: Iterable[str] = (), text: str | None = None
) -> "Table":
    """An empty table in edgekit's look, made for 80 columns.

    Args:
        title: Above it.
        columns: Headings; a line break in one makes its column narrower.
        right: The columns that hold numbers; they are never wrapped.
        text: The one column that is wrapped, put last, where all others should stay whole.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    numeric = set(right)
    for column in columns:
        whole = column in numeric or text not in {None, column}
        table.add_column(
            column,
            justify="right" if column in numeric else "left",
            no_wrap=whole,
            overflow="ellipsis" if whole else "fold",
        )
    return table


def add_row(table: "Table", *cells: str) -> None:
    """Add a row of plain text: names and paths are never read as rich markup."""
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))
