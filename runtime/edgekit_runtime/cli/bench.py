"""``bench``: measure a bundle on this machine."""

from collections.abc import Mapping
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
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Timed answers.")
    ] = 5,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=0, help="Answers before, not timed.")
    ] = 1,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed, memory and adapter swaps of a bundle on this machine.

    Runs in a process of its own, so that load time and memory are the bundle's.
    What each figure means stands in the reference.

    Examples:
        {command} my-bundle
        {command} my-bundle --adapter banking --repeats 10 --json
    """
    from rich.progress import Progress

    from edgekit_runtime.bench import bench
    from edgekit_runtime.bench_report import BenchPlan

    plan = BenchPlan(
        bundle=str(bundle),
        adapter=adapter,
        target=target,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        warmup=warmup,
        threads=threads,
    )
    stderr = console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("loading", total=None)
        report = bench(
            plan,
            lambda done, total, what: progress.update(
                task, completed=done, total=total, description=what
            ),
        )
    if as_json:
        write_json(report)
    else:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    out = console()
    bundle, machine, versions = report["bundle"], report["machine"], report["versions"]
    title = f"{bundle['name']} {bundle['version']}, target {report['target']}, "
    title += f"adapter {report['adapter'] or 'none'}"
    table = new_table(title, ["figure", "median", "p95", "p99", "unit"], ["median", "p95", "p99"])
    add_row(table, "load", f"{report['load_ms']:.0f}", "", "", "ms")
    _add_percentiles(table, "first token (TTFT)", report["ttft_ms"])
    add_row(table, "prefill", f"{report['prefill_tokens_per_s']:.0f}", "", "", "tokens/s")
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
    out.print(table)
    lines = [
        f"{report['prompt_tokens']} prompt + {report['new_tokens']} new tokens, "
        f"{report['repeats']} repeats after {report['warmup']}, {report['threads']} threads",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'] or ['?'])}), "
        f"{show_size(machine['memory_bytes'] or 0)}",
        f"{machine['os']} {machine['arch']}, Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    out.print("\n".join(lines), style="dim", markup=False, highlight=False)


def _decode_unit(report: Mapping[str, Any]) -> str:
    spread = report["decode_spread"]
    return f"tokens/s ({spread['min']:.1f} to {spread['max']:.1f})"


def _add_percentiles(table: Any, name: str, percentiles: Mapping[str, float]) -> None:
    tail = f"{percentiles['p99']:.1f}" if "p99" in percentiles else ""
    add_row(table, name, f"{percentiles['p50']:.1f}", f"{percentiles['p95']:.1f}", tail, "ms")
