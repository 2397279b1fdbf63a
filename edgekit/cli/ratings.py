"""``edgekit ratings``: read a filled rating sheet."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import JsonOption


def ratings_command(
    sheet: Annotated[
        Path,
        typer.Argument(help="Filled sheet (csv).", show_default=False, metavar="SHEET"),
    ],
    key: Annotated[
        Path | None, typer.Option(help="Its key; SHEET.key.json unless you say otherwise.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the interval.")] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Count what a person found on a rating sheet of edgekit eval.

    Examples:
        edgekit ratings sheet.csv
        edgekit ratings ratings.csv --key sheet.html.key.json
    """
    from edgekit.evaluating.rating_sheet import key_path
    from edgekit.evaluating.ratings import rate, read_key
    from edgekit_runtime.cli.console import add_row, console, new_table, write_json

    report = rate(sheet, read_key(key or key_path(sheet)), confidence)
    if as_json:
        write_json(report.to_dict())
        return
    table = new_table(None, ["found", "rows"], right=["rows"])
    add_row(table, f"better: {report.this}", str(report.n_this))
    add_row(table, f"better: {report.other}", str(report.n_other))
    add_row(table, "ties", str(report.n_ties))
    add_row(table, "the same answer", str(report.n_equal))
    add_row(table, "left open", str(report.n_unrated))
    screen = console()
    screen.print(table)
    if report.win_rate is None or report.interval is None:
        screen.print("no row was won by either", markup=False)
        return
    low, high = report.interval
    screen.print(
        f"win rate {report.win_rate:.3f}, {report.confidence:.0%} interval {low:.3f} to "
        f"{high:.3f}, p {report.p_value:.3g}",
        markup=False,
        soft_wrap=True,
    )
