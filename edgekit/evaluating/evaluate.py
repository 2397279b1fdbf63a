"""Score a torch model or a bundle, with an adapter or without, on a person's data."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError
from edgekit.evaluating.answers import (
    LABEL_METHODS,
    Method,
    Way,
    answer_rows,
    tfidf_answers,
    with_shots,
)
from edgekit.evaluating.class_metrics import confusion_of
from edgekit.evaluating.comparing import OtherRun, compare, read_run, refuse_other_rows
from edgekit.evaluating.measuring import Measured, summed, value_of
from edgekit.evaluating.metrics import (
    check_metrics,
    default_metrics,
    measure,
    perplexity_of_sums,
    recorded_metrics,
)
from edgekit.evaluating.opening import open_subject, subject_name
from edgekit.evaluating.recorded import (
    FLOAT_WEIGHTS,
    base_weights,
    label_completions,
    label_set,
    read_examples,
    recorded_task,
)
from edgekit.evaluating.report import EvaluationReport, wrong_rows
from edgekit.evaluating.rows import AnsweredRow, ask, key_of
from edgekit.evaluating.sampling import check_confidence, intervals_of
from edgekit.quiet import quiet_libraries

_DEFAULT_MAX_NEW_TOKENS = 64


def evaluate(
    *,
    data: str,
    bundle: Path | None = None,
    base: str | None = None,
    adapter: str | None = None,
    recipe_of: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    method: Method = "generate",
    train: str | None = None,
    shots: int = 5,
    stop: str | None = None,
    metrics: Sequence[str] = (),
    limit: int | None = None,
    max_new_tokens: int | None = None,
    target: str | None = None,
    weights: str | None = None,
    perplexity: bool = True,
    window: int | None = None,
    stride: int | None = None,
    confidence: float = 0.95,
    other: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationReport:
    """Score predictions on held-out rows.

    Args:
        data: csv, tsv, json, jsonl or parquet file, or a Hub data set id.
        bundle: Score this bundle …
        base: … or this base in torch.
        adapter: Name in the bundle, or PEFT directory for torch; None scores the base alone.
        recipe_of: Take prompt, completion and metrics from this adapter, when scoring the base.
        recipe: Prompt, completion, task, labels … that win over the recorded ones.
        method: ``generate`` free-running; ``labels`` picks the likeliest label; ``classify``
            the one that is likeliest with its end, and says how likely; ``few-shot`` puts
            training rows before every prompt; ``tfidf`` is TF-IDF + logistic regression;
            ``perplexity`` generates nothing and reads texts of any length by windows.
        train: Training rows, for ``few-shot`` and ``tfidf``.
        shots: How many, for ``few-shot``.
        stop: Text that ends an answer.
        metrics: Names, or ``path/to/file.py:function``; the recorded ones by default.
        limit: Score the first rows only.
        max_new_tokens: Limit of an answer.
        target: Target of the bundle.
        weights: Weights of the torch base: ``float``, or ``target:NAME`` for what that target
            computes with; by default those that the adapter was trained on.
        perplexity: Also measure it, for ``generate``.
        window: For ``perplexity``: tokens read at once; the context by default.
        stride: For ``perplexity``: tokens that the next window is further on; half a window by
            default.
        confidence: Of the intervals.
        other: Result of another run over the same rows, to compare with.
        on_progress: Called with rows done and rows in all.

    Raises:
        EdgekitError: A child of it, if data, recipe, base, adapter or bundle cannot be used.
    """
    if (bundle is None) == (base is None):
        raise RecipeError("say what to score: a bundle, or a base")
    check_confidence(confidence)
    started = time.perf_counter()
    recorded = recorded_task(bundle, recipe_of or adapter, recipe or {})
    names = _metric_names(method, metrics, recorded)
    rival = read_run(other) if other else None
    examples = read_examples(data, recorded)[:limit]
    known = read_examples(train, recorded) if train else []
    if method in {"few-shot", "tfidf"} and not known:
        raise RecipeError(f"method '{method}' needs training rows", hint="Give --train FILE.")
    labels = label_set(recorded, known)
    weights = base_weights(weights, recorded) if bundle is None else None
    way = Way(
        method=method,
        completions=label_completions(recorded, labels) if method in LABEL_METHODS else (),
        max_new_tokens=max_new_tokens or recorded.get("max_new_tokens") or _DEFAULT_MAX_NEW_TOKENS,
        stop=stop or ("\n" if method == "few-shot" else None),
        is_measured=perplexity and method == "generate",
        window=window,
        stride=stride,
    )
    losses: dict[str, float] = {}
    with quiet_libraries():
        if method == "tfidf":
            _refuse_other_rows(rival, [(i, key_of(e)) for i, e in enumerate(examples, 1)])
            rows, n_too_long = tfidf_answers(known, examples), 0
        else:
            shown = with_shots(examples, known, shots) if method == "few-shot" else None
            is_read = method == "perplexity"
            with open_subject(bundle, base, adapter, target, weights) as subject:
                asked, n_too_long = ask(examples, subject, data, shown=shown, is_only_read=is_read)
                _refuse_other_rows(rival, [(row.number, row.key) for row in asked])
                rows = answer_rows(subject, asked, way, on_progress)
            if way.is_measured and weights is not None:
                with open_subject(None, base, adapter, None, None) as plain:
                    nll, n_tokens = plain.nll([one for row in asked for one in row.sequences])
                losses = {weights: _loss_of(rows), FLOAT_WEIGHTS: nll / n_tokens}
    measured = _measure(names, rows, labels)
    is_classification = labels is not None or recorded.get("task") == "classification"
    has_confusion = is_classification and method != "perplexity"
    comparison = None
    if rival:
        others = _measure(names, rival.rows, labels)
        comparison = compare(measured, others, rows, rival, confidence)
    return EvaluationReport(
        subject="tfidf" if method == "tfidf" else subject_name(bundle, base, weights),
        adapter=None if method == "tfidf" else adapter,
        method=method,
        data=data,
        n_rows=len(rows),
        n_too_long=n_too_long,
        metrics={name: value_of(measure, len(rows)) for name, measure in measured.items()},
        losses=losses,
        confidence=confidence,
        intervals=intervals_of(measured, len(rows), confidence),
        confusion=confusion_of(*_texts(rows), labels) if has_confusion else None,
        seconds=time.perf_counter() - started,
        wrong=wrong_rows(rows),
        rows=tuple(rows),
        comparison=comparison,
    )


def _refuse_other_rows(rival: OtherRun | None, rows: Sequence[tuple[int, str]]) -> None:
    if rival is not None:
        refuse_other_rows(rival, rows)


def _metric_names(
    method: Method, given: Sequence[str], recorded: Mapping[str, Any]
) -> tuple[str, ...]:
    """What to score answers by; nothing where there are none."""
    if method == "perplexity":
        if given:
            raise RecipeError(
                "method 'perplexity' generates no answers that other metrics could score",
                hint="Leave --metric out, or take another method.",
            )
        return ()
    names = tuple(given) or recorded_metrics(recorded.get("metrics") or ())
    names = names or default_metrics(recorded.get("task"))
    check_metrics(names)
    return names


def _texts(rows: Sequence[AnsweredRow]) -> tuple[list[str], list[str]]:
    return [row.prediction or "" for row in rows], [row.reference for row in rows]


def _measure(
    names: Sequence[str], rows: Sequence[AnsweredRow], labels: Sequence[str] | None
) -> dict[str, Measured]:
    """Every metric that the rows have what it takes for."""
    measured: dict[str, Measured] = {}
    if all(row.prediction is not None for row in rows):
        measured = measure(names, *_texts(rows), labels)
    figures = [(row.nll, row.n_tokens) for row in rows]
    if all(nll is not None and count is not None for nll, count in figures):
        measured["perplexity"] = summed(figures, perplexity_of_sums)
    return measured


def _loss_of(rows: Sequence[AnsweredRow]) -> float:
    """Nats a token of the references, over all rows."""
    return sum(row.nll or 0 for row in rows) / sum(row.n_tokens or 0 for row in rows)
