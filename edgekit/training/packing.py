"""Several sequences in one row, so that no step is spent on padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from edgekit.training.tokens import IGNORED, TokenizedExample


def packed(examples: Sequence[TokenizedExample], max_length: int) -> tuple[TokenizedExample, ...]:
    """Put sequences together, longest first, each into the row that it fills best.

    Positions begin anew with every sequence, from which transformers makes a mask that keeps
    sequences apart. Nothing is cut, and no sequence's first token is learnt from another's last.

    Args:
        examples: Each of at most max_length tokens.
        max_length: Of a row, in tokens.

    Source: best-fit decreasing bin packing (Johnson, 1973).
    """
    rows: list[list[TokenizedExample]] = []
    room: list[tuple[int, int]] = []  # of each row that has some left, sorted
    for example in sorted(examples, key=lambda one: -len(one.input_ids)):
        length = len(example.input_ids)
        found = bisect_left(room, (length, 0))
        left, index = room.pop(found) if found < len(room) else (max_length, len(rows))
        if index == len(rows):
            rows.append([])
        rows[index].append(example)
        insort(room, (left - length, index))
    return tuple(_row(row) for row in rows)


def _row(examples: Sequence[TokenizedExample]) -> TokenizedExample:
    return TokenizedExample(
        input_ids=tuple(token for one in examples for token in one.input_ids),
        labels=tuple(label for one in examples for label in (IGNORED, *one.labels[1:])),
        lengths=tuple(len(one.input_ids) for one in examples),
    )
