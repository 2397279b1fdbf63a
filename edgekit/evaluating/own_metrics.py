"""A user's own metric: a function in a file, or one that a package offers by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from math import nan
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.evaluating.measuring import Measured, check_lengths, mean_of_rows, summed, with_ones
from edgekit.user_code import UserObject, load_user_object, user_code

GROUP = "edgekit.metrics"
_KEY = "metric"


def offered_names() -> frozenset[str]:
    """Names of the metrics that installed packages offer."""
    return frozenset(point.name for point in entry_points(group=GROUP))


def is_own(name: str) -> bool:
    """Whether this names a user's metric: a function in a file, or a package's."""
    path, colon, _ = name.rpartition(":")
    return bool(colon and path.endswith(".py")) or name in offered_names()


@dataclass(frozen=True, slots=True)
class OwnMetric:
    """A user's function of predictions and references.

    It returns one number for all rows, or a sequence of one number a row, whose mean is the
    score. Numbers a row make intervals quick: one number for all rows is asked for again of
    every sample, and there is no interval where a sample has none.
    """

    found: UserObject

    def over(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> Measured:
        """Look at every row once; then score any samples of them.

        Raises:
            RecipeError: If the function fails, or returns no number and no number a row.
        """
        check_lengths(predictions, references)
        value = self._ask(predictions, references)
        if isinstance(value, Real):
            _refuse_not_finite(self.found.reference, [value])
            return self._asked_again(predictions, references, float(value))
        rows = _numbers(value)
        if rows is None or len(rows) != len(references):
            raise RecipeError(
                f"metric: {self.found.reference}: expected a number, or a list of "
                f"{len(references)} numbers, one for each row, got {_described(value)}",
                hint="Return a float for all rows, or one for each.",
            )
        _refuse_not_finite(self.found.reference, rows)
        return summed(with_ones(rows), mean_of_rows)

    def _ask(self, predictions: Sequence[str], references: Sequence[str]) -> object:
        with user_code(self.found.reference, _KEY):
            value: object = self.found.value(list(predictions), list(references))
        return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value

    def _asked_again(
        self, predictions: Sequence[str], references: Sequence[str], whole: float
    ) -> Measured:
        """Score samples one by one; one that it fails on, where all rows went well, has none."""

        def score(sample: NDArray[np.int64]) -> float:
            if (sample == 1).all():
                return whole
            rows = np.repeat(np.arange(len(sample)), sample).tolist()
            try:
                value = self._ask(
                    [predictions[row] for row in rows], [references[row] for row in rows]
                )
            except RecipeError:
                return nan
            return float(value) if isinstance(value, Real) else nan

        return lambda counts: np.array([score(sample) for sample in counts])


def own_metric(name: str) -> OwnMetric:
    """Find what a name stands for.

    Raises:
        RecipeError: If it is not there, cannot be run, or cannot be called.
    """
    found = load_user_object(name, key=_KEY, group=GROUP)
    function: Callable[..., Any] | Any = found.value
    if not callable(function):
        raise RecipeError(
            f"metric: {name} cannot be called",
            hint="It should be a function of predictions and references.",
        )
    return OwnMetric(found)


def _numbers(value: object) -> list[float] | None:
    """The values of a list, tuple or array of numbers; None for anything else."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or not all(isinstance(item, Real) for item in value):
        return None
    return [float(item) for item in value]


def _described(value: object) -> str:
    size = f" of {len(value)}" if isinstance(value, Sequence | np.ndarray) else ""
    return f"{type(value).__name__}{size}"


def _refuse_not_finite(reference: str, values: Sequence[Any]) -> None:
    wrong = [row for row, value in enumerate(values, 1) if not np.isfinite(float(value))]
    if wrong:
        where = "" if len(values) == 1 else f" for row {wrong[0]}"
        raise RecipeError(
            f"metric: {reference}: expected a finite number, got {values[wrong[0] - 1]}{where}",
            hint="Look for a division by zero, or a mean of nothing.",
        )
