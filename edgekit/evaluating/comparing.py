"""Two runs over the same rows: is one better, or was it luck?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, first_of
from edgekit.evaluating.measuring import Measured, value_of
from edgekit.evaluating.rows import AnsweredRow
from edgekit.evaluating.sampling import Interval, interval_of, sampled_differences

_HINT = "Write one with: edgekit eval … --output FILE."
_HIT_METRICS = frozenset({"accuracy", "exact_match"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherRun:
    """What an earlier run wrote, as far as a comparison needs it.

    Attributes:
        name: What was scored: subject, adapter, method.
    """

    path: str
    name: str
    rows: tuple[AnsweredRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """One metric of two runs.

    Attributes:
        score: Of this run.
        other: Of the other.
        difference: This minus the other.
        interval: Of the difference, over samples of the rows; None where a sample has no
            finite score.
        p_value: How likely a difference at least as large is if the two are equally good; None
            where there is no interval.
        test: ``mcnemar`` or ``bootstrap``.
    """

    score: float
    other: float
    difference: float
    interval: Interval | None
    p_value: float | None
    test: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """This run against another over the same rows."""

    path: str
    other: str
    metrics: Mapping[str, PairedDifference]


def read_run(path: Path) -> OtherRun:
    """Read the result of an earlier run.

    Raises:
        DataError: If it is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror}", hint=_HINT) from err
    except ValueError as err:
        raise DataError(f"{path} is no JSON: {err}", hint=_HINT) from err
    rows = value.get("rows") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} is no result of edgekit eval: it has no rows", hint=_HINT)
    problems = [
        f"rows[{index}]: {problem}"
        for index, row in enumerate(rows)
        if (problem := _row_problem(row))
    ]
    if problems:
        raise DataError(
            f"{path} is no result of edgekit eval", problems=first_of(problems), hint=_HINT
        )
    parts = [value.get(key) for key in ("subject", "adapter", "method")]
    return OtherRun(
        path=str(path),
        name=", ".join(str(part) for part in parts if part),
        rows=tuple(AnsweredRow(**row) for row in rows),
    )


def refuse_other_rows(other: OtherRun, rows: Sequence[tuple[int, str]]) -> None:
    """Refuse a run over other rows than (number, key) pairs.

    Raises:
        DataError: Naming how many rows differ, and the first.
    """
    their_rows = [(row.number, row.key) for row in other.rows]
    if their_rows == list(rows):
        return
    ours, theirs = set(rows), set(their_rows)
    problems = [f"expected {len(rows)} rows, got {len(their_rows)}"]
    for who, only in (("this run", ours - theirs), ("the other", theirs - ours)):
        if only:
            problems.append(f"{len(only)} rows only in {who}, the first is row {min(only)[0]}")
    if ours == theirs:
        problems.append("the same rows in another order, or some of them twice")
    raise DataError(
        f"{other.path} is of other rows, so the two cannot be compared",
        problems=problems,
        hint="Score both on the same data, in the same order, with the same --limit. "
        "Rows over a subject's context are left out.",
    )


def compare(
    measured: Mapping[str, Measured],
    others: Mapping[str, Measured],
    rows: Sequence[AnsweredRow],
    other: OtherRun,
    confidence: float,
) -> Comparison:
    """Compare every metric that both have.

    Args:
        measured: Of this run.
        others: Of the other, over the same rows in the same order.
        rows: Of this run.
        other: The other run.
        confidence: Of the intervals.
    """
    n_rows = len(rows)
    shared = [name for name in measured if name in others]
    samples = sampled_differences({name: measured[name] for name in shared}, others, n_rows)
    hits = _hits(rows), _hits(other.rows)
    found = {}
    for name in shared:
        mine, theirs = value_of(measured[name], n_rows), value_of(others[name], n_rows)
        is_hit_metric = name in _HIT_METRICS
        found[name] = PairedDifference(
            score=mine,
            other=theirs,
            difference=mine - theirs,
            interval=interval_of(samples[name], confidence),
            p_value=mcnemar(*hits) if is_hit_metric else _sign_share(samples[name]),
            test="mcnemar" if is_hit_metric else "bootstrap",
        )
    return Comparison(path=other.path, other=other.name, metrics=found)


def mcnemar(hits: NDArray[np.bool_], other_hits: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value from the rows that only one of the two got right.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions
    or percentages" (1947), in its exact binomial form.
    """
    from scipy.stats import binomtest

    only_mine = int((hits & ~other_hits).sum())
    only_theirs = int((other_hits & ~hits).sum())
    if only_mine + only_theirs == 0:
        return 1.0
    return float(binomtest(only_mine, only_mine + only_theirs, 0.5).pvalue)


def _sign_share(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p-value: twice the share of samples in which the other sign, or none, came out."""
    if not np.isfinite(differences).all():
        return None
    n = len(differences)
    n_below, n_above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(n_below, n_above) + 1) / (n + 1))


def _hits(rows: Sequence[AnsweredRow]) -> NDArray[np.bool_]:
    return np.array([(row.prediction or "").strip() == row.reference.strip() for row in rows])


_ROW_TYPES: Mapping[str, tuple[type, ...]] = {
    "number": (int,),
    "key": (str,),
    "prompt": (str,),
    "reference": (str,),
    "prediction": (str, type(None)),
    "probability": (float, int, type(None)),
    "nll": (float, int, type(None)),
    "n_tokens": (int, type(None)),
    "is_right": (bool, type(None)),
}
_LATER = frozenset({"is_right"})  # older results are without it


def _row_problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, got {type(row).__name__}"
    lacking = [name for name in _ROW_TYPES if name not in row and name not in _LATER]
    extra = [name for name in row if name not in _ROW_TYPES]
    if lacking or extra:
        return f"lacks {', '.join(lacking)}" if lacking else f"unknown {', '.join(extra)}"
    for name, types in _ROW_TYPES.items():
        if not isinstance(row.get(name), types):
            return f"{name}: got {type(row[name]).__name__}"
    return None
