"""Commands that import their module when they run, so that ``--help`` stays quick."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """Where a command lives.

    Attributes:
        source: ``module:attribute`` of a command function or of a typer application.
        summary: The line in the list of commands; the first line of the command's own help.
        panel: Heading under which the command is listed.
    """

    source: str
    summary: str
    panel: str


class PathAwareCommand(TyperCommand):
    """Shows ``{command}`` in its help as it was called: ``edgekit run`` or ``edgekit-run run``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self.help = (self.help or "").replace("{command}", ctx.command_path)
        super().format_help(ctx, formatter)


class LazyCommand(TyperCommand):
    """Stands in the list of commands for one whose module is not imported yet."""

    def __init__(self, name: str, mount: Mount) -> None:
        super().__init__(name, help=mount.summary, rich_help_panel=mount.panel)
        self.mount = mount

    @cached_property
    def loaded(self) -> Any:
        """The command itself."""
        module, _, attribute = self.mount.source.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, new_app()
            found.command(name=self.name, cls=PathAwareCommand)(function)
        command = get_command(found)
        command.name = self.name
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Make the context of the command itself, so that it takes over from here."""
        return self.loaded.make_context(*args, **kwargs)


def new_app() -> typer.Typer:
    """A typer application with edgekit's settings: plain errors, no options of typer's own."""
    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def group_of(callback: Callable[..., None], mounts: Mapping[str, Mount]) -> TyperGroup:
    """Make a group of lazily imported commands.

    Args:
        callback: Takes the options of the group itself; its docstring is the group's help.
        mounts: Command name to its place, in the order of the listing.
    """
    app = new_app()
    app.callback()(callback)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, mount in mounts.items():
        group.add_command(LazyCommand(name, mount))
    return group
