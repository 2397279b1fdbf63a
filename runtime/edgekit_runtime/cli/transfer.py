"""What the commands that send and fetch bundles share: options, and a bar on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgekit_runtime.transfers import OnProgress, Progress

PlainHttpOption = Annotated[
    bool,
    typer.Option(
        "--plain-http", help="Speak HTTP without TLS; for a registry on a network that you trust."
    ),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", metavar="N", min=1, max=64, help="Files at the same time.")
]


@contextmanager
def progress_bar(what: str) -> Iterator["OnProgress"]:
    """Show how far a transfer is, on stderr, where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from edgekit_runtime.cli.console import console

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    stderr = console(stderr=True)
    with Bar(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def show(progress: "Progress") -> None:
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)

        yield show
