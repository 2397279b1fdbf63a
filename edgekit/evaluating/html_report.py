"""An evaluation as one HTML page: scores, pictures, the worst rows; nothing is loaded for it."""

from collections.abc import Sequence
from pathlib import Path

from edgekit.evaluating.pictures import draw_confusion, draw_reliability, draw_scores
from edgekit.evaluating.report import EvaluationReport
from edgekit.evaluating.rows import AnsweredRow
from edgekit.pages.rendering import render_page

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_N_WORST = 20
_N_CONFUSED = 10
_NOT_SHARES = ("perplexity", "bits_per_byte")  # a harness task has them with words before


def html_report(report: EvaluationReport) -> str:
    """Write an evaluation as a page."""
    shares = {name: v for name, v in report.metrics.items() if not name.endswith(_NOT_SHARES)}
    compared = report.comparison.metrics if report.comparison else {}
    differences = {n: found for n, found in compared.items() if not n.endswith(_NOT_SHARES)}
    return render_page(
        _TEMPLATE,
        report=report,
        scores=draw_scores(shares, report.intervals, "score"),
        differences=draw_scores(
            {name: found.difference for name, found in differences.items()},
            {name: found.interval for name, found in differences.items()},
            "difference to the other run",
        ),
        confusion=draw_confusion(report.confusion) if report.confusion else "",
        confused=report.confusion.most_confused(_N_CONFUSED) if report.confusion else [],
        reliability=draw_reliability(report.rows),
        worst=worst_rows(report.rows, _N_WORST),
    )


def worst_rows(rows: Sequence[AnsweredRow], count: int) -> list[AnsweredRow]:
    """Wrong rows, those first that the model was surest of, or whose reference surprised it most.

    Rows that were only read count as wrong.
    """
    wrong = [row for row in rows if row.is_wrong]
    return sorted(wrong, key=lambda row: (-(row.probability or 0), -_surprise(row)))[:count]


def _surprise(row: AnsweredRow) -> float:
    """Nats per token of the reference."""
    return row.nll / row.n_tokens if row.nll is not None and row.n_tokens else 0.0
