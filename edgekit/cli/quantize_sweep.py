"""``edgekit quantize-sweep``: a table of quantizations, measured on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.quantizing.report import QuantizationFigures
    from edgekit.quantizing.sweep import Try

_FIGURES = ["NLL float", "NLL", "NLL rise", "KL", "top-1", "perplexity"]


def sweep_command(
    base: Annotated[
        str, typer.Argument(help="Alias, Hub id, Hugging Face directory, or .gguf file.")
    ],
    target: Annotated[str, typer.Option(help="Target profile: name or .yaml path.")] = "cpu",
    try_: Annotated[
        list[str] | None,
        typer.Option("--try", help="KEY=VALUE[,KEY=VALUE]; give it once for each row."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to compare on; a short one by default.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of it, spread evenly.")] = 16384,
    threads: Annotated[int | None, typer.Option(min=1, help="Every core by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare quantizations of a base: size, speed, and what each costs.

    The first row is what the ratios of size and speed refer to. `*` marks rows that no other beats
    in size, speed and KL together.

    Examples:
        edgekit quantize-sweep smollm2-135m --text my-text.txt
        edgekit quantize-sweep smollm2-135m --try tier=fast --try block_size=64,head_bits=8
    """
    import os

    from edgekit_runtime.cli.console import console, write_json

    screen = console(stderr=True)
    with screen.status("measuring …") as status:

        def show(message: str) -> None:
            status.update(message)
            if not screen.is_terminal:
                screen.print(message, markup=False, highlight=False)

        from edgekit.bases import resolve_base
        from edgekit.quantizing.report import text_rows
        from edgekit.quantizing.sweep import TRIES, sweep
        from edgekit.targets import load_target

        profile = load_target(target)
        resolved = resolve_base(base)
        found = sweep(
            resolved,
            profile,
            text_rows(resolved, text, tokens),
            tuple(try_ or TRIES),
            threads=threads or os.cpu_count() or 1,
            on_message=show,
        )
    if as_json:
        write_json([one.to_dict() for one in found])
    else:
        _print(base, profile.name, found)


def print_costs(figures: Mapping[str, "QuantizationFigures"]) -> None:
    """Print what quantization costs on each target."""
    from edgekit_runtime.cli.console import add_row, console, new_table

    n_tokens = next(iter(figures.values())).n_tokens
    title = f"Quantization against the float base, {n_tokens:,} tokens, nats a token"
    table = new_table(title, ["target", *_FIGURES], right=_FIGURES)
    for name, figure in figures.items():
        add_row(table, name, *_cells(figure))
    console().print(table)


def _print(base: str, target: str, found: "list[Try]") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table

    title = (
        f"Quantizations of {base} on target '{target}', {found[0].figures.n_tokens:,} tokens, "
        "nats a token"
    )
    # What all rows have in common, or follows from the rest, is for --json.
    figures = slice(_FIGURES.index("NLL rise"), _FIGURES.index("top-1") + 1)
    numbers = ["MB", "size", "tok/s", "speed", *_FIGURES[figures]]
    table = new_table(title, ["", *numbers, "options"], right=numbers, text="options")
    for one in found:
        add_row(
            table,
            "*" if one.is_best else "",
            f"{one.size_bytes / 1e6:.1f}",
            f"{one.size_bytes / found[0].size_bytes:.2f}",
            f"{one.decode_tokens_per_s:.0f}",
            f"{one.speed_ratio:.2f}",
            *_cells(one.figures)[figures],
            one.options.replace(",", ", "),
        )
    console().print(table)


def _cells(figures: "QuantizationFigures") -> list[str]:
    return [
        f"{figures.nll_float:.3f}",
        f"{figures.nll:.3f}",
        f"{figures.nll_increase:+.3f} ±{_show(figures.nll_increase_se)}",
        f"{figures.mean_kl:.3f}",
        f"{figures.top1:.1%}",
        f"{figures.to_dict()['perplexity']:.2f}",
    ]


def _show(standard_error: float | None) -> str:
    return "?" if standard_error is None else f"{standard_error:.3f}"
