"""``bench``: measure a bundle on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit_runtime.cli.console import add_row, console, new_table, show_size, write_json
from edgekit_runtime.cli.options import (
    AdapterOption,
    BundleArgument,
    JsonOption,
    TargetOption,
    ThreadsOption,
)


def bench_command(
    bundle: BundleArgument,
    adapter: AdapterOption = None,
    target: TargetOption = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", metavar="N", min=1, help="Length of the prompt.")
    ] = 128,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", metavar="N", min=2, help="Length of each answer.")
    ] = 64,
    prefill_tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--prefill-tokens",
            metavar="N",
            min=1,
            help="Also time prompts of this length; give it once for each.",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Timed answers.")
    ] = 5,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=0, help="Answers before, not timed.")
    ] = 1,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", metavar="N", min=1, help="Processes to measure; figures are medians."
        ),
    ] = 1,
    threads: ThreadsOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="BUNDLE", help="Measure this bundle too, in turn."),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="Compare with what --json wrote earlier."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="SHARE", min=0, help="How far a figure may move unnoticed."
        ),
    ] = 0.05,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with pictures there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed, memory and adapter swaps of a bundle on this machine.

    Runs in a process of its own, so that load time and memory are the bundle's.
    What each figure means stands in the reference. With --against or --compare it
    exits with 1 if a figure is worse; that takes 5 rounds or more.

    Examples:
        {command} my-bundle
        {command} my-bundle --adapter banking --repeats 10 --json
        {command} my-bundle --rounds 5 --json > before.json
        {command} my-bundle --rounds 5 --compare before.json
        {command} my-bundle --rounds 5 --against other-bundle --html bench.html
    """
    from dataclasses import replace

    from rich.progress import Progress

    from edgekit_runtime.bench import bench_in_turn
    from edgekit_runtime.bench_compare import check_conditions, compare, read_report
    from edgekit_runtime.bench_report import BenchPlan

    if against is not None and earlier is not None:
        raise typer.BadParameter("give --against or --compare, not both")
    then = None if earlier is None else read_report(earlier)
    plan = BenchPlan(
        bundle=str(bundle),
        adapter=adapter,
        target=target,
        prompt_tokens=prompt_tokens,
        prefill_tokens=tuple(prefill_tokens or ()),
        new_tokens=new_tokens,
        repeats=repeats,
        warmup=warmup,
        threads=threads,
    )
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise _unwritable(html, "it is no place for a file")
    if then is not None:
        check_conditions(then, plan)
    plans = [plan] if against is None else [plan, replace(plan, bundle=str(against))]
    stderr = console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("loading", total=None)
        report, *others = bench_in_turn(
            plans,
            rounds,
            lambda done, total, what: progress.update(
                task, completed=done, total=total, description=what
            ),
        )
    then = others[0] if others else then
    found = None
    if then is not None:
        found = compare(then, report, tolerance=tolerance, is_paired=bool(others)).to_dict()
    whole = report if found is None else report | {"then": then, "comparison": found}
    if html is not None:
        _write_page(html, whole)
    if as_json:
        write_json(whole)
    else:
        _show(report)
        if found is not None:
            _show_comparison(found, "the other bundle" if others else "then")
    if found is not None and found["verdict"] == "worse":
        raise typer.Exit(1)


def _write_page(path: Path, report: Mapping[str, Any]) -> None:
    from edgekit_runtime.bench_page import bench_page
    from edgekit_runtime.disk import replace_file

    try:
        replace_file(path, bench_page(report).encode())
    except OSError as err:
        raise _unwritable(path, err.strerror) from err


def _unwritable(path: Path, reason: str | None) -> Exception:
    from edgekit_runtime.errors import EdgekitRuntimeError

    return EdgekitRuntimeError(f"'{path}' cannot be written: {reason}", hint="Give another --html.")


def _show(report: Mapping[str, Any]) -> None:
    out = console()
    bundle, machine, versions = report["bundle"], report["machine"], report["versions"]
    title = f"{bundle['name']} {bundle['version']}, target {report['target']}, "
    title += f"adapter {report['adapter'] or 'none'}"
    table = new_table(title, ["figure", "median", "p95", "p99", "unit"], ["median", "p95", "p99"])
    add_row(table, "load", f"{report['load_ms']:.0f}", "", "", "ms")
    _add_percentiles(table, "first token (TTFT)", report["ttft_ms"])
    add_row(table, "prefill", f"{report['prefill_tokens_per_s']:.0f}", "", "", "tokens/s")
    for other in report["prefill"]:
        add_row(
            table,
            f"prefill, {other['prompt_tokens']} tokens",
            f"{other['tokens_per_s']:.0f}",
            "",
            "",
            f"tokens/s, first token after {other['ttft_ms']:.0f} ms",
        )
    add_row(table, "decode", f"{report['decode_tokens_per_s']:.1f}", "", "", _decode_unit(report))
    _add_percentiles(table, "between tokens", report["itl_ms"])
    if report["swap_ms"] is not None:
        _add_percentiles(table, "swap, loaded", report["swap_ms"]["resident"])
        _add_percentiles(table, "swap, from disk", report["swap_ms"]["cold"])
        first = report["swap_first_token_ms"]
        _add_percentiles(table, "swap to first token, loaded", first["resident"])
        _add_percentiles(table, "swap to first token, from disk", first["cold"])
        ratio = f"{report['adapter_ratio']:.2f}"
        add_row(table, "adapter on / off", ratio, "", "", f"decode, {report['ratio_adapter']}")
    memory, unit = show_size(report["rss_bytes"]).split()
    add_row(table, "peak memory", memory, "", "", unit)
    if report["rss_private_bytes"] is not None:
        private, unit = show_size(report["rss_private_bytes"]).split()
        mapped = show_size(report["rss_mapped_bytes"])
        add_row(
            table, "its own memory", private, "", "", f"{unit}, beside {mapped} of mapped files"
        )
    if report["joules_per_token"] is not None:
        add_row(table, "energy", f"{report['joules_per_token']:.3f}", "", "", "J a token")
    out.print(table)
    lines = [
        f"{report['prompt_tokens']} prompt + {report['new_tokens']} new tokens, "
        f"{report['repeats']} repeats after {report['warmup']}, {report['threads']} threads"
        + (f", median of {report['rounds']} processes" if report["rounds"] > 1 else ""),
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'] or ['?'])}), "
        f"{show_size(machine['memory_bytes'] or 0)}",
        f"{machine['os']} {machine['arch']}, Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    out.print("\n".join(lines), style="dim", markup=False, highlight=False)


def _show_comparison(found: Mapping[str, Any], then: str) -> None:
    numbers = [then, "now", "ratio", "from", "to"]
    table = new_table("compared", ["figure", *numbers, "verdict"], numbers)
    for row in found["figures"]:
        values = [f"{row['then']:.4g}", f"{row['now']:.4g}"]
        if row["figure"] == "rss_bytes":
            values = [show_size(round(row["then"])), show_size(round(row["now"]))]
        ratios = [f"{row[key]:.3f}" for key in ("ratio", "low", "high")]
        verdict = "–" if row["verdict"] == "too few rounds" else row["verdict"]
        add_row(table, row["figure"], *values, *ratios, verdict)
    out = console()
    out.print(table)
    if found["verdict"] == "too few rounds":
        out.print("Too few rounds for a verdict: ask for --rounds 5 or more, of both.")


def _decode_unit(report: Mapping[str, Any]) -> str:
    spread = report["decode_spread"]
    return f"tokens/s ({spread['min']:.1f} to {spread['max']:.1f})"


def _add_percentiles(table: Any, name: str, percentiles: Mapping[str, float]) -> None:
    tail = f"{percentiles['p99']:.1f}" if "p99" in percentiles else ""
    add_row(table, name, f"{percentiles['p50']:.1f}", f"{percentiles['p95']:.1f}", tail, "ms")
