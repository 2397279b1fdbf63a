"""Scores of generated text: pure functions over predictions and references.

Training, ``edgekit eval`` on torch and ``edgekit eval`` on a bundle all score with these, so
that their figures can be compared. White space at both ends never counts.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.errors import RecipeError
from edgekit_runtime.errors import nearest

Metric = Callable[[Sequence[str], Sequence[str], Sequence[str] | None], float]

_OUTSIDE = "\0outside"  # one class for every prediction that is no label; no reference has it


def exact_match(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Share of predictions that equal their reference."""
    _check_lengths(predictions, references)
    hits = sum(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))
    return hits / len(references)


def f1(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Macro F1 over the labels; a prediction that is no label counts as wrong.

    Args:
        predictions: Generated text.
        references: Right labels.
        labels: The classes to average over; those of the references by default. Classes that
            occur in neither are left out, so that a small sample is not punished for them.
    """
    return _f1(predictions, references, labels, average="macro")


def micro_f1(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Micro F1 over the labels; a prediction that is no label counts as missed, not as guessed."""
    return _f1(predictions, references, labels, average="micro")


def balanced_accuracy(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Mean recall over the classes of the references, so that rare ones count as much."""
    from sklearn.metrics import recall_score

    _check_lengths(predictions, references)
    right = [reference.strip() for reference in references]
    guessed = [prediction.strip() for prediction in predictions]
    classes = sorted(set(right))
    return float(recall_score(right, guessed, labels=classes, average="macro"))


def json_valid(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Share of predictions that are JSON."""
    _check_lengths(predictions, references)
    return sum(_parse_json(p) is not _INVALID for p in predictions) / len(predictions)


def json_exact(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Share of predictions that are the same JSON value; the order of keys does not matter."""
    _check_lengths(predictions, references)
    hits = 0
    for prediction, reference in zip(predictions, references, strict=True):
        value = _parse_json(prediction)
        hits += value is not _INVALID and _same_json(value, _parse_json(reference))
    return hits / len(references)


def field_f1(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> float:
    """Micro F1 over the (path, value) pairs of JSON objects; a list counts item by item."""
    _check_lengths(predictions, references)
    hits = n_predicted = n_expected = 0
    for prediction, reference in zip(predictions, references, strict=True):
        predicted, expected = _fields_of(prediction), _fields_of(reference)
        hits += (predicted & expected).total()
        n_predicted += predicted.total()
        n_expected += expected.total()
    if n_predicted + n_expected == 0:  # nothing but empty objects, or no objects at all
        texts = (*predictions, *references)
        return float(all(isinstance(_parse_json(text), dict) for text in texts))
    return 2 * hits / (n_predicted + n_expected)


METRICS: Mapping[str, Metric] = {
    "accuracy": exact_match,
    "exact_match": exact_match,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "micro_f1": micro_f1,
    "json_valid": json_valid,
    "json_exact": json_exact,
    "field_f1": field_f1,
}

_TASK_METRICS = {
    "classification": ("accuracy", "f1"),
    "extraction": ("exact_match", "field_f1", "json_valid"),
}


def default_metrics(task: str | None) -> tuple[str, ...]:
    """The metrics of a task that names none."""
    return _TASK_METRICS.get(task or "", ("exact_match",))


def check_metrics(names: Sequence[str]) -> None:
    """Refuse names that are no metric.

    Raises:
        RecipeError: With every wrong name.
    """
    problems = [f"{name!r}: {nearest(name, METRICS)}" for name in names if name not in METRICS]
    if problems:
        raise RecipeError("unknown metrics", problems=problems)


def score(
    metric_names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score predictions by several metrics.

    Args:
        metric_names: Keys of :data:`METRICS`.
        predictions: Generated text, one for each reference.
        references: What should have been generated; at least one.
        labels: The label set of a classification, for ``f1``.

    Raises:
        RecipeError: If a metric is unknown.
        ValueError: If the two differ in length or are empty.
    """
    check_metrics(metric_names)
    return {name: METRICS[name](predictions, references, labels) for name in metric_names}


def perplexity_of(total_nll: float, n_tokens: int) -> float:
    """Exponential of the mean negative log-likelihood per token; infinite where that overflows."""
    if n_tokens <= 0:
        raise ValueError(f"n_tokens should be at least 1, got {n_tokens}")
    try:
        return math.exp(total_nll / n_tokens)
    except OverflowError:
        return math.inf


def _f1(
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str] | None,
    *,
    average: str,
) -> float:
    from sklearn.metrics import f1_score

    _check_lengths(predictions, references)
    right = [reference.strip() for reference in references]
    known = {label.strip() for label in labels} if labels is not None else set(right)
    guessed = [p.strip() if p.strip() in known else _OUTSIDE for p in predictions]
    classes = sorted((set(right) | set(guessed)) - {_OUTSIDE})
    return float(f1_score(right, guessed, labels=classes, average=average, zero_division=0.0))


_INVALID: Any = object()


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return _INVALID


def _refuse_constant(name: str) -> Any:
    """NaN and Infinity are Python's JSON, not JSON."""
    raise ValueError(name)


def _same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values; unlike Python's, ``true`` is not ``1``."""
    return right is not _INVALID and _frozen(left) == _frozen(right)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return ("object", frozenset((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_frozen(item) for item in value))
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else None
    return (kind or type(value).__name__, value)


def _fields_of(text: str) -> Counter[Any]:
    """The (path, value) leaves of a JSON value; none where it is not JSON."""
    value = _parse_json(text)
    return Counter() if value is _INVALID else Counter(_leaves(value, ()))


def _leaves(value: Any, path: tuple[str, ...]) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item, (*path, "[]"))]
    return [(path, _frozen(value))]


def _check_lengths(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"expected one prediction for each reference, and at least one; "
            f"got {len(predictions)} and {len(references)}"
        )
