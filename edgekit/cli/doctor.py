"""``doctor``: is this machine fit for edgekit?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.doctor import Check

_LOOK = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


def doctor_command(as_json: JsonOption = False) -> None:
    """Check this machine: versions, devices, cache, and what it can do with each target.

    Each line is ok, warn (works, with a limit) or FAIL (something required is
    missing), with what to do about it. Exit code 1 if a line fails.

    Examples:
        edgekit doctor
        edgekit doctor --json
    """
    from edgekit.doctor import examine
    from edgekit_runtime.cli.console import write_json

    checks = examine()
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        write_json({"ok": not failed, "checks": [check.to_dict() for check in checks]})
    else:
        _show(checks)
    if failed:
        raise typer.Exit(1)


def _show(checks: "Sequence[Check]") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from edgekit_runtime.cli.console import console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "check", "found"):
        table.add_column(column, no_wrap=column != "found")
    for check in checks:
        word, style = _LOOK[check.status]
        found = Text(check.found)
        if check.advice:
            found.append(f"\n{check.advice}", style="dim" if check.status == "ok" else style)
        table.add_row(Text(word, style=style), check.name, found)
    console().print(table)
