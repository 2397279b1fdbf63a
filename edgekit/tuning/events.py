"""What a search tells whoever watches it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.training.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialBegun:
    """A trial, or the run with the recipe's own values (``run`` is None), begins."""

    run: int | None
    n_done: int
    n_trials: int
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialEnded:
    """A trial, or the run with the recipe's own values, is over.

    Attributes:
        state: "complete", "pruned" or "failed".
        scores: By objective; empty unless complete.
        reason: Of a failure.
        is_best: Whether no other trial is better.
    """

    run: int | None
    n_done: int
    n_trials: int
    state: str
    scores: Mapping[str, float]
    seconds: float
    reason: str = ""
    is_best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WithinTrial:
    """What the training of a trial tells."""

    run: int | None
    event: Event


TuneEvent = Event | TrialBegun | TrialEnded | WithinTrial
OnTuneEvent = Callable[[TuneEvent], None]
