"""What a training run tells whoever watches it; the library itself prints nothing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One sentence: a phase that begins, or a warning."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStep:
    """Progress. Figures are the latest known ones, None before the first.

    Attributes:
        step: Optimizer steps done.
        max_steps: Steps of the whole run.
        loss: Mean training loss per learnt token since the last report.
        learning_rate: Of this step.
        eval_loss: On validation.
    """

    step: int
    max_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    eval_loss: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationProgress:
    """Scoring at the end: answers generated so far."""

    done: int
    total: int


Event = Message | TrainingStep | GenerationProgress
OnEvent = Callable[[Event], None]
