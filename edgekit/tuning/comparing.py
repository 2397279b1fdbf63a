"""Winner against defaults, on rows that no trial saw: paired, with an interval."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.adapters.peft_dir import RECORD_FILE
from edgekit.evaluating.metrics import perplexity_of, score
from edgekit.evaluating.subjects import Subject, bundle_subject, torch_subject
from edgekit.recipes import TrainRecipe
from edgekit.targets import load_target
from edgekit.training.events import GenerationProgress, OnEvent
from edgekit.training.examples import Example, examples_of
from edgekit.training.tables import read_table
from edgekit.training.tokens import TokenizedSplit, tokenize_examples
from edgekit.tuning.loading import Search
from edgekit.tuning.rows import TEST
from edgekit.tuning.runs import in_bundle, recipe_of_run, rows_directory
from edgekit.tuning.search_file import COSTS, LOSSES, Objective

CONFIDENCE = 0.95
_N_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One metric of winner and defaults on the same rows.

    Attributes:
        n_rows: Answered by both.
        difference: Winner minus defaults.
        low: Of the interval of the difference: paired bootstrap over rows, percentiles.
        is_better: Whether the interval lies on the winner's side of zero.
    """

    metric: str
    n_rows: int
    defaults: float
    winner: float
    difference: float
    low: float
    high: float
    confidence: float
    is_better: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What a run made of one row; text is None where rows are whole texts."""

    prediction: str | None
    reference: str
    nll: float
    n_tokens: int


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
        None of them where there are no test rows.
    """
    if not (rows_directory(search) / TEST).stat().st_size:
        return ()
    recipes = (recipe_of_run(search, {}, None), recipe_of_run(search, values, run))
    found = [_answers(search, recipe, tell) for recipe in recipes]
    pairs = [(d, w) for d, w in zip(*found, strict=True) if d is not None and w is not None]
    if not pairs:
        return ()
    defaults, winner = ([pair[side] for pair in pairs] for side in (0, 1))
    labels = json.loads((recipes[0].output / RECORD_FILE).read_text(encoding="utf-8"))["labels"]
    return tuple(
        paired(objective, defaults, winner, labels, seed=search.file.seed)
        for objective in search.objectives
        if objective.metric not in COSTS
    )


def paired(
    objective: Objective,
    defaults: Sequence[_Answer],
    winner: Sequence[_Answer],
    labels: Sequence[str] | None,
    *,
    seed: int,
) -> Comparison:
    """The difference of two runs on the same rows, with the interval of a paired bootstrap.

    Args:
        objective: What is compared.
        defaults: One answer a row.
        winner: The same rows in the same order.
        labels: Of a classification.
        seed: Of the resampling.

    Source: Efron & Tibshirani 1993, percentile intervals; pairs are resampled as one.
    """
    value = _value_of(objective.metric, labels)
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(_N_RESAMPLES):
        chosen = rng.integers(0, len(defaults), len(defaults)).tolist()
        differences.append(
            value([winner[i] for i in chosen]) - value([defaults[i] for i in chosen])
        )
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.percentile(differences, [tail, 100 - tail]))
    scores = value(defaults), value(winner)
    return Comparison(
        metric=objective.metric,
        n_rows=len(defaults),
        defaults=scores[0],
        winner=scores[1],
        difference=scores[1] - scores[0],
        low=low,
        high=high,
        confidence=CONFIDENCE,
        is_better=high < 0 if objective.is_minimized else low > 0,
    )


def _value_of(metric: str, labels: Sequence[str] | None) -> Callable[[Sequence[_Answer]], float]:
    def value(answers: Sequence[_Answer]) -> float:
        if metric in LOSSES:
            nll, n_tokens = sum(a.nll for a in answers), sum(a.n_tokens for a in answers)
            return nll / n_tokens if metric == "loss" else perplexity_of(nll, n_tokens)
        predictions = [answer.prediction or "" for answer in answers]
        return score([metric], predictions, [a.reference for a in answers], labels)[metric]

    return value


def _answers(search: Search, recipe: TrainRecipe, tell: OnEvent) -> list[_Answer | None]:
    """A run's answer to every test row; None for a row over its context."""
    table = read_table([str(rows_directory(search) / TEST)])
    examples = examples_of(table, recipe.data)
    with _subject_of(search, recipe) as subject:
        splits = [_tokenized(example, subject) for example in examples]
        fitting = [split for split in splits if not split.n_too_long]
        questions = [question for split in fitting for question in split.questions]
        record = json.loads((recipe.output / RECORD_FILE).read_text(encoding="utf-8"))
        texts: list[str] = []
        if questions:
            texts = subject.answer(
                questions,
                max_new_tokens=record["max_new_tokens"],
                stop=None,
                done=lambda n: tell(GenerationProgress(done=n, total=len(questions))),
            )
        spoken = iter(texts)
        answers: list[_Answer | None] = []
        for split in splits:
            if split.n_too_long:
                answers.append(None)
                continue
            nll, n_tokens = subject.nll(split.sequences)
            text = next(spoken) if split.questions else None
            reference = split.questions[0].reference if split.questions else ""
            answers.append(
                _Answer(prediction=text, reference=reference, nll=nll, n_tokens=n_tokens)
            )
    return answers


def _tokenized(example: Example, subject: Subject) -> TokenizedSplit:
    return tokenize_examples(
        [example], subject.tokenizer, max_length=subject.max_length, end_ids=subject.end_ids
    )


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
