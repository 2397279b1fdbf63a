"""A curve's verdict, by the rules of docs/how-to/read-the-report.md."""

import math
from collections.abc import Callable

import pytest

from edgekit.training.report import LossPoint
from edgekit.training.verdicts import verdicts_of


def curve(
    train: Callable[[int], float], evaluation: Callable[[int], float], n: int = 50
) -> list[LossPoint]:
    return [
        LossPoint(
            step=step,
            train_loss=train(step),
            eval_loss=evaluation(step) if step % 10 == 0 else None,
        )
        for step in range(1, n + 1)
    ]


def falling(step: int) -> float:
    return 0.2 + 2 * math.exp(-step / 8)


@pytest.mark.parametrize(
    ("train", "evaluation", "kinds"),
    [
        (falling, falling, ()),
        (falling, lambda s: 1 + abs(s - 20) / 100, ("overfitting",)),
        (falling, lambda s: 1 + abs(s - 20) / 1000, ()),
        (lambda s: 1 + abs(s - 20) / 20, lambda s: 1 + abs(s - 20) / 20, ("divergence",)),
        (lambda s: 2 + 0.01 * (s % 2), lambda _: 2.0, ("nothing_learnt",)),
        (lambda s: -falling(s), falling, ()),
    ],
    ids=["good", "overfitting", "within 5 %", "divergence", "nothing", "an own loss below zero"],
)
def test_the_curve_is_named(
    train: Callable[[int], float], evaluation: Callable[[int], float], kinds: tuple[str, ...]
) -> None:
    found = verdicts_of(curve(train, evaluation))
    assert tuple(verdict.kind for verdict in found) == kinds
    assert all(verdict.advice for verdict in found)


def test_the_text_has_the_figures_and_the_advice_the_step() -> None:
    (found,) = verdicts_of(curve(falling, lambda s: 1 + abs(s - 20) / 100))
    assert "lowest at step 20 (1.000) and rose to 1.300 at step 50, 30% more" in found.text
    assert "Stop at about step 20" in found.advice


def test_a_short_curve_is_not_judged() -> None:
    assert verdicts_of(curve(lambda _: 2.0, lambda _: 2.0, n=9)) == ()
