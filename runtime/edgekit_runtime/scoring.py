"""Scores given text: how likely it is under the base or an adapter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How likely a completion is.

    Attributes:
        log_prob: Natural logarithm of its probability, summed over its tokens.
        n_tokens: Number of its tokens.
        is_greedy: Whether each of its tokens is the likeliest where it stands.
    """

    log_prob: float
    n_tokens: int
    is_greedy: bool


def token_log_probs(decoder: Decoder, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Log probability of every token but the first, given those before it."""
    parts = [
        _log_probs(logits, targets)
        for logits, targets in _logits_and_targets(decoder, tokens)
        if len(targets)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def score_completions(
    decoder: Decoder, prompt: Sequence[int], completions: Sequence[Sequence[int]]
) -> list[Score]:
    """Score token sequences that follow one prompt, which is run once."""
    decoder.append(prompt[decoder.keep_prefix(prompt) :])
    first = decoder.logits()[None]
    scores = []
    for completion in completions:
        total = float(_log_probs(first, completion[:1]).sum())
        is_greedy = _are_likeliest(first, completion[:1])
        if len(completion) > 1:
            decoder.rewind(len(prompt))
            for logits, targets in _logits_and_targets(decoder, completion):
                total += float(_log_probs(logits, targets).sum())
                is_greedy &= _are_likeliest(logits, targets)
        scores.append(Score(log_prob=total, n_tokens=len(completion), is_greedy=is_greedy))
    return scores


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities that logits stand for, along the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    log_probs: NDArray[np.float64] = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return log_probs


def split_completion(prompt: Sequence[int], whole: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split the tokens of prompt plus completion where they leave the prompt's own tokens.

    A token across the border counts to the completion. One token of the prompt stays at least.
    """
    n = 0
    while n < min(len(prompt), len(whole) - 1) and prompt[n] == whole[n]:
        n += 1
    n = max(n, 1)
    return list(whole[:n]), list(whole[n:])


def _logits_and_targets(
    decoder: Decoder, tokens: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], Sequence[int]]]:
    """Append the tokens by pieces; pair each position's logits with the token after it."""
    for start in range(0, len(tokens) - 1, PREFILL_CHUNK_TOKENS):
        end = min(start + PREFILL_CHUNK_TOKENS, len(tokens) - 1)
        yield decoder.piece_logits(tokens[start:end]), tokens[start + 1 : end + 1]


def _are_likeliest(logits: NDArray[np.float32], targets: Sequence[int]) -> bool:
    return bool((logits.argmax(axis=-1) == np.asarray(targets)).all())


def _log_probs(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    top = values.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(values - top).sum(axis=-1))
    chosen = values[np.arange(len(targets)), np.asarray(targets)]
    log_probs: NDArray[np.float64] = chosen - log_sum
    return log_probs
