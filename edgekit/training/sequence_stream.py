"""A stream of examples as what the Trainer reads: tokenized, shuffled some at a time, without end.

Rows are held a buffer at a time and given in the order of ``LengthGroupedSampler``. So a buffer
that holds all rows makes the very batches of a run that does not stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice

from torch.utils.data import IterableDataset

from edgekit.training.examples import Example
from edgekit.training.prepare import Prepared, nothing_fits
from edgekit.training.streaming import ExampleStream
from edgekit.training.tokens import TokenizedExample
from edgekit.training.trainer import LengthGroupedSampler


@dataclass(kw_only=True, slots=True)
class Seen:
    """What was read of a stream so far, the rows of each pass counted anew.

    Attributes:
        n_rows: Training rows, those that wait in the buffer among them.
        n_too_long: Of them, those that were left out.
        n_sequences: That fitted.
        longest_completion: In tokens.
        labels: Of a classification.
    """

    n_rows: int = 0
    n_too_long: int = 0
    n_sequences: int = 0
    longest_completion: int = 0
    labels: set[str] = field(default_factory=set)


class SequenceStream(IterableDataset[TokenizedExample]):
    """The sequences to train on, pass after pass.

    Each of several processes reads all of it, and accelerate gives each its own part of a batch.

    Args:
        prepared: The run.
        stream: Its rows.
        batch_size: Of a step, that of all processes together.

    Attributes:
        seen: By the latest iterator.
    """

    def __init__(self, prepared: Prepared, stream: ExampleStream, batch_size: int) -> None:
        self._prepared = prepared
        self._stream = stream
        self.batch_size = batch_size
        self.seen = Seen()

    def __iter__(self) -> Iterator[TokenizedExample]:
        """Begin anew.

        Raises:
            DataError: At the first row that cannot be used, or if every row is too long.
        """
        self.seen = Seen()
        n_held = self._prepared.recipe.data.shuffle_buffer
        numbers = count()
        for examples in self._stream.passes():
            sequences = self._sequences(examples)
            while held := list(islice(sequences, n_held or 1)):
                yield from self._shuffled(held, next(numbers))
            if not self.seen.n_sequences:
                raise nothing_fits(self._prepared.recipe)

    def settled(self) -> Prepared:
        """The run with what is known of its rows now that they were read."""
        seen, prepared = self.seen, self._prepared
        labels, weights = prepared.examples.labels, prepared.label_weights
        if labels is not None:
            labels = tuple(sorted(seen.labels))
        if labels is not None and weights is not None:
            weights = {label: weights.get(label, 1.0) for label in labels}
        longest = max(seen.longest_completion, prepared.train.longest_completion)
        return replace(
            prepared,
            examples=replace(prepared.examples, labels=labels),
            label_weights=weights,
            train=replace(prepared.train, n_too_long=seen.n_too_long, longest_completion=longest),
        )

    def _sequences(self, examples: Iterator[Example]) -> Iterator[TokenizedExample]:
        seen = self.seen
        is_labelled = self._prepared.examples.labels is not None
        for example in examples:
            split = self._prepared.tokenized([example])
            seen.n_rows += 1
            seen.n_too_long += split.n_too_long
            seen.n_sequences += len(split.sequences)
            seen.longest_completion = max(seen.longest_completion, split.longest_completion)
            if is_labelled:
                seen.labels.add((example.completion or "").strip())
            yield from split.sequences

    def _shuffled(
        self, held: Sequence[TokenizedExample], number: int
    ) -> Iterator[TokenizedExample]:
        lengths = [len(sequence.input_ids) for sequence in held]
        order = LengthGroupedSampler(lengths, self.batch_size, self._prepared.recipe.seed)
        order.set_epoch(number)
        return (held[index] for index in order)
