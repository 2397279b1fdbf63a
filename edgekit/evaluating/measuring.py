"""What a metric is: a score that can be taken of any sample of the rows.

Nearly every score follows from figures that add up over rows: hits, counts of words, fields that
agree. So a metric keeps those figures for each row, and a sample's score costs one product of
matrices. Intervals and comparisons of two runs are made of such samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Measured = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""How often each row is in each sample, (n_samples, n_rows), to each sample's score."""

Figures = NDArray[np.float64]


class Metric(Protocol):
    """A score of predictions against references."""

    def over(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> Measured:
        """Look at every row once; then score any samples of them."""


@dataclass(frozen=True, slots=True)
class SummedMetric:
    """A score of figures that add up over rows.

    Attributes:
        rows: Predictions, references and labels to figures, (n_rows, n_figures).
        total: The sum of the figures, (n_figures,), to the score.
    """

    rows: Callable[[Sequence[str], Sequence[str], Sequence[str] | None], Any]
    total: Callable[[Figures], float]

    def over(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> Measured:
        """Look at every row once; then score any samples of them.

        Raises:
            ValueError: If the two differ in length or are empty.
        """
        check_lengths(predictions, references)
        return summed(self.rows(predictions, references, labels), self.total)

    def __call__(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> float:
        """Score all rows."""
        return value_of(self.over(predictions, references, labels), len(references))


def summed(rows: Any, total: Callable[[Figures], float]) -> Measured:
    """Score samples by the sum of their rows' figures, (n_rows, n_figures)."""
    figures = np.asarray(rows, dtype=np.float64)

    def measure(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([total(sums) for sums in counts.astype(np.float64) @ figures])

    return measure


def value_of(measured: Measured, n_rows: int) -> float:
    """The score of every row once."""
    return float(measured(np.ones((1, n_rows), dtype=np.int64))[0])


def mean_of_rows(sums: Figures) -> float:
    """The score of figures (value, 1): their mean."""
    return float(sums[0] / sums[1])


def with_ones(values: Sequence[float]) -> NDArray[np.float64]:
    """One value a row, as figures for :func:`mean_of_rows`."""
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)


def check_lengths(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Refuse rows that do not pair up.

    Raises:
        ValueError: If the two differ in length or are empty.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"expected one prediction for each reference, and at least one; "
            f"got {len(predictions)} and {len(references)}"
        )
