"""Options that several commands take, and what they mean to the engine."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit_runtime.errors import GenerationError

BundleArgument = Annotated[
    Path, typer.Argument(help="Directory of the bundle.", show_default=False, metavar="BUNDLE")
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="NAME",
        help="Adapter to answer with; several as NAME=WEIGHT,NAME=WEIGHT; none is the bare base.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", "-t", metavar="NAME", help="Target of the bundle; the best one here by default."
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="Processor threads to use.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]

_SAMPLING = "Sampling"
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        "-n",
        metavar="N",
        min=1,
        help="Longest answer; the adapter's own limit or 256 by default.",
        rich_help_panel=_SAMPLING,
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        min=0.0,
        help="0 takes the likeliest token.",
        rich_help_panel=_SAMPLING,
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        metavar="K",
        min=0,
        help="Sample from the K likeliest; 0: from all.",
        rich_help_panel=_SAMPLING,
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        metavar="P",
        min=0.0,
        max=1.0,
        help="Sample from the likeliest tokens that add up to P.",
        rich_help_panel=_SAMPLING,
    ),
]
RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty",
        metavar="X",
        min=0.0,
        help="Above 1 makes repeated tokens less likely.",
        rich_help_panel=_SAMPLING,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", min=0, help="Makes sampling repeatable.", rich_help_panel=_SAMPLING
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text (repeatable).",
        rich_help_panel=_SAMPLING,
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that the engine's own defaults hold for the others."""
    return {name: value for name, value in options.items() if value not in (None, (), [])}


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Split ``KEY=VALUE`` arguments; a malformed one is a usage error."""
    split = [pair.partition("=") for pair in pairs]
    for key, equals, value in split:
        if not equals or not key.strip():
            raise typer.BadParameter(
                f"expected KEY=VALUE, got '{key}{equals}{value}'", param_hint=option
            )
    return {key.strip(): value for key, _, value in split}


def read_schema(path: Path) -> dict[str, Any]:
    """Read a JSON schema from a file.

    Raises:
        GenerationError: If it is missing, no JSON, or no object.
    """
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise GenerationError(
            f"schema {path}: cannot be read: {err.strerror}",
            hint="--schema takes a file that holds a JSON schema.",
        ) from err
    except ValueError as err:
        raise GenerationError(
            f"schema {path} is no JSON: {err}",
            hint="--schema takes a file that holds a JSON schema.",
        ) from err
    if not isinstance(schema, dict):
        raise GenerationError(
            f"schema {path}: expected a JSON object, got {type(schema).__name__}",
            hint='The smallest schema is {"type": "object"}.',
        )
    return schema


def unknown_keys(value: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """One line for each key that is not known, with the nearest one."""
    problems = []
    for key in sorted(set(value) - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        tail = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        problems.append(f"unknown key {key!r}; {tail}")
    return problems
