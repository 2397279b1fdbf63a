"""Sums over rows of logits: how well two models agree, and how well one predicts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Logits of a large vocabulary in float64 are worked through in pieces.
_CHUNK_ROWS = 64


class Agreement:
    """Mean KL(expected || actual) and top-1 agreement over rows of logits."""

    def __init__(self) -> None:
        self.n = 0
        self._kl = 0.0
        self._same = 0

    def add(self, expected: Any, actual: Any) -> None:
        """Add logits (positions, vocabulary) of both sides, arrays or tensors."""
        for p, q in zip(_log_probabilities(expected), _log_probabilities(actual), strict=True):
            self.n += len(p)
            self._kl += float((np.exp(p) * (p - q)).sum())
            self._same += int((p.argmax(-1) == q.argmax(-1)).sum())

    @property
    def mean_kl(self) -> float:
        """Nats, mean over positions."""
        return self._kl / self.n

    @property
    def top1(self) -> float:
        """Share of positions with the same most likely token."""
        return self._same / self.n


class NllSum:
    """Mean negative log-likelihood of the next token."""

    def __init__(self) -> None:
        self._nll = 0.0
        self._n = 0

    def add(self, logits: Any, row: Sequence[int]) -> None:
        """Add the logits (positions, vocabulary) of a row of tokens."""
        targets = np.asarray(row[1:])
        for index, scores in enumerate(_log_probabilities(logits[:-1])):
            wanted = targets[index * _CHUNK_ROWS : index * _CHUNK_ROWS + len(scores)]
            self._nll -= float(scores[np.arange(len(scores)), wanted].sum())
        self._n += len(targets)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self._nll / self._n


def _log_probabilities(logits: Any) -> Iterator[Array]:
    """Logarithms of the softmax, some rows at a time."""
    values = np.asarray(logits)
    for start in range(0, len(values), _CHUNK_ROWS):
        chunk = values[start : start + _CHUNK_ROWS].astype(np.float64)
        chunk -= chunk.max(axis=-1, keepdims=True)
        yield chunk - np.log(np.exp(chunk).sum(axis=-1, keepdims=True))
