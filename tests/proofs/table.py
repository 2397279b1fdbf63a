"""What there is, as Markdown; and what is left, in hours."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekit.recipes import TrainRecipe, load_recipe
from tests.proofs.cells import DATA_SETS, EXACT_SEEDS, EXACT_TARGETS, Cell, Setup, all_cells
from tests.proofs.costs import seconds_of
from tests.proofs.steps import cell_path, failure_path, is_done

_MIB = 1 << 20


def tables(setup: Setup) -> str:
    """Every table that has a line, and the names of cells that are missing."""
    cells = all_cells(setup)
    found = {cell.name: _read(setup, cell) for cell in cells if cell_path(setup, cell).is_file()}
    parts = [_methods(data, found) for data in DATA_SETS]
    parts += [_exact(found), _search(found), _machines(found.values())]
    failures = [(one.name, failure_path(setup, one)) for one in cells if one.name not in found]
    failed = {name: path.read_text(encoding="utf-8") for name, path in failures if path.is_file()}
    parts += [f"Failed: {reason}" for reason in failed.values()]
    missing = [name for name, _ in failures if name not in failed]
    if missing:
        parts.append(f"Not yet run: {', '.join(missing)}.\n")
    return "\n".join(part for part in parts if part)


def plan(setup: Setup, cells: Sequence[Cell]) -> str:
    """What is left of some cells, with an estimate of the time."""
    lines, total, seen = [], 0.0, set[str]()
    for cell in cells:
        if cell_path(setup, cell).is_file():
            continue
        steps = [s for s in cell.steps if s.name not in seen and not is_done(setup, s)]
        seen |= {step.name for step in steps}
        seconds = sum(seconds_of(setup, cell, step) for step in steps)
        total += seconds
        what = ", ".join(step.kind for step in steps)
        lines.append(f"{cell.name:36}{seconds / 60:7.0f} min  {total / 3600:5.1f} h  {what}")
    return "\n".join([*lines, f"left: {total / 3600:.1f} hours; a rough estimate for two cores"])


def _read(setup: Setup, cell: Cell) -> dict[str, Any]:
    return dict(json.loads(cell_path(setup, cell).read_text(encoding="utf-8")))


def _methods(data: str, found: Mapping[str, dict[str, Any]]) -> str:
    lines = [one for one in found.values() if one["part"] == "methods" and one["data"] == data]
    if not lines:
        return ""
    metrics = load_recipe(DATA_SETS[data].recipe, TrainRecipe).metrics or ()
    head = ["method", "where", "answered by", *metrics, "rows", "steps", "training", "peak memory",
            "answering", "peak memory"]  # fmt: skip
    rows = []
    for line in lines:
        result = _report_of(line, "eval")
        train = _of_kind(line, "train")
        rows.append(
            [
                line["method"],
                line["where"],
                result["method"],
                *(_with_interval(result, metric) for metric in metrics),
                str(result["n_rows"]),
                str(train["reported"]["steps"]) if train else "",
                _minutes(_training_seconds(train["reported"])) if train else "",
                _mib(train["reported"]["peak_rss_bytes"]) if train else "",
                _minutes(result["seconds"]),
                _mib(_of_kind(line, "eval")["peak_rss_bytes"]),
            ]
        )
    return f"### {data}\n\n{_table(head, rows)}"


def _exact(found: Mapping[str, dict[str, Any]]) -> str:
    head = ["target", "seed", "loss, float", "loss, device-exact", "perplexity, difference",
            "field F1, float", "field F1, device-exact", "field F1, difference"]  # fmt: skip
    rows = []
    for target in EXACT_TARGETS:
        of_target = []
        for seed in EXACT_SEEDS:
            line = found.get(f"exact-{target}-qlora-seed{seed}")
            if line is None:
                continue
            compared = _report_of(line, "eval")["comparison"]["metrics"]
            loss, score = compared["perplexity"], compared["field_f1"]
            of_target.append(
                (math.log(loss["other"]), math.log(loss["score"]), score["other"], score["score"])
            )
            a, b, c, d = of_target[-1]
            rows.append(
                [target, str(seed), f"{a:.4f}", f"{b:.4f}", _difference(loss, 3), f"{c:.1%}",
                 f"{d:.1%}", _difference(score, 3)]
            )  # fmt: skip
        if len(of_target) > 1:
            a, b, c, d = (sum(column) / len(of_target) for column in zip(*of_target, strict=True))
            rows.append(
                [target, f"mean of {len(of_target)}", f"{a:.4f}", f"{b:.4f}", "", f"{c:.1%}",
                 f"{d:.1%}", f"{d - c:+.3f}"]
            )  # fmt: skip
    return f"### Device-exact against float\n\n{_table(head, rows)}" if rows else ""


def _search(found: Mapping[str, dict[str, Any]]) -> str:
    if "search-snips" not in found:
        return ""
    report = _report_of(found["search-snips"], "tune")
    head = ["metric", "rows", "defaults", "winner", "difference", "better"]
    rows = [
        [
            one["metric"],
            str(one["n_rows"]),
            f"{one['defaults']:.4f}",
            f"{one['winner']:.4f}",
            f"{one['difference']:+.4f} [{_figure(one['low'])}, {_figure(one['high'])}]",
            "yes" if one["is_better"] else "not shown",
        ]
        for one in report["comparison"]
    ]
    states = ", ".join(f"{count} {state}" for state, count in report["n_trials"].items())
    values = ", ".join(f"{key} {value:.4g}" for key, value in report["values"].items())
    return (
        f"### Search\n\nTrials: {states}; {_minutes(report['seconds'])} in all. "
        f"Killed once, half-way. Winner: {values}.\n\n{_table(head, rows)}"
    )


def _machines(found: Iterable[Mapping[str, Any]]) -> str:
    """On what the cells were run; more than one line where that changed meanwhile."""
    seen = dict.fromkeys(
        f"{one['machine']['processor']}, {one['machine']['cores']} cores, "
        f"threads {one['machine']['threads'] or 'all'}; "
        + ", ".join(f"{name} {version}" for name, version in one["machine"]["versions"].items())
        for one in found
    )
    return "".join(f"- {line}\n" for line in seen)


def _of_kind(line: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The record of a cell's last step of a kind; empty where there is none."""
    found = [step for name, step in line["steps"].items() if name.startswith(f"{kind}-")]
    return dict(found[-1]) if found else {}


def _report_of(line: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return dict(_of_kind(line, kind)["reported"])


def _training_seconds(report: Mapping[str, Any]) -> float:
    """Of the whole run; one that was resumed reports what came after, so the rest is by steps."""
    measured = report["steps"] - report["resumed_from_step"]
    return float(report["seconds"]) * report["steps"] / measured if measured else math.nan


def _with_interval(result: Mapping[str, Any], metric: str) -> str:
    interval = result["intervals"].get(metric)
    between = f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval else ""
    return f"{result['metrics'][metric]:.1%}{between}"


def _difference(one: Mapping[str, Any], digits: int) -> str:
    interval = one["interval"]
    between = f" [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]" if interval else ""
    return f"{one['difference']:+.{digits}f}{between}"


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:+.4f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds == seconds else "not measured"


def _mib(size: int) -> str:
    return f"{size / _MIB:.0f} MiB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
