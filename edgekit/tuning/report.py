"""What a search ends with: its report as JSON and Markdown, and the winner's recipe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from edgekit.tuning.comparing import Comparison
from edgekit.tuning.loading import Search
from edgekit.tuning.space import with_values
from edgekit_runtime.disk import replace_file

REPORT, MARKDOWN, BEST_RECIPE = "search_report.json", "search_report.md", "best.yaml"
_BEST_RECIPE_SAYS = (
    "# The winner's values; `edgekit train` with this trains on all of the recipe's rows."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial.

    Attributes:
        run: Its number, and its directory's name below ``runs``.
        state: "complete", "pruned" or "failed".
        values: Of the recipe's keys, as typed in the search space.
        scores: By objective, on validation; empty unless complete.
        reason: Of a failure.
        attempts: 2 and more where a kill made it begin again.
    """

    run: int
    state: str
    values: Mapping[str, Any]
    scores: Mapping[str, float]
    seconds: float
    reason: str
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchReport:
    """One search, as far as it is.

    Attributes:
        output: The search's directory.
        best: Where the winner lies, as ``edgekit train`` would have left it.
        best_run: Its number.
        values: The winner's.
        objectives: Metric to "maximize" or "minimize".
        defaults: Scores of the recipe's own values, on validation.
        pareto: Runs that no other beats in every objective; the winner alone where there is one.
        comparison: Winner and defaults on the test rows; empty where none were kept.
        importances: Share of the first objective's spread that each key explains.
        n_trials: By state.
        rows: By split.
        seconds: Of all trials.
        warnings: What a person should know.
    """

    output: Path
    best: Path
    best_run: int
    values: Mapping[str, Any]
    scores: Mapping[str, float]
    objectives: Mapping[str, str]
    evaluate_on: str
    defaults: Mapping[str, float]
    pareto: Sequence[int]
    comparison: Sequence[Comparison]
    importances: Mapping[str, float]
    n_trials: Mapping[str, int]
    rows: Mapping[str, int]
    trials: Sequence[TrialRecord]
    seconds: float
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        paths = {"output": self.output.as_posix(), "best": self.best.as_posix()}
        return {"schema_version": "1.0", **values, **paths}


def write_report(search: Search, report: SearchReport, pictures: Sequence[str]) -> None:
    """Write the report twice, and the winner's recipe with the recipe's own data.

    Args:
        search: What was searched.
        report: What came out.
        pictures: Files beside the report.
    """
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
    replace_file(search.output / REPORT, text.encode())
    replace_file(search.output / MARKDOWN, _markdown(search, report, pictures).encode())
    recipe = with_values(search.recipe_values, report.values)
    typed = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    replace_file(search.output / BEST_RECIPE, f"{_BEST_RECIPE_SAYS}\n{typed}".encode())


def shown(value: Any) -> str:
    """A value or a figure for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_values(values: Mapping[str, Any]) -> str:
    """``lora.r 8, learning_rate 0.001``."""
    return ", ".join(f"{key} {shown(value)}" for key, value in values.items())


def verdict(report: SearchReport) -> str:
    """Whether the search was worth it, in a sentence."""
    if not report.comparison:
        return "No rows were kept to compare the winner with the recipe's own values."
    first = report.comparison[0]
    figures = (
        f"{first.metric} {shown(first.winner)} against {shown(first.defaults)} on {first.n_rows} "
        f"rows that no trial saw; difference {first.difference:+.4g}, "
        f"{first.confidence:.0%} interval {_interval(first)}"
    )
    if first.is_better:
        return f"The winner beats the recipe's own values: {figures}."
    is_up = report.objectives[first.metric] == "maximize"
    nearest = first.high if is_up else first.low
    if nearest is not None and (nearest < 0 if is_up else nearest > 0):
        return f"The winner is worse than the recipe's own values: {figures}."
    return f"The winner is not proven better than the recipe's own values: {figures}."


def _markdown(search: Search, report: SearchReport, pictures: Sequence[str]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in report.n_trials.items())
    rows = ", ".join(f"{count} {split}" for split, count in report.rows.items())
    metrics = list(report.objectives)
    lines = [
        f"# Search {report.output.name}",
        "",
        verdict(report),
        "",
        f"Trials: {counts}; {report.seconds:.0f} s. Rows: {rows}. Scores are of validation rows, "
        f"on {report.evaluate_on}.",
        "",
        "## The winner",
        "",
        f"Run {report.best_run}, kept in `{report.best.as_posix()}`; its recipe is "
        f"`{BEST_RECIPE}`.",
        "",
        *_table(
            ["", *report.values, *metrics],
            [
                ["winner", *report.values.values(), *report.scores.values()],
                ["defaults", *_default_values(search), *report.defaults.values()],
            ],
        ),
        "",
        *(f"- {warning}" for warning in report.warnings),
        *([""] if report.warnings else []),
    ]
    if report.comparison:
        columns = ["metric", "rows", "defaults", "winner", "difference", "interval"]
        compared = [
            [c.metric, c.n_rows, c.defaults, c.winner, c.difference, _interval(c)]
            for c in report.comparison
        ]
        lines += ["## On rows that no trial saw", "", *_table(columns, compared), ""]
    if report.importances:
        shares = [[key, f"{share:.0%}"] for key, share in report.importances.items()]
        lines += [
            f"## What mattered for {metrics[0]}",
            "",
            *_table(["key", "share"], shares),
            "",
            "Shares are estimates (PED-ANOVA); of few trials, rough ones.",
            "",
        ]
    for picture in pictures:
        lines += [f"![{Path(picture).stem}]({picture})", ""]
    lines += ["## Trials", "", *_trials(report), ""]
    return "\n".join(lines)


def _default_values(search: Search) -> list[Any]:
    """What the recipe itself says at the searched keys."""
    return [search.default_value(key) for key in search.space]


def _interval(one: Comparison) -> str:
    return "unknown" if one.low is None else f"{one.low:+.4g} to {one.high:+.4g}"


def _trials(report: SearchReport) -> list[str]:
    keys, metrics = list(report.values), list(report.objectives)
    rows = [
        [
            f"{trial.run} *" if trial.run in report.pareto else trial.run,
            trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
            *(trial.values.get(key, "") for key in keys),
            *(trial.scores.get(metric, "") for metric in metrics),
            f"{trial.seconds:.0f} s",
        ]
        for trial in report.trials
    ]
    what = "not beaten in every objective by another" if len(metrics) > 1 else "the winner"
    return [*_table(["run", "state", *keys, *metrics, "time"], rows), "", f"`*`: {what}."]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        texts = [shown(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
        return f"| {' | '.join(texts)} |"

    return [line(columns), line(["---"] * len(columns)), *(line(row) for row in rows)]
