"""Pictures of a search: its history, each key against the score, and the Pareto set."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.tuning.loading import Search
from edgekit.tuning.report import SearchReport, TrialRecord, shown

_TRIAL, _BEST, _DEFAULTS = "#9db4c0", "#c8553d", "#5c6b73"


def draw_search(search: Search, report: SearchReport) -> list[str]:
    """Draw into the search's directory; returns the names of the files."""
    done = [trial for trial in report.trials if trial.scores]
    names = ["history.png", "parameters.png"]
    _draw_history(search.output / names[0], report, done)
    _draw_parameters(search.output / names[1], search, report, done)
    if len(report.objectives) > 1:
        names.append("pareto.png")
        _draw_pareto(search.output / names[2], report, done)
    return names


def _figure(columns: int = 1, rows: int = 1) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (7, 4) if columns == rows == 1 else (3.4 * columns, 3 * rows)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _draw_history(path: Path, report: SearchReport, done: list[TrialRecord]) -> None:
    from matplotlib.ticker import MaxNLocator

    metric, direction = next(iter(report.objectives.items()))
    pick = min if direction == "minimize" else max
    runs = [trial.run for trial in done]
    scores = [trial.scores[metric] for trial in done]
    figure = _figure()
    axes = figure.add_subplot()
    axes.scatter(runs, scores, color=_TRIAL, label="trial")
    best = [pick(scores[: index + 1]) for index in range(len(scores))]
    axes.step(runs, best, where="post", color=_BEST, label="best so far")
    axes.axhline(report.defaults[metric], color=_DEFAULTS, linestyle="--", label="defaults")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=f"{report.output.name}: {metric}", xlabel="run", ylabel=f"{metric}, validation")
    _finish(axes)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _draw_parameters(
    path: Path, search: Search, report: SearchReport, done: list[TrialRecord]
) -> None:
    from matplotlib.ticker import NullFormatter

    metric = next(iter(report.objectives))
    columns = min(3, len(search.space))
    rows = math.ceil(len(search.space) / columns)
    figure = _figure(columns, rows)
    for place, (key, parameter) in enumerate(search.space.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        is_choice = parameter.values is not None
        for trial in done:
            value = trial.values[key]
            # A choice is drawn by its name, in the order of the search file.
            at = list(parameter.values or ()).index(value) if is_choice else value
            colour = _BEST if trial.run == report.best_run else _TRIAL
            axes.scatter([at], [trial.scores[metric]], color=colour)
        if is_choice:
            names = [shown(value)[:16] for value in parameter.values or ()]
            axes.set_xticks(range(len(names)), names)
        elif parameter.log:
            axes.set_xscale("log")
            axes.set_xlim(parameter.low, parameter.high)
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=key, ylabel=metric)
        _finish(axes)
    figure.savefig(path, metadata={"Software": None})


def _draw_pareto(path: Path, report: SearchReport, done: list[TrialRecord]) -> None:
    """The first two objectives; what is not beaten is joined."""
    first, second = [*report.objectives][:2]
    figure = _figure()
    axes = figure.add_subplot()
    points = [(trial.scores[second], trial.scores[first], trial) for trial in done]
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], color=_TRIAL, label="trial")
    front = sorted((x, y) for x, y, trial in points if trial.run in report.pareto)
    axes.plot(*zip(*front, strict=True), color=_BEST, marker="o", label="Pareto set")
    _annotate_defaults(axes, report.defaults, second, first)
    axes.set(title=report.output.name, xlabel=second, ylabel=first)
    _finish(axes)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _annotate_defaults(axes: Any, scores: Mapping[str, float], x: str, y: str) -> None:
    axes.scatter([scores[x]], [scores[y]], color=_DEFAULTS, marker="x", label="defaults")
