"""Winner against defaults, on rows that no trial saw: paired, with an interval."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.adapters.peft_dir import RECORD_FILE
from edgekit.errors import DataError
from edgekit.evaluating.answers import Way, answer_rows
from edgekit.evaluating.measuring import Measured, mean_of_rows, summed, value_of
from edgekit.evaluating.metrics import measure, perplexity_of_sums
from edgekit.evaluating.rows import AnsweredRow, ask
from edgekit.evaluating.sampling import interval_of, sampled_differences
from edgekit.evaluating.subjects import Subject, bundle_subject, torch_subject
from edgekit.recipes import TrainRecipe
from edgekit.targets import load_target
from edgekit.training.events import GenerationProgress, Message, OnEvent
from edgekit.training.examples import examples_of
from edgekit.training.tables import read_table
from edgekit.tuning.loading import Search
from edgekit.tuning.rows import TEST
from edgekit.tuning.runs import in_bundle, recipe_of_run, rows_directory
from edgekit.tuning.search_file import COSTS, LOSSES, Objective

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One metric of winner and defaults on the same rows.

    Attributes:
        n_rows: Answered by both.
        difference: Winner minus defaults.
        low: Of the interval of the difference: paired bootstrap over rows, percentiles. None, as
            is high, where a sample of the rows has no finite score.
        is_better: Whether the interval lies on the winner's side of zero.
    """

    metric: str
    n_rows: int
    defaults: float
    winner: float
    difference: float
    low: float | None
    high: float | None
    confidence: float
    is_better: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def compare_on_test(
    search: Search, values: Mapping[str, Any], run: int, tell: OnEvent
) -> tuple[Comparison, ...]:
    """Compare a run with the defaults on the test rows, by every objective that rows have.

    Args:
        search: Its test rows are written.
        values: Of the run.
        run: The winner.
        tell: Told of rows that are answered.

    Returns:
        None of them where there are no test rows, or none that fits both contexts.
    """
    if not (rows_directory(search) / TEST).stat().st_size:
        return ()
    recipes = (recipe_of_run(search, {}, None), recipe_of_run(search, values, run))
    try:
        defaults, winner = (_answers(search, recipe, tell) for recipe in recipes)
    except DataError as err:
        tell(Message(text=f"no comparison: {err.what}", is_warning=True))
        return ()
    both = sorted(defaults.keys() & winner.keys())
    if not both:
        return ()
    labels = json.loads((recipes[0].output / RECORD_FILE).read_text(encoding="utf-8"))["labels"]
    return tuple(
        paired(objective, [defaults[n] for n in both], [winner[n] for n in both], labels)
        for objective in search.objectives
        if objective.metric not in COSTS
    )


def paired(
    objective: Objective,
    defaults: Sequence[AnsweredRow],
    winner: Sequence[AnsweredRow],
    labels: Sequence[str] | None,
) -> Comparison:
    """The difference of two runs on the same rows, with the interval of a paired bootstrap.

    Args:
        objective: What is compared.
        defaults: One answer a row.
        winner: The same rows in the same order.
        labels: Of a classification.
    """
    name, n_rows = objective.metric, len(winner)
    mine, theirs = (_measured(name, rows, labels) for rows in (winner, defaults))
    differences = sampled_differences({name: mine}, {name: theirs}, n_rows)[name]
    low, high = interval_of(differences, CONFIDENCE) or (None, None)
    scores = value_of(theirs, n_rows), value_of(mine, n_rows)
    end = high if objective.is_minimized else low
    return Comparison(
        metric=name,
        n_rows=n_rows,
        defaults=scores[0],
        winner=scores[1],
        difference=scores[1] - scores[0],
        low=low,
        high=high,
        confidence=CONFIDENCE,
        is_better=end is not None and (end < 0 if objective.is_minimized else end > 0),
    )


def _measured(metric: str, rows: Sequence[AnsweredRow], labels: Sequence[str] | None) -> Measured:
    if metric in LOSSES:
        figures = [(row.nll, row.n_tokens) for row in rows]
        return summed(figures, mean_of_rows if metric == "loss" else perplexity_of_sums)
    predictions = [row.prediction or "" for row in rows]
    return measure([metric], predictions, [row.reference for row in rows], labels)[metric]


def _answers(search: Search, recipe: TrainRecipe, tell: OnEvent) -> dict[int, AnsweredRow]:
    """A run's answers to the test rows, by the row's number; rows over its context are left out."""
    table = read_table([str(rows_directory(search) / TEST)])
    is_text = recipe.data.text_template is not None

    def on_progress(done: int, total: int) -> None:
        tell(GenerationProgress(done=done, total=total))

    with _subject_of(search, recipe) as subject:
        rows, _ = ask(examples_of(table, recipe.data), subject, TEST, is_only_read=is_text)
        record = json.loads((recipe.output / RECORD_FILE).read_text(encoding="utf-8"))
        way = Way(
            method="perplexity" if is_text else "generate",
            completions=(),
            max_new_tokens=record["max_new_tokens"],
            stop=None,
            is_measured=True,
            window=None,
            stride=None,
        )
        answered = answer_rows(subject, rows, way, on_progress)
    return {row.number: row for row in answered}


@contextmanager
def _subject_of(search: Search, recipe: TrainRecipe) -> Iterator[Subject]:
    """A run as the search scores it: in torch, or in a bundle."""
    directory = recipe.output
    if search.file.evaluate_on == "bundle":
        with (
            in_bundle(search, directory, worker=0) as (bundle, adapter),
            bundle_subject(bundle, adapter) as device,
        ):
            yield device
        return
    profile = load_target(recipe.target) if recipe.target else None
    is_base = recipe.method == "full"
    base = str(directory) if is_base else recipe.base
    adapter_directory: Path | None = None if is_base else directory
    with torch_subject(base, adapter_directory, profile=profile) as subject:
        yield subject
