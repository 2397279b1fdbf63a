"""What a loss curve says: overfitting, divergence, nothing learnt; each with what to do.

The rules are simple on purpose, and stand in ``docs/how-to/read-the-report.md``. They look at the
loss only, so they can be wrong about what matters to a user; metrics on held-out rows decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Literal

from edgekit.training.report import LossPoint

OVERFITTING_RISE = 0.05
DIVERGENCE_RISE = 0.20
LEAST_FALL = 0.02
N_SCATTERS = 2
_MIN_TRAINED = 10
_MIN_EVALUATED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One thing that a curve shows.

    Attributes:
        kind: Which rule it is.
        text: What was seen, with the figures.
        advice: What to try, most likely first.
    """

    kind: Literal["overfitting", "divergence", "nothing_learnt"]
    text: str
    advice: str

    @property
    def sentence(self) -> str:
        """All of it, for a terminal."""
        return f"{self.kind.replace('_', ' ')}: {self.text}. {self.advice}"


def verdicts_of(curve: Sequence[LossPoint]) -> tuple[Verdict, ...]:
    """Judge a finished run.

    Divergence is told alone: what else such a curve shows follows from it.

    Args:
        curve: Every point, in the order of steps. Losses that are not above zero, as a user's own
            loss may have, are not judged.

    Returns:
        None where the curve is too short, or as it should be.
    """
    trained = [(p.step, p.train_loss) for p in curve if p.train_loss is not None]
    evaluated = [(p.step, p.eval_loss) for p in curve if p.eval_loss is not None]
    if any(loss <= 0 for _, loss in trained):
        trained = []
    if found := _divergence(trained):
        return (found,)
    both = (_overfitting(trained, evaluated), _nothing_learnt(trained, evaluated))
    return tuple(verdict for verdict in both if verdict is not None)


_Points = list[tuple[int, float]]


def _divergence(trained: _Points) -> Verdict | None:
    """The last fifth of the training loss lies over the lowest fifth."""
    fifths = _fifths(trained)
    if not fifths or fifths[-1] <= (1 + DIVERGENCE_RISE) * min(fifths):
        return None
    return Verdict(
        kind="divergence",
        text=f"the training loss rose from {min(fifths):.3f} to {fifths[-1]:.3f}, "
        f"{fifths[-1] / min(fifths) - 1:.0%} over its lowest",
        advice="Lower training.learning_rate to a third, warm up for longer "
        "(training.warmup_steps), or look for odd rows with `edgekit data check`",
    )


def _overfitting(trained: _Points, evaluated: _Points) -> Verdict | None:
    """Validation turned upwards while training went on falling."""
    if len(evaluated) < _MIN_EVALUATED:
        return None
    best_step, best = min(evaluated, key=lambda point: point[1])
    last_step, last = evaluated[-1]
    if best <= 0 or last <= (1 + OVERFITTING_RISE) * best:
        return None
    before = [loss for step, loss in trained if step <= best_step]
    after = [loss for step, loss in trained if step > best_step]
    if not before or not after or fmean(after) >= fmean(before):
        return None
    return Verdict(
        kind="overfitting",
        text=f"the validation loss was lowest at step {best_step} ({best:.3f}) and rose to "
        f"{last:.3f} at step {last_step}, {last / best - 1:.0%} more, while the training loss fell",
        advice=f"Stop at about step {best_step} (training.max_steps), collect more rows, lower "
        "lora.r, or raise lora.lora_dropout or training.weight_decay",
    )


def _nothing_learnt(trained: _Points, evaluated: _Points) -> Verdict | None:
    """The training loss fell by no more than it scatters, and validation did not fall either."""
    if len(trained) < _MIN_TRAINED:
        return None
    n_first = max(1, len(trained) // 20)
    first = fmean(loss for _, loss in trained[:n_first])
    last = _fifths(trained)[-1]
    scatter = pstdev(loss for _, loss in trained[len(trained) // 2 :])
    if first - last > max(LEAST_FALL * first, N_SCATTERS * scatter):
        return None
    losses = [loss for _, loss in evaluated]
    if losses and min(losses) < (1 - LEAST_FALL) * losses[0]:
        return None
    return Verdict(
        kind="nothing_learnt",
        text=f"the training loss was {first:.3f} at the start and {last:.3f} at the end",
        advice="Raise training.learning_rate three times, train for longer, or check with "
        "`edgekit data check` that completions follow from prompts",
    )


def _fifths(trained: _Points) -> list[float]:
    """The mean loss of each fifth of the run; none where the curve is too short."""
    if len(trained) < _MIN_TRAINED:
        return []
    edges = [round(len(trained) * fifth / 5) for fifth in range(6)]
    losses = [loss for _, loss in trained]
    return [fmean(losses[a:b]) for a, b in pairwise(edges)]
