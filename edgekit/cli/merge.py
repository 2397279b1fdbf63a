"""``edgekit merge``: base and adapter in, a base out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.merging import MergeReport


def merge_command(
    adapter: Annotated[
        Path, typer.Argument(help="PEFT directory.", show_default=False, metavar="ADAPTER")
    ],
    base: Annotated[
        str, typer.Option(help="Alias, Hub id, Hugging Face directory, or .gguf file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the new base.")],
    assume_base: Annotated[
        bool,
        typer.Option("--assume-base", help="Take an adapter whose recorded base name contradicts."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base: a base of its own, for what no socket takes.

    DoRA, `modules_to_save` and trained biases reach a device this way, exactly. The new base is
    compared with base and adapter before it is put in place.

    Examples:
        edgekit merge adapters/banking-dora --base smollm2-135m -o models/banking
    """
    from edgekit_runtime.cli.console import console, write_json

    screen = console(stderr=True)
    with screen.status("merging …"):
        from edgekit.merging import merge

        report = merge(base, adapter, output, assume_base=assume_base)
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report)


def _show(report: "MergeReport") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table

    table = new_table(None, ["", ""])
    add_row(table, "base", str(report.output))
    add_row(table, "fingerprint", f"{report.fingerprint[:19]}…")
    add_row(table, "made from", f"{report.base} + {report.adapter}")
    add_row(table, "license", report.license or "not declared")
    add_row(table, "checked", f"mean KL {report.mean_kl:.1e} over {report.n_positions} positions")
    console().print(table)
    console().print(
        f"Next: edgekit build --base {report.output} -o bundles/{report.output.name}",
        markup=False,
        soft_wrap=True,
    )
