"""Sums over rows of logits: how well two models agree, and how well one predicts."""

from collections.abc import Sequence
from typing import Any


class Agreement:
    """Mean KL(expected || actual) and top-1 agreement over rows of logits."""

    def __init__(self) -> None:
        self.n = 0
        self._kl = 0.0
        self._same = 0

    def add(self, expected: Any, actual: Any) -> None:
        """Add logits (positions, vocabulary) of both sides."""
        import torch

        p = torch.as_tensor(expected).double().log_softmax(-1)
        q = torch.as_tensor(actual).double().log_softmax(-1)
        self.n += p.shape[0]
        self._kl += float((p.exp() * (p - q)).sum())
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
        import torch

        targets = torch.tensor(row[1:])
        scores = torch.as_tensor(logits)[:-1].double()
        self._nll += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
        self._n += len(targets)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self._nll / self._n
