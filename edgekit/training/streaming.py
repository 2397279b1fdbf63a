"""The rows of ``data.train`` as a stream: read anew in every pass, and never held as a whole."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise, repeat
from pathlib import Path

from edgekit.data_recipe import DataRecipe, DataSource
from edgekit.errors import DataError
from edgekit.training.examples import Example, examples_of
from edgekit.training.hub_rows import hub_version
from edgekit.training.row_files import is_file_reference
from edgekit.training.tables import read_blocks, renamed

N_FIRST = 1000
"""Rows that are looked at before training, of all sources together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleStream:
    """Training examples, read as they are asked for.

    Attributes:
        data: Its ``validation``, where that is a number, is taken from the start of the sources.
        seed: Of the draw among sources with weights.
    """

    data: DataRecipe
    seed: int

    @property
    def _sources(self) -> tuple[DataSource, ...]:
        data = self.data
        if data.sources:
            return data.sources
        return (DataSource(path=data.files, split=data.split, subset=data.subset),)

    def held_out(self) -> list[Example]:
        """The rows that are kept from training: the first ones of every source.

        Raises:
            DataError: If they cannot be used.
        """
        counts = self._n_held_out()
        return [e for n, count in enumerate(counts) for e in islice(self._examples(n), count)]

    def first(self) -> tuple[list[Example], bool]:
        """The first training rows of every source, and whether there are no more.

        Raises:
            DataError: If they cannot be used, or a source has none.
        """
        counts = _shares(N_FIRST, [1.0] * len(self._sources))
        found = [list(islice(self._training(n), count)) for n, count in enumerate(counts)]
        for source, rows, n_held_out in zip(self._sources, found, self._n_held_out(), strict=True):
            if not rows:
                raise DataError(
                    f"{', '.join(source.path)} has no rows behind the first {n_held_out}, which "
                    "data.validation takes",
                    hint="Take fewer for data.validation, or give it a file.",
                )
        is_all = all(len(rows) < count for rows, count in zip(found, counts, strict=True))
        return [*chain.from_iterable(found)], is_all

    def passes(self) -> Iterator[Iterator[Example]]:
        """The training rows again and again; with weights, one pass that never ends.

        Raises:
            DataError: At the first row that cannot be used.
        """
        while True:
            if self._weights is None:
                yield chain.from_iterable(self._training(n) for n in range(len(self._sources)))
            else:
                yield self._drawn(self._weights)

    def digest(self) -> str:
        """Says which rows they are: of every file its bytes, of a Hub data set its version."""
        digest = hashlib.sha256()
        for source in self._sources:
            for path in source.path:
                if is_file_reference(path):
                    with Path(path).open("rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
                else:
                    digest.update(hub_version(path, source.subset).encode())
        return f"sha256:{digest.hexdigest()}"

    @property
    def _weights(self) -> list[float] | None:
        weights = [source.weight for source in self._sources if source.weight is not None]
        return weights or None

    def _n_held_out(self) -> list[int]:
        count = self.data.validation if isinstance(self.data.validation, int) else 0
        return _shares(count, self._weights or [1.0] * len(self._sources))

    def _examples(self, number: int) -> Iterator[Example]:
        source = self._sources[number]
        for path in source.path:
            for block in read_blocks(path, split=source.split, subset=source.subset):
                for example in examples_of(renamed(block, source.rename), self.data):
                    yield replace(example, source=number)

    def _training(self, number: int) -> Iterator[Example]:
        return islice(self._examples(number), self._n_held_out()[number], None)

    def _drawn(self, weights: Sequence[float]) -> Iterator[Example]:
        """Every row from a source that is drawn; each source begins anew when it is at its end."""
        endless = [
            chain.from_iterable(map(self._training, repeat(number)))
            for number in range(len(weights))
        ]
        rng = random.Random(f"{self.seed}/sources")
        while True:
            (rows,) = rng.choices(endless, weights)
            yield next(rows)


def _shares(count: int, weights: Sequence[float]) -> list[int]:
    """Divide a number among weights."""
    ends = [0, *(round(count * end / sum(weights)) for end in accumulate(weights))]
    return [end - start for start, end in pairwise(ends)]
