"""Ways to get answers to held-out rows: generating, choosing a label, few-shot, a baseline."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgekit.evaluating.subjects import Subject
from edgekit.training.examples import Example
from edgekit.training.tokens import TokenizedSplit

OnProgress = Callable[[int, int], None]
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Predictions beside what they should have been.

    Attributes:
        n_too_long: Rows left out because they are over the context.
        perplexity: Of the references' tokens, where measured.
    """

    prompts: tuple[str, ...]
    predictions: tuple[str, ...]
    references: tuple[str, ...]
    n_too_long: int = 0
    perplexity: float | None = None

    def wrong(self, count: int) -> tuple[dict[str, str], ...]:
        """The first rows that were answered otherwise than the reference."""
        rows = zip(self.prompts, self.predictions, self.references, strict=True)
        differing = [
            {"prompt": prompt, "prediction": prediction.strip(), "reference": reference.strip()}
            for prompt, prediction, reference in rows
            if prediction.strip() != reference.strip()
        ]
        return tuple(differing[:count])


def generate_answers(
    subject: Subject,
    split: TokenizedSplit,
    max_new_tokens: int,
    stop: str | None,
    on_progress: OnProgress,
) -> Answers:
    """Let a subject write freely (greedy)."""
    total = len(split.questions)
    predictions = subject.answer(
        split.questions,
        max_new_tokens=max_new_tokens,
        stop=stop,
        done=lambda count: on_progress(count, total),
    )
    return _answers(split, predictions)


def choose_labels(
    subject: Subject, split: TokenizedSplit, completions: Sequence[str], on_progress: OnProgress
) -> Answers:
    """Let a subject pick the most likely label."""
    total = len(split.questions)
    predictions = subject.choose(
        split.questions, completions, done=lambda count: on_progress(count, total)
    )
    return _answers(split, predictions)


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


def tfidf_answers(known: Sequence[Example], examples: Sequence[Example]) -> Answers:
    """The baseline that needs no language model: TF-IDF of words and pairs, logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    model.fit([e.prompt or "" for e in known], [(e.completion or "").strip() for e in known])
    prompts = [example.prompt or "" for example in examples]
    return Answers(
        prompts=tuple(prompts),
        predictions=tuple(str(label) for label in model.predict(prompts)),
        references=tuple((example.completion or "").strip() for example in examples),
    )


def _answers(split: TokenizedSplit, predictions: Sequence[str]) -> Answers:
    return Answers(
        prompts=tuple(question.prompt for question in split.questions),
        predictions=tuple(predictions),
        references=tuple(question.reference for question in split.questions),
        n_too_long=split.n_too_long,
    )
