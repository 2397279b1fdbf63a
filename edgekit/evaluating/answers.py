"""Ways to get answers to held-out rows: generating, choosing a label, few-shot, a baseline."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from edgekit.errors import DataError
from edgekit.evaluating.rows import AnsweredRow, AskedRow, key_of
from edgekit.evaluating.subjects import Subject, completion_tokens
from edgekit.evaluating.windows import check_window, nll_by_windows
from edgekit.training.examples import Example
from edgekit.training.tokens import Question

Method = Literal["generate", "labels", "classify", "few-shot", "tfidf", "perplexity"]
LABEL_METHODS = ("labels", "classify")
OnProgress = Callable[[int, int], None]
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a subject's answers are had.

    Attributes:
        completions: What is chosen from, where labels are scored.
        max_new_tokens: Limit of an answer that is generated.
        stop: Text that ends one.
        is_measured: Whether the references' likelihood is measured beside generated answers.
        window: For ``perplexity``: tokens read at once; the context by default.
        stride: For ``perplexity``: tokens that the next window is further on.
    """

    method: Method
    completions: tuple[str, ...]
    max_new_tokens: int
    stop: str | None
    is_measured: bool
    window: int | None
    stride: int | None


def answer_rows(
    subject: Subject, rows: Sequence[AskedRow], way: Way, on_progress: OnProgress
) -> list[AnsweredRow]:
    """Have a subject answer rows, by any method that takes a language model.

    Raises:
        RecipeError: If the windows do not fit the subject's context.
        DataError: If rows are only read, and none has a second token.
    """
    if way.method == "perplexity":
        size, step = check_window(way.window, way.stride, subject.max_length)
        return read_texts(subject, rows, size, step, on_progress)
    if way.method == "labels":
        return choose_labels(subject, rows, way.completions, on_progress)
    if way.method == "classify":
        return classify_rows(subject, rows, way.completions, on_progress)
    answered = generate_answers(subject, rows, way.max_new_tokens, way.stop, on_progress)
    return with_likelihoods(subject, rows, answered) if way.is_measured else answered


def generate_answers(
    subject: Subject,
    rows: Sequence[AskedRow],
    max_new_tokens: int,
    stop: str | None,
    on_progress: OnProgress,
) -> list[AnsweredRow]:
    """Let a subject write freely (greedy)."""
    predictions = subject.answer(
        _questions(rows),
        max_new_tokens=max_new_tokens,
        stops=(stop,) if stop else (),
        done=lambda count: on_progress(count, len(rows)),
    )
    return _answered(rows, predictions)


def choose_labels(
    subject: Subject,
    rows: Sequence[AskedRow],
    completions: Sequence[str],
    on_progress: OnProgress,
) -> list[AnsweredRow]:
    """Let a subject pick the most likely label, whatever may follow it."""
    predictions = []
    for done, question in enumerate(_questions(rows), start=1):
        parts = completion_tokens(subject.tokenizer, question, completions)
        scores = subject.score_tokens([(question.prompt_ids, part) for part in parts])
        best = max(range(len(parts)), key=lambda index: scores[index][0])
        predictions.append(completions[best])
        on_progress(done, len(rows))
    return _answered(rows, predictions)


def classify_rows(
    subject: Subject,
    rows: Sequence[AskedRow],
    completions: Sequence[str],
    on_progress: OnProgress,
) -> list[AnsweredRow]:
    """Let a subject pick the label that is likeliest as the whole answer."""
    found = subject.classify(
        _questions(rows), completions, done=lambda count: on_progress(count, len(rows))
    )
    answered = _answered(rows, [label for label, _ in found])
    return [
        replace(row, probability=probability)
        for row, (_, probability) in zip(answered, found, strict=True)
    ]


def with_likelihoods(
    subject: Subject, rows: Sequence[AskedRow], answered: Sequence[AnsweredRow]
) -> list[AnsweredRow]:
    """Add how likely the references are."""
    found = iter(subject.nll_of_each([one for row in rows for one in row.sequences]))
    measured = [list(islice(found, len(row.sequences))) for row in rows]
    return [
        replace(row, nll=sum(nll for nll, _ in parts), n_tokens=sum(count for _, count in parts))
        for row, parts in zip(answered, measured, strict=True)
    ]


def read_texts(
    subject: Subject, rows: Sequence[AskedRow], window: int, stride: int, on_progress: OnProgress
) -> list[AnsweredRow]:
    """Only measure how likely the rows are, by windows; nothing is generated.

    Raises:
        DataError: If no row has a second token.
    """
    read = []
    for done, row in enumerate(rows, start=1):
        nll, count = nll_by_windows(subject.nll, row.sequences, window, stride)
        reference = row.question.reference if row.question else ""
        read.append(
            AnsweredRow(
                number=row.number,
                key=row.key,
                prompt=row.prompt,
                reference=reference,
                nll=nll,
                n_tokens=count,
            )
        )
        on_progress(done, len(rows))
    if not any(row.n_tokens for row in read):
        raise DataError(
            "no row has a token to score",
            hint="The first token of a text has nothing before it; give texts of two or more.",
        )
    return read


def with_shots(examples: Sequence[Example], known: Sequence[Example], shots: int) -> list[Example]:
    """Put the same solved training rows before every prompt, of as many labels as there is room."""
    pool = [example for example in known if example.prompt and example.completion]
    random.Random(_SEED).shuffle(pool)
    by_label: dict[str, list[Example]] = {}
    for example in pool:
        by_label.setdefault(example.completion or "", []).append(example)
    rounds = [group[turn : turn + 1] for turn in range(shots) for group in by_label.values()]
    solved = [f"{e.prompt}{e.completion}\n\n" for group in rounds for e in group][:shots]
    return [replace(e, prompt="".join([*solved, e.prompt or ""])) for e in examples]


def tfidf_answers(known: Sequence[Example], examples: Sequence[Example]) -> list[AnsweredRow]:
    """The baseline that needs no language model: TF-IDF of words and pairs, logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    model.fit([e.prompt or "" for e in known], [(e.completion or "").strip() for e in known])
    labels = model.predict([example.prompt or "" for example in examples])
    return [
        AnsweredRow(
            number=number,
            key=key_of(example),
            prompt=example.prompt or "",
            reference=(example.completion or "").strip(),
            prediction=str(label),
        )
        for number, (example, label) in enumerate(zip(examples, labels, strict=True), start=1)
    ]


def _questions(rows: Sequence[AskedRow]) -> list[Question]:
    return [row.question for row in rows if row.question is not None]


def _answered(rows: Sequence[AskedRow], predictions: Sequence[str]) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            number=row.number,
            key=row.key,
            prompt=row.prompt,
            reference=row.question.reference if row.question else "",
            prediction=prediction,
        )
        for row, prediction in zip(rows, predictions, strict=True)
    ]
