"""Scores of labels, and the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.evaluating.measuring import Figures, SummedMetric, mean_of_rows, with_ones

OTHER = "(other)"
"""The confusion matrix's last column: predictions that are no label."""

_OUTSIDE = "\0outside"  # one class for every prediction that is no label; no reference has it


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """How often each label was answered by each.

    Attributes:
        labels: Of the rows, and of the columns; one more column, the last, is for predictions
            that are no label.
        counts: (n_labels, n_labels + 1); rows are references, columns predictions.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: reference, prediction, how often."""
        columns = (*self.labels, OTHER)
        cells = [
            (right, guessed, n)
            for right, row in zip(self.labels, self.counts, strict=True)
            for guessed, n in zip(columns, row, strict=True)
            if n and right != guessed
        ]
        return sorted(cells, key=lambda cell: (-cell[2], cell[0], cell[1]))[:count]


def confusion_of(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None
) -> Confusion:
    """Count every pair of reference and prediction.

    Args:
        predictions: Generated text.
        references: Right labels.
        labels: The label set; the references' by default. Labels that occur in neither are
            left out.
    """
    from sklearn.metrics import confusion_matrix

    right, guessed, classes = _classes(predictions, references, labels)
    counts = confusion_matrix(right, guessed, labels=[*classes, _OUTSIDE])[:-1]
    return Confusion(labels=tuple(classes), counts=tuple(tuple(map(int, row)) for row in counts))


def _hits(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> Any:
    pairs = zip(predictions, references, strict=True)
    return with_ones([float(p.strip() == r.strip()) for p, r in pairs])


def _class_figures(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> NDArray[np.float64]:
    """One column a class for hits, then for guesses, then for references."""
    right, guessed, classes = _classes(predictions, references, labels)
    column = {name: index for index, name in enumerate(classes)}
    figures = np.zeros((3, len(right), len(classes)))
    for index, (reference, prediction) in enumerate(zip(right, guessed, strict=True)):
        figures[2, index, column[reference]] = 1
        if prediction in column:
            figures[1, index, column[prediction]] = 1
            figures[0, index, column[prediction]] = prediction == reference
    return np.concatenate(figures, axis=1)


def _classes(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    """Trimmed references, trimmed predictions with one name for all outsiders, the classes."""
    right = [reference.strip() for reference in references]
    known = {label.strip() for label in labels} if labels is not None else set(right)
    known |= set(right)
    guessed = [p.strip() if p.strip() in known else _OUTSIDE for p in predictions]
    return right, guessed, sorted((set(right) | set(guessed)) - {_OUTSIDE})


def _macro_f1(sums: Figures) -> float:
    hits, guesses, references = sums.reshape(3, -1)
    occurs = guesses + references > 0
    return float((2 * hits[occurs] / (guesses + references)[occurs]).mean())


def _micro_f1(sums: Figures) -> float:
    hits, guesses, references = sums.reshape(3, -1).sum(axis=1)
    return float(2 * hits / (guesses + references))


def _mean_recall(sums: Figures) -> float:
    hits, _, references = sums.reshape(3, -1)
    return float((hits[references > 0] / references[references > 0]).mean())


exact_match = SummedMetric(_hits, mean_of_rows)
"""Share of predictions that equal their reference."""

f1 = SummedMetric(_class_figures, _macro_f1)
"""Macro F1 over the labels; a prediction that is no label counts as wrong.

Classes that occur in neither predictions nor references are left out, so that a small sample is
not punished for them.
"""

micro_f1 = SummedMetric(_class_figures, _micro_f1)
"""Micro F1 over the labels; a prediction that is no label counts as missed, not as guessed."""

balanced_accuracy = SummedMetric(_class_figures, _mean_recall)
"""Mean recall over the classes of the references, so that rare ones count as much."""
