"""The two command lines as data: their commands, options, and whether a line parses."""

import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from edgekit.cli.commands import app as edgekit_app
from edgekit_runtime.cli.commands import app as runtime_app
from edgekit_runtime.cli.mounting import LazyCommand

PROGRAMS: dict[str, Any] = {"edgekit": edgekit_app, "edgekit-run": runtime_app}
# click's UsageError, wherever typer keeps its click.
_UsageError: Any = typer.BadParameter.__mro__[1]
_KINDS = {
    str: "text",
    Path: "path",
    int: "number",
    float: "number",
    list[str]: "text",
    list[Path]: "path",
}


def commands(group: Any, *prefix: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with its path."""
    for name, command in group.commands.items():
        real = command.loaded if isinstance(command, LazyCommand) else command
        yield (*prefix, name), real
        if hasattr(real, "commands"):
            yield from commands(real, *prefix, name)


def every_command() -> dict[str, Any]:
    """``edgekit bundle add`` and so on to the command."""
    return {
        " ".join([program, *path]): command
        for program, app in PROGRAMS.items()
        for path, command in commands(app)
    }


def parse_error(line: str) -> str | None:
    """What the command line would say against a line, None if it would run it."""
    program, *words = shlex.split(line, comments=True)
    command: Any = PROGRAMS[program]
    path = [program]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            return f"{' '.join(path)} has no command {name!r}"
        command = command.commands[name]
        command = command.loaded if isinstance(command, LazyCommand) else command
        path.append(name)
    if hasattr(command, "commands") and not words:
        return f"{' '.join(path)} needs a command"
    try:
        command.make_context(" ".join(path), words)
    except typer.Exit:  # --help, --version
        return None
    except _UsageError as err:
        return str(err.format_message())
    return None


def option_table(command: Any) -> str:
    """A command's arguments and options as a Markdown table, from the command line itself."""
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    head = ["| option | value | default | what it says |", "|---|---|---|---|"]
    return "\n".join([*head, *(row for row in rows if "`--help`" not in row)])


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if is_argument else parameter.opts
    if not is_argument:
        names = [*sorted(names, key=len, reverse=True), *parameter.secondary_opts]
    cells = [
        ", ".join(f"`{name}`" for name in names),
        _value(parameter, is_argument),
        _default(parameter),
        (parameter.help or "").replace("|", r"\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _value(parameter: Any, is_argument: bool) -> str:
    annotation = parameter.type_descriptor.annotation
    if getattr(parameter, "is_flag", False):
        return ""
    if parameter.metavar and not is_argument:
        return f"`{parameter.metavar}`"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    return _KINDS[annotation]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    if isinstance(default, bool):
        return ("on" if default else "off") if parameter.secondary_opts else ""
    return "" if default is None else f"`{getattr(default, 'value', default)}`"
