"""What ``edgekit eval`` shows and writes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli.written_files import write_file
from edgekit_runtime.cli.console import add_row, console, new_table, printable, warn

if TYPE_CHECKING:
    from edgekit.evaluating.report import EvaluationReport, HarnessFigures
    from edgekit.evaluating.sampling import Interval

_N_CONFUSED = 5


def write_outputs(report: "EvaluationReport", output: Path | None, html: Path | None) -> None:
    """Write the files that were asked for."""
    if output is not None:
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_file(output, text)
    if html is not None:
        from edgekit.evaluating.html_report import html_report

        write_file(html, html_report(report))


def write_rating_sheet(report: "EvaluationReport", compare: Path, sheet: Path) -> None:
    """Write both runs' answers side by side, and beside that the key that says whose they are."""
    from edgekit.evaluating.comparing import read_run
    from edgekit.evaluating.rating_sheet import csv_sheet, html_sheet, key_path, make_sheet

    other = read_run(compare)
    this = ", ".join(part for part in (report.subject, report.adapter, report.method) if part)
    pairs, key = make_sheet(report.rows, other.rows, this, other.name)
    write = html_sheet if sheet.suffix == ".html" else csv_sheet
    write_file(sheet, write(pairs, key.sheet))
    write_file(key_path(sheet), json.dumps(key.to_dict(), indent=2, ensure_ascii=False) + "\n")


def print_report(report: "EvaluationReport") -> None:
    """Show scores, the comparison, the most frequent mistakes and a few wrong rows."""
    screen = console()
    who = f"{report.subject} + {report.adapter}" if report.adapter else report.subject
    screen.print(f"{who}, {report.method}, {report.n_rows} rows", markup=False, soft_wrap=True)
    if report.harness is not None:
        _print_harness(report, report.harness)
        return
    sure = f"{report.confidence:.0%} interval"
    table = new_table(None, ["metric", "score", sure], right=["score", sure])
    for name, value in report.metrics.items():
        add_row(table, name, f"{value:.3f}", shown_interval(report.intervals[name]))
    screen.print(table)
    for weights, loss in report.losses.items():
        screen.print(f"loss {loss:.3f} on {weights}", markup=False, highlight=False)
    if report.n_too_long:
        warn(f"{report.n_too_long} rows over the context were left out")
    _print_comparison(report)
    if report.confusion is not None:
        for right, guessed, count in report.confusion.most_confused(_N_CONFUSED):
            text = printable(f"{count} x {right} taken for {guessed}")
            screen.print(text, markup=False, highlight=False, soft_wrap=True)
    for row in report.wrong:
        asked = printable(row["prompt"][-200:])
        got = f"  reference: {row['reference']}\n  prediction: {printable(row['prediction'])}"
        screen.print(f"{asked}\n{got}\n", markup=False, highlight=False, soft_wrap=True)


def _print_harness(report: "EvaluationReport", figures: "HarnessFigures") -> None:
    for name, task in figures.tasks.items():
        text = f"{name}, version {task.version}: {task.n_rows} rows, {task.shots} shots"
        console().print(text, markup=False, highlight=False, soft_wrap=True)
    sure = f"{report.confidence:.0%} interval"
    columns = ["score", "stderr", sure]
    table = new_table(None, ["metric", *columns], right=columns)
    for name, value in report.metrics.items():
        error = figures.standard_errors[name]
        shown = "unknown" if error is None else f"{error:.3f}"
        add_row(table, name, f"{value:.3f}", shown, shown_interval(report.intervals[name]))
    console().print(table)
    if figures.n_cut:
        warn(f"{figures.n_cut} requests are over the context; their beginning was left out")


def shown_interval(interval: "Interval | None") -> str:
    """Such as ``0.812 to 0.867``."""
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _print_comparison(report: "EvaluationReport") -> None:
    if report.comparison is None:
        return
    screen = console()
    screen.print(f"against {report.comparison.other}", markup=False, soft_wrap=True)
    columns = ["metric", "other", "difference", "interval", "p"]
    table = new_table(None, columns, right=columns[1:])
    for name, found in report.comparison.metrics.items():
        add_row(
            table,
            name,
            f"{found.other:.3f}",
            f"{found.difference:+.3f}",
            shown_interval(found.interval),
            "unknown" if found.p_value is None else f"{found.p_value:.3g} ({found.test})",
        )
    screen.print(table)
