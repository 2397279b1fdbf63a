"""Every metric by its name.

Training, ``edgekit eval`` on torch and ``edgekit eval`` on a bundle all score with these, so
that their figures can be compared. White space at both ends never counts.
"""

import math
from collections.abc import Mapping, Sequence

from edgekit.errors import RecipeError
from edgekit.evaluating.class_metrics import balanced_accuracy, exact_match, f1, micro_f1
from edgekit.evaluating.json_metrics import field_f1, json_exact, json_valid
from edgekit.evaluating.measuring import Figures, Measured, Metric, value_of
from edgekit.evaluating.own_metrics import is_own, offered_names, own_metric
from edgekit.evaluating.text_metrics import bleu, chrf, rouge1, rouge2, rouge_l, rouge_lsum
from edgekit_runtime.errors import nearest

METRICS: Mapping[str, Metric] = {
    "accuracy": exact_match,
    "exact_match": exact_match,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "micro_f1": micro_f1,
    "json_valid": json_valid,
    "json_exact": json_exact,
    "field_f1": field_f1,
    "bleu": bleu,
    "chrf": chrf,
    "rouge1": rouge1,
    "rouge2": rouge2,
    "rougeL": rouge_l,
    "rougeLsum": rouge_lsum,
}

_TASK_METRICS = {
    "classification": ("accuracy", "f1"),
    "extraction": ("exact_match", "field_f1", "json_valid"),
    "summarization": ("rouge1", "rouge2", "rougeL"),
}


def default_metrics(task: str | None) -> tuple[str, ...]:
    """The metrics of a task that names none."""
    return _TASK_METRICS.get(task or "", ("exact_match",))


def recorded_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Those of an adapter's record that are ours: a user's code runs only where it is asked for."""
    return tuple(name for name in names if name in METRICS)


def check_metrics(names: Sequence[str]) -> None:
    """Refuse names that are no metric, and functions that are not there.

    Raises:
        RecipeError: With every wrong name.
    """
    known = {*METRICS, *offered_names()}
    problems = [
        f"{name!r}: {nearest(name, known)}"
        for name in names
        if name not in METRICS and not is_own(name)
    ]
    if problems:
        raise RecipeError(
            "unknown metrics",
            problems=problems,
            hint="One of your own is named by path/to/file.py:function.",
        )
    for name in names:
        if name not in METRICS:
            own_metric(name)


def measure(
    metric_names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str] | None = None,
) -> dict[str, Measured]:
    """Look at every row once for several metrics; then score any samples of the rows.

    Args:
        metric_names: Keys of :data:`METRICS`, or what :func:`is_own` takes.
        predictions: Generated text, one for each reference.
        references: What should have been generated; at least one.
        labels: The label set of a classification, for ``f1``.

    Raises:
        RecipeError: If a metric is unknown, or a user's own fails.
        ValueError: If the two differ in length or are empty.
    """
    check_metrics(metric_names)
    return {
        name: (METRICS[name] if name in METRICS else own_metric(name)).over(
            predictions, references, labels
        )
        for name in metric_names
    }


def score(
    metric_names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score all rows by several metrics; the arguments and errors of :func:`measure`."""
    measured = measure(metric_names, predictions, references, labels)
    return {name: value_of(sampled, len(references)) for name, sampled in measured.items()}


def perplexity_of(total_nll: float, n_tokens: int) -> float:
    """Exponential of the mean negative log-likelihood per token; infinite where that overflows."""
    if n_tokens <= 0:
        raise ValueError(f"n_tokens should be at least 1, got {n_tokens}")
    try:
        return math.exp(total_nll / n_tokens)
    except OverflowError:
        return math.inf


def perplexity_of_sums(sums: Figures) -> float:
    """The same of the sum of the rows' figures: negative log-likelihood, number of tokens."""
    return perplexity_of(float(sums[0]), int(sums[1])) if sums[1] else math.nan
