"""lm-evaluation-harness tasks through a torch model or a bundle."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from io import StringIO
from statistics import NormalDist
from typing import Any

from edgekit.errors import RecipeError
from edgekit.evaluating.harness_tasks import check_harness, load_tasks
from edgekit.evaluating.report import EvaluationReport, HarnessFigures, HarnessTask, wrong_rows
from edgekit.evaluating.rows import AnsweredRow
from edgekit.evaluating.sampling import N_SAMPLES, Interval, check_confidence
from edgekit.evaluating.subjects import Subject
from edgekit.quiet import errors_only, quiet_libraries
from edgekit.user_code import user_code

_N_KEY = 16


def evaluate_harness(
    tasks: Sequence[str],
    subject: Callable[[], AbstractContextManager[Subject]],
    *,
    subject_name: str,
    adapter: str | None,
    shots: int | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    chat_template: bool = False,
    system: str | None = None,
    confidence: float = 0.95,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationReport:
    """Run tasks of the harness; scores and standard errors are the harness's own.

    Args:
        tasks: See :func:`edgekit.evaluating.harness_tasks.load_tasks`.
        subject: Opens who is scored, after the tasks are found to be right.
        subject_name: For the report.
        adapter: For the report.
        shots: Solved rows before every prompt; the tasks' own number if None.
        limit: Rows of each task.
        max_new_tokens: Limit of an answer, instead of the tasks' own.
        chat_template: Whether prompts go through the base's chat template; solved rows are turns.
        system: What stands before every prompt, as the system message of a chat template.
        confidence: Of the intervals.
        on_progress: Called with requests done and requests in all, for each kind of request.

    Raises:
        EdgekitError: A child of it, if the harness, a task, its rows or the subject cannot be used.
    """
    check_confidence(confidence)
    release = check_harness()
    started = time.perf_counter()
    with _quiet_harness():
        loaded = load_tasks(tasks, shots=shots, max_new_tokens=max_new_tokens)
        with subject() as opened:
            if chat_template and not opened.tokenizer.chat_template:
                raise RecipeError(
                    "--chat-template: the base's tokenizer has none", hint="Leave the option out."
                )
            results, n_cut = _run(opened, loaded, tasks, limit, chat_template, system, on_progress)
    figures = _figures(results, release, n_cut, chat_template)
    metrics = _metrics(results)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rows = _rows(results)
    return EvaluationReport(
        subject=subject_name,
        adapter=adapter,
        method="harness",
        data=", ".join(tasks),
        n_rows=len(rows),
        n_too_long=0,
        metrics=metrics,
        losses={},
        confidence=confidence,
        intervals={n: _interval(v, figures.standard_errors[n], z) for n, v in metrics.items()},
        confusion=None,
        seconds=time.perf_counter() - started,
        wrong=wrong_rows(rows),
        rows=rows,
        comparison=None,
        harness=figures,
    )


def _run(
    subject: Subject,
    loaded: Any,
    specs: Sequence[str],
    limit: int | None,
    chat_template: bool,
    system: str | None,
    on_progress: Callable[[int, int], None],
) -> tuple[Any, int]:
    from lm_eval import evaluator

    from edgekit.evaluating.harness_model import HarnessModel

    model = HarnessModel(subject, on_progress)
    with user_code(", ".join(specs), "harness"):
        results = evaluator.evaluate(
            model,
            loaded,
            limit=limit,
            bootstrap_iters=N_SAMPLES,
            log_samples=True,
            system_instruction=system,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    return results, model.n_cut


@contextlib.contextmanager
def _quiet_harness() -> Iterator[None]:
    """Nothing on the terminal, and no other processes for a bootstrap of a few rows."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with (
            quiet_libraries(),
            errors_only(logging.getLogger("lm_eval")),
            redirect_stdout(StringIO()),
        ):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _names(results: Any) -> Iterator[tuple[str, str, str]]:
    """Our name of a metric, the task or group, and the harness's key, for every score."""
    many = len(results["results"]) > 1
    for task, found in results["results"].items():
        for key, value in found.items():
            name, comma, used_filter = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = name if used_filter == "none" else key
            yield f"{task}/{name}" if many else name, task, key


def _metrics(results: Any) -> dict[str, float]:
    return {name: float(results["results"][task][key]) for name, task, key in _names(results)}


def _figures(results: Any, release: str, n_cut: int, chat_template: bool) -> HarnessFigures:
    errors: dict[str, float | None] = {}
    better: dict[str, bool | None] = {}
    for ours, task, key in _names(results):
        name, _, used_filter = key.partition(",")
        error = results["results"][task].get(f"{name}_stderr,{used_filter}")
        errors[ours] = float(error) if isinstance(error, int | float) else None
        better[ours] = results["higher_is_better"].get(task, {}).get(name)
    return HarnessFigures(
        version=release,
        tasks={
            name: HarnessTask(
                version=str(results["versions"].get(name)),
                shots=int(results["n-shot"].get(name) or 0),
                n_rows=count["effective"],
            )
            for name, count in results["n-samples"].items()
        },
        standard_errors=errors,
        higher_is_better=better,
        n_cut=n_cut,
        chat_template=chat_template,
    )


def _interval(value: float, error: float | None, z: float) -> Interval | None:
    return None if error is None else (value - z * error, value + z * error)


def _rows(results: Any) -> tuple[AnsweredRow, ...]:
    """Every row of every task, numbered through; of several filters, the first one's answer."""
    rows: list[AnsweredRow] = []
    for task, samples in results["samples"].items():
        kind = results["configs"][task]["output_type"]
        first = samples[0]["filter"] if samples else None
        for sample in samples:
            if sample["filter"] == first:
                rows.append(replace(_row(sample, kind), number=len(rows) + 1))
    return tuple(rows)


def _row(sample: Mapping[str, Any], kind: str) -> AnsweredRow:
    arguments, answers = sample["arguments"], sample["filtered_resps"]
    target = sample["target"]
    row = AnsweredRow(
        number=0,
        key=sample["doc_hash"][:_N_KEY],
        prompt=str(arguments[0][0]),
        reference=str(target).strip(),
        is_right=_is_right(sample),
    )
    if kind == "multiple_choice":
        choices = [str(argument[1]).strip() for argument in arguments]
        # For mutual information, every choice is asked a second time without the question.
        n_choices = len(choices) // (2 if "acc_mutual_info" in sample["metrics"] else 1)
        likeliest = max(range(n_choices), key=lambda index: answers[index][0])
        is_index = isinstance(target, int) and 0 <= target < len(choices)
        reference = choices[target] if is_index else row.reference
        return replace(row, prediction=choices[likeliest], reference=reference)
    if kind == "loglikelihood":
        return replace(row, nll=-float(answers[0][0]))
    if kind == "loglikelihood_rolling":
        return replace(row, nll=-float(answers[0]))
    return replace(row, prediction=str(answers[0]))


def _is_right(sample: Mapping[str, Any]) -> bool | None:
    """What the task's own accuracy says of a row, where it has one."""
    for name in ("acc", "exact_match"):
        if name in sample["metrics"]:
            return bool(sample[name])
    return None
