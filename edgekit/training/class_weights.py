"""Class weights: how much each row of a classification counts, by its label."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from edgekit.errors import RecipeError
from edgekit.training.tokens import IGNORED
from edgekit_runtime.errors import nearest


def weights_by_label(setting: str | Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Weight of each label.

    Args:
        setting: A weight by label, where a label that is not named has 1; or ``balanced``, the
            number of rows by (the number of labels times the label's rows).
        labels: Of every training row.

    Raises:
        RecipeError: With every label that no training row has.

    Source: ``balanced`` is scikit-learn's ``compute_class_weight``.
    """
    counts = Counter(labels)
    if isinstance(setting, str):
        return {
            label: len(labels) / (len(counts) * count) for label, count in sorted(counts.items())
        }
    unknown = [label for label in setting if label not in counts]
    if unknown:
        raise RecipeError(
            "class_weights name labels that no training row has",
            problems=[f"class_weights.{name}: {nearest(name, sorted(counts))}" for name in unknown],
        )
    return {label: float(setting.get(label, 1)) for label in sorted(counts)}


def token_weights(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The row's weight of each learnt token, (n,), in the order of ``completion_logits``."""
    targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    rows = batch["row_weights"][:, None].expand_as(targets)
    return rows[targets != IGNORED]


def weighted_nll(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Sum of each token's cross entropy times its weight.

    By the sum of the weights it is PyTorch's mean with ``weight``. With label smoothing the whole
    of a token's loss has the weight of its row, since a row's label is not one token of the
    vocabulary over which the smoothing spreads.

    Args:
        logits: (n, vocabulary).
        targets: (n,).
        weights: (n,).
        label_smoothing: Share that is spread over the vocabulary.
    """
    nll = functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=label_smoothing
    )
    return (nll * weights).sum()
