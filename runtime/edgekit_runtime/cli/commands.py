"""The commands of ``edgekit-run``; ``edgekit`` mounts the same ones beside its own."""

from typing import Annotated

import typer

from edgekit_runtime import __version__
from edgekit_runtime.cli.mounting import Mount, group_of

CHAT = Mount(
    source="edgekit_runtime.cli.chat:chat_command",
    summary="Talk with a bundle in the terminal, and swap its adapters as you go.",
    panel="Use a bundle",
)
RUN = Mount(
    source="edgekit_runtime.cli.run:run_command",
    summary="Answer one prompt, or every line of a file.",
    panel="Use a bundle",
)
SERVE = Mount(
    source="edgekit_runtime.cli.serve:serve_command",
    summary="Serve a bundle by OpenAI's protocol: the base and every adapter, each a model.",
    panel="Use a bundle",
)
BENCH = Mount(
    source="edgekit_runtime.cli.bench:bench_command",
    summary="Measure speed, memory and adapter swaps of a bundle on this machine.",
    panel="Use a bundle",
)
PULL = Mount(
    source="edgekit_runtime.cli.pull:pull_command",
    summary="Fetch a bundle from a registry.",
    panel="Get a bundle",
)
INSTALL = Mount(
    source="edgekit_runtime.cli.install:install_command",
    summary="Install a bundle beside the versions that are there, check it, and switch to it.",
    panel="Get a bundle",
)
UPDATE = Mount(
    source="edgekit_runtime.cli.install:update_command",
    summary="Fetch what is new where an installation came from, check it, and switch to it.",
    panel="Get a bundle",
)
ROLLBACK = Mount(
    source="edgekit_runtime.cli.install:rollback_command",
    summary="Go back to the version before the current one.",
    panel="Get a bundle",
)
VERSIONS = Mount(
    source="edgekit_runtime.cli.install:versions_command",
    summary="Show the versions of an installation, and which one is current.",
    panel="Get a bundle",
)
CACHE = Mount(
    source="edgekit_runtime.cli.cache:app",
    summary="Show or clear what was kept to save time later.",
    panel="Look into a bundle",
)
VERIFY = Mount(
    source="edgekit_runtime.cli.verify:verify_command",
    summary="Check who signed a bundle, and every file of it against the manifest's digests.",
    panel="Look into a bundle",
)
INSPECT = Mount(
    source="edgekit_runtime.cli.inspect:inspect_command",
    summary="Show what a bundle holds: base, targets, adapters, files.",
    panel="Look into a bundle",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit-runtime {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Run a bundle: one small base model, many skills.

    Example:
        edgekit-run chat my-bundle
    """


app = group_of(
    _options,
    {
        "chat": CHAT,
        "run": RUN,
        "serve": SERVE,
        "bench": BENCH,
        "pull": PULL,
        "install": INSTALL,
        "update": UPDATE,
        "rollback": ROLLBACK,
        "versions": VERSIONS,
        "verify": VERIFY,
        "inspect": INSPECT,
        "cache": CACHE,
    },
)
