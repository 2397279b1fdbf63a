"""``edgekit data``: look at rows before they are trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.mounting import new_app
from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.training.data_report import DataReport

app = new_app()


@app.callback()
def _group() -> None:
    """Look at the rows of a recipe before training.

    Example:
        edgekit data check recipe.yaml
    """


@app.command(name="check")
def check_command(
    recipe: Annotated[
        Path,
        typer.Argument(help="Training recipe (YAML).", show_default=False, metavar="RECIPE"),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of the recipe (repeatable)."
        ),
    ] = None,
    lengths: Annotated[
        bool,
        typer.Option("--lengths/--no-lengths", help="Count tokens; needs the base's tokenizer."),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if there are problems.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is odd about a recipe's rows: repeats, conflicts, leaks, lengths, classes.

    Nothing is trained and nothing is written. Rows that cannot be used at all are
    errors, with or without --strict.

    Examples:
        edgekit data check recipe.yaml
        edgekit data check recipe.yaml --strict --json
    """
    from edgekit.quiet import quiet_libraries
    from edgekit.recipes import TrainRecipe, load_recipe
    from edgekit_runtime.cli.console import write_json

    loaded = load_recipe(recipe, TrainRecipe, set_ or [])
    with quiet_libraries():
        from edgekit.training.data_report import check_data

        report = check_data(loaded, lengths=lengths)
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report)
    if strict and report.n_problems:
        raise typer.Exit(1)


def _show(report: "DataReport") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table

    counts = ", ".join(f"{count} {name}" for name, count in report.rows.items())
    labels = f"; {len(report.labels)} labels" if report.labels else ""
    console().print(f"rows: {counts}{labels}", markup=False, highlight=False)
    if not report.findings:
        console().print("Nothing odd was found.")
        return
    table = new_table(None, ["", "check", "found"], text="found")
    for one in report.findings:
        more = " …" if one.n_rows > len(one.places) > 0 else ""
        word = "problem" if one.is_problem else "note"
        places = ", ".join(one.places) + more
        add_row(table, word, one.check, f"{one.text}\n{places}" if places else one.text)
    console().print(table)
