"""Held-out rows as they are asked, and as they were answered."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import DataError
from edgekit.evaluating.subjects import Subject
from edgekit.training.examples import Example
from edgekit.training.tokens import Question, TokenizedExample, tokenize_examples

_ANY_LENGTH = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedRow:
    """A row on its way to a subject.

    Attributes:
        number: Its place among the rows that were read, from 1.
        key: Digest of what the data hold in this row, whatever it is asked with.
        prompt: As asked, without solved rows before it.
        question: What to ask; None for a row that is only read, such as plain text.
        sequences: Its tokens, for the likelihood of what should follow.
    """

    number: int
    key: str
    prompt: str
    question: Question | None
    sequences: tuple[TokenizedExample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredRow:
    """What came of a row.

    Attributes:
        number: Its place among the rows that were read, from 1.
        key: Digest of what the data hold in this row, whatever it is asked with.
        prompt: As asked, without solved rows before it; or the text that was read.
        prediction: As it was generated; None where the row was only read.
        probability: Of the prediction among the labels, where they were classified.
        nll: Negative log-likelihood (nats) of the tokens that should follow, where measured.
        n_tokens: Their number.
        is_right: What a harness task's own accuracy says; None where the prediction is compared
            with the reference.
    """

    number: int
    key: str
    prompt: str
    reference: str
    prediction: str | None = None
    probability: float | None = None
    nll: float | None = None
    n_tokens: int | None = None
    is_right: bool | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether it was answered otherwise than it should be; what was only read counts too."""
        if self.is_right is not None:
            return not self.is_right
        return self.prediction is None or self.prediction.strip() != self.reference.strip()


def key_of(example: Example) -> str:
    """Digest of a data row."""
    text = json.dumps(example.row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ask(
    examples: Sequence[Example],
    subject: Subject,
    data: str,
    *,
    shown: Sequence[Example] | None = None,
    is_only_read: bool = False,
) -> tuple[list[AskedRow], int]:
    """Tokenize rows for a subject.

    Args:
        examples: The rows as they were read.
        subject: Who is asked.
        data: Their source, for messages.
        shown: The same rows with solved ones before them.
        is_only_read: Take rows of any length and shape, to be scored by windows.

    Returns:
        The rows, and how many were left out since they are over the context.

    Raises:
        DataError: If no row is left.
    """
    longest = _ANY_LENGTH if is_only_read else subject.max_length
    rows: list[AskedRow] = []
    n_too_long = 0
    for number, (example, asked) in enumerate(
        zip(examples, shown or examples, strict=True), start=1
    ):
        split = tokenize_examples(
            [asked], subject.tokenizer, max_length=longest, end_ids=subject.end_ids
        )
        n_too_long += split.n_too_long
        question = split.questions[0] if split.questions else None
        if question is None and not is_only_read:
            continue
        prompt = example.prompt or example.text or (question.prompt if question else "")
        rows.append(
            AskedRow(
                number=number,
                key=key_of(example),
                prompt=prompt,
                question=question,
                sequences=split.sequences,
            )
        )
    if not rows:
        raise DataError(
            f"'{data}': no row can be asked as a question",
            problems=[f"{n_too_long} of {len(examples)} rows are over the context"],
            hint="Rows need a prompt and a completion (or messages) that fit the context; "
            "--method perplexity scores texts of any length.",
        )
    return rows, n_too_long
