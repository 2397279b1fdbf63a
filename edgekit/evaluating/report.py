"""What an evaluation reports."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekit.evaluating.class_metrics import Confusion
from edgekit.evaluating.comparing import Comparison
from edgekit.evaluating.rows import AnsweredRow
from edgekit.evaluating.sampling import Interval

_N_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTask:
    """One task of lm-evaluation-harness, as it was run.

    Attributes:
        version: The task's own.
        shots: Solved rows before every prompt.
    """

    version: str
    shots: int
    n_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessFigures:
    """What lm-evaluation-harness says beside scores.

    Attributes:
        version: Of the harness.
        standard_errors: Of every metric; None where the harness has none.
        higher_is_better: Of every metric; None where the task does not say.
        n_cut: Requests whose beginning was left out, since they are over the context.
        chat_template: Whether prompts went through the base's chat template.
    """

    version: str
    tasks: Mapping[str, HarnessTask]
    standard_errors: Mapping[str, float | None]
    higher_is_better: Mapping[str, bool | None]
    n_cut: int
    chat_template: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """Scores of one subject on one data set.

    Attributes:
        subject: What was scored: ``bundle NAME`` or ``torch BASE``, ``tfidf``; with the weights
            of the torch base where they are not its own.
        n_too_long: Rows left out because they are over the context.
        metrics: Shares from 0 to 1; ``perplexity`` of the references' tokens.
        losses: Loss per token of the references on the weights that were scored, and on the
            ``float`` ones; empty where those are the same, or perplexity was not asked for.
        intervals: Of every metric, at ``confidence``; None where a sample of the rows has no
            finite score.
        confusion: Of a classification.
        wrong: Up to five rows that were answered otherwise than the reference.
        rows: Every row that was scored.
        comparison: With another run, where one was given.
        harness: Of method ``harness``; its intervals are made of the standard errors.
    """

    subject: str
    adapter: str | None
    method: str
    data: str
    n_rows: int
    n_too_long: int
    metrics: Mapping[str, float]
    losses: Mapping[str, float]
    confidence: float
    intervals: Mapping[str, Interval | None]
    confusion: Confusion | None
    seconds: float
    wrong: tuple[Mapping[str, str], ...]
    rows: tuple[AnsweredRow, ...]
    comparison: Comparison | None
    harness: HarnessFigures | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; null stands for what JSON has no number for, an infinite perplexity."""
        return {key: _for_json(value) for key, value in asdict(self).items()}


def _for_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _for_json(part) for key, part in value.items()}
    return [_for_json(part) for part in value] if isinstance(value, list | tuple) else value


def wrong_rows(rows: Sequence[AnsweredRow], count: int = _N_SHOWN) -> tuple[dict[str, str], ...]:
    """The first rows that were answered otherwise than the reference."""
    differing = [
        {
            "prompt": row.prompt,
            "prediction": (row.prediction or "").strip(),
            "reference": row.reference.strip(),
        }
        for row in rows
        if row.prediction is not None and row.is_wrong
    ]
    return tuple(differing[:count])
