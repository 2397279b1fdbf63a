"""A training run as one HTML page: its curve, scores, memory, and what it takes to do it again."""

from pathlib import Path

import yaml

from edgekit.pages.drawing import draw_bars, svg_text
from edgekit.pages.rendering import render_page
from edgekit.training.report import TrainingReport, losses_figure

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def training_page(report: TrainingReport) -> str:
    """Write a finished run as a page."""
    recipe = report.recipe
    trained = f"training ({recipe['loss']})" if recipe["loss"] else "training"
    estimate = dict(report.memory_estimate)
    together = estimate.pop("total_bytes")
    purposes = {name.removesuffix("_bytes"): n_bytes for name, n_bytes in estimate.items()}
    purposes |= {"together": together, "measured peak": report.peak_rss_bytes}
    return render_page(
        _TEMPLATE,
        report=report,
        name=report.output.name,
        kind="base" if recipe["method"] == "full" else "adapter",
        scores=sorted({name for scores in report.metrics.values() for name in scores}),
        curve=svg_text(losses_figure(report.loss_curve, report.best_step, "", trained)),
        memory=draw_bars({name: n / 1e6 for name, n in purposes.items() if n}, "MB", "{:.0f}"),
        recipe=yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True),
    )
