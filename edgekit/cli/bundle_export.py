"""``edgekit bundle export``: a bundle for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption

if TYPE_CHECKING:
    from edgekit.bundling.export import ExportReport


class FormatChoice(StrEnum):
    """Layouts that a bundle can be exported to."""

    GENAI = "genai"
    FOUNDRY = "foundry"
    ORTPACKAGE = "ortpackage"
    GGUF = "gguf"


def export_command(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new directory.")],
    format: Annotated[
        FormatChoice,
        typer.Option(
            help="genai: a model folder of onnxruntime-genai; foundry: one for Foundry Local; "
            "ortpackage: ONNX Runtime's model package, all targets; "
            "gguf: the adapters for llama.cpp."
        ),
    ] = FormatChoice.GENAI,
    target: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Of the bundle; cpu by default, in a package all."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", "-a", metavar="NAME", help="Only this one (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a target of a bundle, with its adapters, for another runtime.

    Stock onnxruntime-genai opens the folder and loads the adapters; edgekit's own checks stay
    behind: nothing there knows what an adapter was made for.

    Examples:
        edgekit bundle export my-bundle -o exported/my-model
        edgekit bundle export my-bundle -o exported/my-model.ortpackage --format ortpackage
        edgekit bundle export my-bundle -o exported/loras --format gguf --adapter legal
    """
    from edgekit.bundling.export import export
    from edgekit_runtime.cli.console import console, write_json

    with console(stderr=True).status("exporting …"):
        report = export(bundle, output, format=format.value, target=target, adapters=adapter)
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report)


def _show(report: "ExportReport") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size

    table = new_table(f"Exported to {report.output}", ["file", "size"], right=["size"])
    for path, size in report.files.items():
        add_row(table, path, show_size(size))
    console().print(table)
    if report.left_out:
        names = ", ".join(report.left_out)
        console().print(f"Left out, as their graphs are of fixed shape: {names}", markup=False)
