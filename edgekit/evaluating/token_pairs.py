"""How likely tokens are behind given ones, under a torch model."""

from collections.abc import Sequence
from typing import Any

_PAIRS_AT_ONCE = 16

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Tokens that are given and tokens that are scored, at least one of each."""


def score_pairs(
    model: Any, pairs: Sequence[TokenPair], *, pad_token_id: int
) -> list[tuple[float, bool]]:
    """Score the second part of every pair behind the first; its last token is not run.

    Returns:
        For each pair the natural logarithm of its probability, and whether each of its tokens is
        the likeliest where it stands.
    """
    import torch

    order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
    found = [(0.0, False)] * len(pairs)
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        chosen = order[start : start + _PAIRS_AT_ONCE]
        rows = [[*pairs[index][0], *pairs[index][1]] for index in chosen]
        width = max(map(len, rows)) - 1
        # Padding stands behind every token that counts, where causal attention ignores it.
        ids = [(row[:-1] + [pad_token_id] * width)[:width] for row in rows]
        with torch.inference_mode():
            logits = model(torch.tensor(ids, device=model.device), use_cache=False).logits
        for index, row, own in zip(chosen, rows, logits, strict=True):
            n_given = len(pairs[index][0])
            targets = torch.tensor(row[n_given:], device=own.device)
            scored = own[n_given - 1 : len(row) - 1]
            log_probs = scored.double().log_softmax(-1).gather(1, targets[:, None])
            found[index] = (float(log_probs.sum()), bool((scored.argmax(-1) == targets).all()))
    return found
