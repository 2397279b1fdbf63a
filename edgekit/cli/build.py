"""``edgekit build``: recipe or flags to a bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.quantize_sweep import print_costs
from edgekit.cli.written_files import check_outputs, write_file
from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.building.build import BuildReport
    from edgekit.building.parity_figures import ParityFigures


def build_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="Bundle recipe (YAML); or say it all by flags.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Alias, Hub id, Hugging Face directory, or .gguf file.")
    ] = None,
    base_onnx: Annotated[
        Path | None,
        typer.Option(help="Somebody's int4 ONNX Runtime GenAI folder, taken instead of an export."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="NAME=PATH of a PEFT directory.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Target profile: name or .yaml path.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Bundle directory.")] = None,
    name: Annotated[str | None, typer.Option(help="Bundle name; the output's by default.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: key=value.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="Other than the targets' own, such as tier=quality or head_bits=8."),
    ] = None,
    report_quantization: Annotated[
        bool,
        typer.Option("--report-quantization", help="Perplexity and KL against the float base."),
    ] = False,
    text: Annotated[
        Path | None, typer.Option(help="What to report on; a short text of our own by default.")
    ] = None,
    parity: Annotated[bool, typer.Option(help="Run the parity gate.")] = True,
    assume_base: Annotated[
        bool, typer.Option("--assume-base", help="Take adapters that name another base.")
    ] = False,
    allow_other_quantization: Annotated[
        bool,
        typer.Option(
            "--allow-other-quantization",
            help="Take adapters that were trained on other quantized weights.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write no bundle.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with pictures there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build one bundle: the base as int4 ONNX, every adapter, checked against PyTorch.

    Examples:
        edgekit build bundles/demo/bundle.yaml
        edgekit build bundles/demo/bundle.yaml --quantization tier=fast --report-quantization
        edgekit build --base smollm2-135m --adapter banking=adapters/banking -o bundles/support
        edgekit build --base-onnx downloads/phi-int4 --adapter legal=adapters/legal -o bundles/legal
        edgekit build bundles/demo/bundle.yaml --html build.html
        edgekit build bundles/demo/bundle.yaml --target cpu --target cuda --dry-run
    """
    from edgekit_runtime.cli.console import console, write_json

    arguments = _arguments(
        recipe, base, base_onnx, adapter or [], target or [], output, name, set_ or []
    )
    if quantization is not None:
        arguments["quantization"] = quantization
    if report_quantization and base_onnx is not None:
        raise typer.BadParameter(
            "--report-quantization compares with the float base, and --base-onnx has none"
        )
    if text is not None and not report_quantization:
        raise typer.BadParameter("--text needs --report-quantization")
    if html is not None and dry_run:
        raise typer.BadParameter("--html shows what was built, and --dry-run builds nothing")
    check_outputs(html)
    if html is not None and html.resolve().is_relative_to(arguments["output"].resolve()):
        raise typer.BadParameter("--html: a bundle holds no file that its manifest does not list")
    rows = None
    if report_quantization and not dry_run:
        from edgekit.bases import resolve_base
        from edgekit.quantizing.report import text_rows

        rows = text_rows(resolve_base(arguments["base"]), text, None)
    screen = console(stderr=True)
    arguments |= {"parity": parity, "assume_base": assume_base, "overwrite": overwrite}
    arguments["allow_other_quantization"] = allow_other_quantization
    with screen.status("building …") as status:

        def show(message: str) -> None:
            status.update(message)
            if not screen.is_terminal:
                screen.print(message, markup=False, highlight=False)

        if dry_run:
            from edgekit.building.plan import plan_build
            from edgekit.cli.build_plan import show_plan

            plan = plan_build(**arguments, on_message=show)
        else:
            from edgekit.building.build import build

            report, costs = build(**arguments, on_message=show), {}
            if rows is not None:
                costs = _costs(report, arguments["base"], rows, show)
    if dry_run:
        write_json(plan.to_dict()) if as_json else show_plan(plan)
        return
    told = _to_json(report)
    if report_quantization:
        told["quantization"] = {name: figure.to_dict() for name, figure in costs.items()}
    if as_json:
        write_json(told)
    else:
        print_report(report)
        if costs:
            print_costs(costs)
    if html is not None:
        from edgekit.building.page import build_page

        write_file(html, build_page(told))


def _costs(
    report: "BuildReport", base: str, rows: list[list[int]], on_message: Callable[[str], None]
) -> dict[str, Any]:
    """What quantization costs on each target of a bundle; static graphs say so in their gate."""
    import os

    from edgekit.bases import resolve_base
    from edgekit.quantizing.report import compare_with_float

    targets = {
        name: report.output / record.path
        for name, record in report.manifest.targets.items()
        if "score" in record.graphs
    }
    threads = os.cpu_count() or 1
    found = compare_with_float(
        resolve_base(base), targets, rows, threads=threads, on_message=on_message
    )
    return dict(found)


def _arguments(
    recipe: Path | None,
    base: str | None,
    base_onnx: Path | None,
    adapters: list[str],
    targets: list[str],
    output: Path | None,
    name: str | None,
    overrides: list[str],
) -> dict[str, Any]:
    """What :func:`edgekit.build` is called with; flags win over the recipe."""
    from edgekit.building.recipe import arguments_of
    from edgekit.recipes import BundleRecipe, load_recipe

    arguments: dict[str, Any] = {}
    if recipe is not None:
        arguments = arguments_of(load_recipe(recipe, BundleRecipe, overrides))
    elif overrides:
        raise typer.BadParameter("--set needs a recipe")
    if base:
        arguments["base"] = base
    if base_onnx:
        arguments["base_onnx"] = base_onnx
    if output:
        arguments["output"] = output
    if targets:
        arguments["targets"] = tuple(targets)
    if adapters:
        arguments["adapters"] = arguments.get("adapters", {}) | _parse_adapters(adapters)
    missing = [] if {"base", "base_onnx"} & set(arguments) else ["--base or --base-onnx"]
    missing += [] if "output" in arguments else ["--output"]
    if missing:
        flags = " and ".join(missing)
        raise typer.BadParameter(f"give a recipe, or say {flags}")
    arguments["name"] = name or arguments.get("name") or arguments["output"].resolve().name
    return arguments


def _parse_adapters(pairs: list[str]) -> dict[str, Any]:
    from edgekit.bundling.adapters import AdapterSource

    parsed = {}
    for pair in pairs:
        key, separator, path = pair.partition("=")
        if not separator or not key or not path:
            raise typer.BadParameter(f"--adapter {pair!r}: expected NAME=PATH")
        if key in parsed:
            raise typer.BadParameter(f"--adapter {key!r} is given twice")
        parsed[key] = AdapterSource(path=Path(path))
    return parsed


def _show(figure: float | None, form: str) -> str:
    """A figure, or nothing where it could not be measured."""
    return "" if figure is None else format(figure, form)


def _to_json(report: "BuildReport") -> dict[str, Any]:
    from edgekit.building.build import parity_report

    return {
        "output": str(report.output),
        "name": report.manifest.name,
        "version": report.manifest.version,
        "digest": report.manifest.digest,
        "size_bytes": report.size_bytes,
        "sizes": report.sizes(),
        "targets": {
            name: {
                "read_bytes": report.read_bytes(name),
                "seconds": round(report.seconds[name], 1),
                "verified_on": record.verified_on,
            }
            for name, record in report.manifest.targets.items()
        },
        "parity": parity_report(report.parity),
    }


def print_report(report: "BuildReport") -> None:
    """Print what the gate found, and what came of each target."""
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size

    screen = console()
    kls = ["effect\nKL", "exact\nKL", "top-1", "shipping\nKL"]
    numbers = [*kls, "NLL\ntorch", "NLL\nshipped", "cost"]
    for target, figures in report.parity.items():
        title = f"Parity on target '{target}', KL and NLL in nats a token"
        table = new_table(title, ["adapter", *numbers], right=numbers)
        for adapter, figure in figures.items():
            add_row(
                table,
                adapter or "(base)",
                _show(figure.effect_kl, ".2g"),
                f"{figure.exact_mean_kl:.1e}",
                f"{figure.exact_top1:.2%}",
                f"{figure.shipping_mean_kl:.1e}",
                _show(figure.nll_torch, ".3f"),
                f"{figure.nll_shipping:.3f}",
                _show(figure.nll_increase, "+.3f"),
            )
        screen.print(table)
    if len(report.seconds) > 1:
        screen.print(_targets_table(report))
    if not report.parity:
        screen.print("[yellow]unchecked: the parity gate was switched off[/]")
    size = show_size(report.size_bytes)
    screen.print(f"{report.output}  {size}  {report.manifest.digest}", soft_wrap=True)


def _targets_table(report: "BuildReport") -> Any:
    """One line a target; figures without adapter / the worst of the adapters."""
    from edgekit_runtime.cli.console import add_row, new_table, show_size

    numbers = ["reads", "time", "shipping KL", "cost"]
    title = "Targets; KL and cost in nats a token, without adapter / with the worst adapter"
    table = new_table(title, ["target", *numbers, "verified on"], numbers, text="verified on")
    for name, record in report.manifest.targets.items():
        figures = report.parity.get(name, {})
        add_row(
            table,
            name,
            show_size(report.read_bytes(name)),
            f"{report.seconds[name]:.0f} s",
            _off_and_on(figures, "shipping_mean_kl", "{:.0e}"),
            _off_and_on(figures, "nll_increase", "{:+.3f}"),
            (record.verified_on or "unchecked").replace("ExecutionProvider", ""),
        )
    return table


def _off_and_on(figures: "Mapping[str, ParityFigures]", field: str, form: str) -> str:
    """A figure of the base, and the worst of the adapters'."""
    found = {name: getattr(figure, field) for name, figure in figures.items()}
    values = {name: value for name, value in found.items() if value is not None}
    off = [values.pop("")] if "" in values else []
    on = [max(values.values())] if values else []
    return " / ".join(form.format(value) for value in off + on)
