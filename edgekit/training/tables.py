"""Tables of rows, each row with its place: of files, or of a Hub data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgekit.errors import DataError, first_of
from edgekit.training.hub_rows import hub_rows
from edgekit.training.row_files import Row, is_file_reference, numbered_rows
from edgekit_runtime.errors import nearest

_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows with the place that each came from.

    Attributes:
        source: What was asked for, for messages.
        columns: Every column that any row has.
        rows: Values by column; a JSON row may lack some.
        places: Such as ``train.csv:7``, one for each row.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    places: tuple[str, ...]


def read_table(sources: Sequence[str], *, split: str = "train", subset: str | None = None) -> Table:
    """Read rows from files, a directory or the Hugging Face Hub.

    Args:
        sources: Files of one or more kinds, or exactly one directory or Hub id.
        split: Hugging Face slicing over all rows; files have the one split ``train``.
        subset: The Hub data set's configuration.

    Raises:
        DataError: If something is missing, malformed (with every line), or empty.
    """
    if len(sources) == 1 and not is_file_reference(sources[0]):
        return _checked(sources[0], hub_rows(sources[0], split, subset))
    table = _joined([_checked(source, numbered_rows(source)) for source in sources])
    return _sliced(table, split)


def read_blocks(source: str, *, split: str = "train", subset: str | None = None) -> Iterator[Table]:
    """Read rows some at a time, so that no more of them are held.

    Args:
        source: One file, directory or Hub id.
        split: Its name, without a slice.
        subset: The Hub data set's configuration.

    Yields:
        Tables; their columns are all that were seen so far.

    Raises:
        DataError: As :func:`read_table`, of the rows up to the first that is malformed.
    """
    if not is_file_reference(source):
        numbered = hub_rows(source, split, subset, streamed=True)
    elif split == "train":
        numbered = numbered_rows(source, streamed=True)
    else:
        raise DataError(
            f"split {split!r} does not fit {source}", hint="Files have the one split 'train'."
        )
    columns: tuple[str, ...] = ()
    while block := list(islice(numbered, _BLOCK_ROWS)):
        table = _checked(source, block, shown=f"{source} up to line {block[-1][0]}")
        columns = tuple(dict.fromkeys((*columns, *table.columns)))
        yield replace(table, columns=columns)
    if not columns:
        raise DataError(f"{source} has no rows")


def _checked(
    source: str, numbered: Iterable[tuple[int, Row | str]], *, shown: str | None = None
) -> Table:
    """Collect rows; a text instead of a row is what is wrong with that line."""
    shown = shown or source
    rows, places, problems = [], [], []
    for line, row in numbered:
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
        else:
            rows.append(row)
            places.append(f"{source}:{line}")
    if problems:
        raise DataError(f"{shown} has {len(problems)} malformed rows", problems=first_of(problems))
    if not rows:
        raise DataError(f"{shown} has no rows")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(source=shown, columns=columns, rows=tuple(rows), places=tuple(places))


def _joined(tables: Sequence[Table]) -> Table:
    return Table(
        source=", ".join(table.source for table in tables),
        columns=tuple(dict.fromkeys(column for table in tables for column in table.columns)),
        rows=tuple(row for table in tables for row in table.rows),
        places=tuple(place for table in tables for place in table.places),
    )


def _sliced(table: Table, split: str) -> Table:
    """Apply Hugging Face slicing to the rows of files."""
    from datasets import ReadInstruction

    try:
        pieces = ReadInstruction.from_spec(split).to_absolute({"train": len(table.rows)})
    except (ValueError, AssertionError) as err:
        raise DataError(
            f"split {split!r} does not fit {table.source}, which has {len(table.rows)} rows: "
            f"{str(err).splitlines()[0]}",
            hint="Files have the one split 'train'; slices look like train[:100] or train[80%:].",
        ) from err
    chosen = [i for piece in pieces for i in range(len(table.rows))[piece.from_ : piece.to]]
    if not chosen:
        raise DataError(f"split {split!r} of {table.source} has no rows")
    return Table(
        source=table.source,
        columns=table.columns,
        rows=tuple(table.rows[i] for i in chosen),
        places=tuple(table.places[i] for i in chosen),
    )


def renamed(table: Table, names: Mapping[str, str]) -> Table:
    """Give columns other names.

    Args:
        table: The rows.
        names: New name by the present one.

    Raises:
        DataError: If a column does not exist, or a new name is taken; with every problem.
    """
    kept = [column for column in table.columns if column not in names]
    problems = [
        f"rename names {column!r}, {nearest(column, table.columns)}"
        for column in names
        if column not in table.columns
    ]
    taken = sorted({new for new in names.values() if [*kept, *names.values()].count(new) > 1})
    problems += [f"rename gives two columns the name {new!r}" for new in taken]
    if problems:
        raise DataError(f"{table.source}: columns cannot be renamed", problems=problems)
    return Table(
        source=table.source,
        columns=tuple(names.get(column, column) for column in table.columns),
        rows=tuple({names.get(key, key): v for key, v in row.items()} for row in table.rows),
        places=table.places,
    )


def require_columns(table: Table, needed: Sequence[tuple[str, str]]) -> None:
    """Refuse a table that lacks columns.

    Args:
        table: The rows.
        needed: (column, who asks for it) pairs.

    Raises:
        DataError: Naming every missing column, who asks for it, and the columns that exist.
    """
    problems = [
        f"{asker} names {column!r}, {nearest(column, table.columns)}"
        for column, asker in needed
        if column not in table.columns
    ]
    if problems:
        raise DataError(f"{table.source} lacks columns", problems=problems)
