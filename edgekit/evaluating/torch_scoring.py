"""How likely given tokens are under a torch model, by as few runs of it as that takes."""

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from edgekit.training.tokens import IGNORED, TokenizedExample

_TOKENS_AT_ONCE = 1024
_PARTS_AT_ONCE = 16

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Tokens that are given and tokens that are scored, at least one of each."""


def nll_in_batches(
    model: Any, sequences: Sequence[TokenizedExample], *, pad_token_id: int
) -> list[tuple[float, int]]:
    """Negative log-likelihood (nats) of each sequence's learnt tokens, and their number.

    The first token of a sequence has none before it and is not counted.
    """
    from torch.nn.functional import cross_entropy

    found = [(0.0, 0)] * len(sequences)
    for place, logits, targets in _learnt_logits(model, sequences, pad_token_id):
        nll = cross_entropy(logits.double(), targets, reduction="sum")
        found[place] = (float(nll), len(targets))
    return found


def score_pairs(
    model: Any, pairs: Sequence[TokenPair], *, pad_token_id: int
) -> list[tuple[float, bool]]:
    """Score the second part of every pair behind the first.

    Returns:
        For each pair the natural logarithm of its probability, and whether each of its tokens is
        the likeliest where it stands.
    """
    from torch.nn.functional import cross_entropy

    sequences = [
        TokenizedExample(
            input_ids=(*given, *scored), labels=((IGNORED,) * len(given)) + tuple(scored)
        )
        for given, scored in pairs
    ]
    found = [(0.0, False)] * len(pairs)
    for place, logits, targets in _learnt_logits(model, sequences, pad_token_id):
        nll = cross_entropy(logits.double(), targets, reduction="sum")
        found[place] = (-float(nll), bool((logits.argmax(-1) == targets).all()))
    return found


def continuation_log_probs(
    model: Any,
    prompt: Sequence[int],
    parts: Sequence[Sequence[int]],
    end_ids: Collection[int],
) -> list[float]:
    """Natural logarithm of how likely an answer is exactly each part, its end included.

    The prompt is run once; its keys and values serve every part.

    Args:
        model: A causal LM or PEFT model.
        prompt: Its tokens, at least one.
        parts: Tokens of each answer, at least one each.
        end_ids: Tokens that end an answer.
    """
    import torch

    ends = sorted(end_ids)
    scores = [0.0] * len(parts)
    order = sorted(range(len(parts)), key=lambda place: len(parts[place]))
    with torch.inference_mode():
        read = model(torch.tensor([list(prompt)], device=model.device), use_cache=True)
        first = read.logits[0, -1].double().log_softmax(-1)
        for start in range(0, len(order), _PARTS_AT_ONCE):
            chosen = order[start : start + _PARTS_AT_ONCE]
            width = len(parts[chosen[-1]])
            # Padding stands behind every token that counts, where causal attention ignores it.
            ids = [[*parts[i], *[ends[0]] * (width - len(parts[i]))] for i in chosen]
            cache = copy.deepcopy(read.past_key_values)
            cache.batch_repeat_interleave(len(chosen))
            tokens = torch.tensor(ids, device=model.device)
            logits = model(tokens, past_key_values=cache, use_cache=True).logits
            for row, place in zip(logits, chosen, strict=True):
                part = torch.tensor(list(parts[place]), device=model.device)
                log_probs = row[: len(part)].double().log_softmax(-1)
                inner = log_probs[:-1].gather(1, part[1:, None]).sum()
                end = torch.logsumexp(log_probs[-1, ends], 0)
                scores[place] = float(first[part[0]] + inner + end)
    return scores


def _learnt_logits(
    model: Any, sequences: Sequence[TokenizedExample], pad_token_id: int
) -> Iterator[tuple[int, Any, Any]]:
    """Place, logits and targets of each sequence's learnt tokens.

    Sequences of similar length share a batch, and the head computes what is learnt alone.
    """
    import torch

    from edgekit.training.trainer import PaddingCollator, completion_logits

    collate = PaddingCollator(pad_token_id)
    for chosen in _batches(sequences):
        rows = [sequences[place] for place in chosen]
        batch = {name: value.to(model.device) for name, value in collate(rows).items()}
        with torch.inference_mode():
            logits, targets = completion_logits(model, batch)
        counts = [_n_learnt(row) for row in rows]
        parts = (torch.split(tensor, counts) for tensor in (logits, targets))
        yield from zip(chosen, *parts, strict=True)


def _n_learnt(sequence: TokenizedExample) -> int:
    """Learnt tokens that have another before them."""
    return sum(label != IGNORED for label in sequence.labels[1:])


def _batches(sequences: Sequence[TokenizedExample]) -> Iterator[list[int]]:
    """Places of the sequences that have something learnt, those of similar length together."""
    places = [place for place, one in enumerate(sequences) if _n_learnt(one)]
    batch: list[int] = []
    for place in sorted(places, key=lambda place: len(sequences[place].input_ids)):
        if batch and (len(batch) + 1) * len(sequences[place].input_ids) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
