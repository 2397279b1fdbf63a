"""The commands of ``edgekit``: its own, and those of the runtime."""

from typing import Annotated

import typer

from edgekit import __version__
from edgekit_runtime.cli.commands import BENCH, CHAT, RUN, SERVE
from edgekit_runtime.cli.mounting import Mount, group_of

_MAKE = "Make a bundle"
_LOOK = "Look into things"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """One small language model, many skills, every device.

    Train adapters, build int4 bundles, prove them, run them.

    Examples:
        edgekit demo
        edgekit chat edgekit-demo/bundle
    """


app = group_of(
    _options,
    {
        "demo": Mount(
            source="edgekit.cli.demo:demo_command",
            summary="See it all: train two skills, build a bundle, pass the parity gate, swap "
            "between them.",
            panel=_MAKE,
        ),
        "train": Mount(
            source="edgekit.cli.train:train_command",
            summary="Train an adapter from a recipe.",
            panel=_MAKE,
        ),
        "tune": Mount(
            source="edgekit.cli.tune:tune_command",
            summary="Search a recipe's values by Optuna, and keep the best run.",
            panel=_MAKE,
        ),
        "merge": Mount(
            source="edgekit.cli.merge:merge_command",
            summary="Merge an adapter into its base: a base of its own, for what no socket takes.",
            panel=_MAKE,
        ),
        "data": Mount(
            source="edgekit.cli.data:app",
            summary="Look at the rows of a recipe before training.",
            panel=_LOOK,
        ),
        "eval": Mount(
            source="edgekit.cli.eval:eval_command",
            summary="Score a torch model or a bundle, with an adapter or without, by one code.",
            panel=_MAKE,
        ),
        "ratings": Mount(
            source="edgekit.cli.ratings:ratings_command",
            summary="Count what a person found on a rating sheet of edgekit eval.",
            panel=_LOOK,
        ),
        "build": Mount(
            source="edgekit.cli.build:build_command",
            summary="Build one bundle: the base as int4 ONNX, every adapter, checked against "
            "PyTorch.",
            panel=_MAKE,
        ),
        "quantize-sweep": Mount(
            source="edgekit.cli.quantize_sweep:sweep_command",
            summary="Compare quantizations of a base: size, speed, and what each costs.",
            panel=_MAKE,
        ),
        "chat": CHAT,
        "run": RUN,
        "serve": SERVE,
        "bench": BENCH,
        "bundle": Mount(
            source="edgekit.cli.bundle:app",
            summary="Look into a bundle, sign, compare or change it, push, pull or export it.",
            panel=_LOOK,
        ),
        "targets": Mount(
            source="edgekit.cli.targets:app",
            summary="List, show and check the device profiles that bundles are built for.",
            panel=_LOOK,
        ),
        "cache": Mount(
            source="edgekit.cli.cache:app",
            summary="Show or clear what was kept to save time later.",
            panel=_LOOK,
        ),
        "doctor": Mount(
            source="edgekit.cli.doctor:doctor_command",
            summary="Check this machine: versions, devices, cache, and what it can do with each "
            "target.",
            panel=_LOOK,
        ),
    },
)
