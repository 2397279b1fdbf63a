"""How sure a score is: the same metric over rows drawn again, with replacement.

Source: Efron, "Bootstrap methods: another look at the jackknife" (1979); percentile intervals.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RecipeError
from edgekit.evaluating.measuring import Measured

N_SAMPLES = 1000
_SEED = 0
_CHUNK = 50

Interval = tuple[float, float]


def check_confidence(confidence: float) -> None:
    """Refuse what is no share.

    Raises:
        RecipeError: Unless it is above 0 and below 1.
    """
    if not 0 < confidence < 1:
        raise RecipeError(
            f"confidence: expected a share above 0 and below 1, got {confidence}",
            hint="0.95 is the usual one.",
        )


def intervals_of(
    measured: Mapping[str, Measured], n_rows: int, confidence: float
) -> dict[str, Interval | None]:
    """The interval of every metric; None where a sample of the rows has no finite score."""
    samples = sampled_scores(measured, n_rows)
    return {name: interval_of(values, confidence) for name, values in samples.items()}


def sampled_scores(measured: Mapping[str, Measured], n_rows: int) -> dict[str, NDArray[np.float64]]:
    """Every metric's score over the same :data:`N_SAMPLES` samples, seeded by nothing but n_rows.

    So two runs over the same rows are scored over the same samples.
    """
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in measured}
    for counts in _samples(n_rows):
        for name, measure in measured.items():
            parts[name].append(measure(counts))
    return {name: np.concatenate(values) for name, values in parts.items()}


def sampled_differences(
    measured: Mapping[str, Measured], others: Mapping[str, Measured], n_rows: int
) -> dict[str, NDArray[np.float64]]:
    """One run's scores less another's, over the same samples of the same rows."""
    mine, theirs = (
        sampled_scores({name: run[name] for name in measured}, n_rows) for run in (measured, others)
    )
    with np.errstate(invalid="ignore"):  # infinite perplexity less infinite perplexity
        return {name: mine[name] - theirs[name] for name in measured}


def interval_of(values: NDArray[np.float64], confidence: float) -> Interval | None:
    """The percentile interval of a sampled score."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _samples(n_rows: int) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn, (n_samples, n_rows), by pieces."""
    rng = np.random.default_rng(_SEED)
    for _ in range(0, N_SAMPLES, _CHUNK):
        yield rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=_CHUNK)
