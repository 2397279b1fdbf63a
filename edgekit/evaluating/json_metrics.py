"""Scores of JSON: is it any, is it the same, which fields agree."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgekit.evaluating.measuring import Figures, SummedMetric, mean_of_rows, with_ones


def _valid(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> Any:
    return with_ones([float(_parse_json(text) is not _INVALID) for text in predictions])


def _same(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> Any:
    pairs = zip(predictions, references, strict=True)
    return with_ones([float(_same_json(_parse_json(p), _parse_json(r))) for p, r in pairs])


def _field_figures(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> Any:
    """Pairs that agree, predicted, expected; and how many of the two texts are no object."""
    figures = []
    for prediction, reference in zip(predictions, references, strict=True):
        predicted, expected = _fields_of(prediction), _fields_of(reference)
        n_others = sum(not isinstance(_parse_json(text), dict) for text in (prediction, reference))
        hits = (predicted & expected).total()
        figures.append((hits, predicted.total(), expected.total(), n_others))
    return figures


def _field_f1(sums: Figures) -> float:
    hits, n_predicted, n_expected, n_others = sums
    if n_predicted + n_expected == 0:  # nothing but empty objects, or no objects at all
        return float(n_others == 0)
    return float(2 * hits / (n_predicted + n_expected))


json_valid = SummedMetric(_valid, mean_of_rows)
"""Share of predictions that are JSON."""

json_exact = SummedMetric(_same, mean_of_rows)
"""Share of predictions that are the same JSON value; the order of keys does not matter."""

field_f1 = SummedMetric(_field_figures, _field_f1)
"""Micro F1 over the (path, value) pairs of JSON objects; a list counts item by item."""

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
    return left is not _INVALID and right is not _INVALID and _frozen(left) == _frozen(right)


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
