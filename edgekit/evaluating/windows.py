"""Sequences longer than the context, scored by windows that overlap."""

from collections.abc import Callable, Sequence

from edgekit.errors import RecipeError
from edgekit.training.tokens import IGNORED, TokenizedExample


def check_window(window: int | None, stride: int | None, max_length: int) -> tuple[int, int]:
    """The window and stride to score by; the context and half a window by default.

    Raises:
        RecipeError: If they are too small, or the window is over the context.
    """
    size = max_length if window is None else window
    step = max(1, size // 2) if stride is None else stride
    problems = []
    if not 2 <= size <= max_length:
        problems.append(f"window: expected 2 to {max_length} tokens, the context, got {size}")
    if not 1 <= step < max(size, 2):
        problems.append(f"stride: expected 1 to {size - 1} tokens, below the window, got {step}")
    if problems:
        raise RecipeError("perplexity cannot be measured by these windows", problems=problems)
    return size, step


def windows_of(sequence: TokenizedExample, window: int, stride: int) -> list[TokenizedExample]:
    """Cut a sequence into windows in which every learnt token is scored exactly once.

    Behind the first window, a token is scored with at least ``window - stride`` tokens before it.
    The first token of a sequence has none before it and is never scored.

    Args:
        sequence: Of any length.
        window: Tokens of a window, at least 2.
        stride: Tokens that the next window is further on, below ``window``.

    Source: "Perplexity of fixed-length models", Hugging Face transformers' documentation.
    """
    ids, labels = sequence.input_ids, sequence.labels
    cut, scored = [], 1
    for start in range(0, max(len(ids) - 1, 0), stride):
        end = min(start + window, len(ids))
        kept = labels[scored:end]
        if any(label != IGNORED for label in kept):
            masked = (IGNORED,) * (scored - start) + tuple(kept)
            cut.append(TokenizedExample(input_ids=tuple(ids[start:end]), labels=masked))
        scored = end
        if end == len(ids):
            break
    return cut


def nll_by_windows(
    nll: Callable[[Sequence[TokenizedExample]], tuple[float, int]],
    sequences: Sequence[TokenizedExample],
    window: int,
    stride: int,
) -> tuple[float, int]:
    """Total negative log-likelihood (nats) of the learnt tokens, and their number."""
    return nll([cut for whole in sequences for cut in windows_of(whole, window, stride)])
