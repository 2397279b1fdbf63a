"""Read rows: csv, tsv, json, jsonl and parquet files, or a Hub data set.

Text files are read here, strictly, so that a malformed row is named by its line instead of
being guessed at, and so that nested JSON stays as it was written (Arrow would add the keys of
other rows to it).
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from edgekit.errors import DataError, first_of
from edgekit_runtime.errors import nearest

_MAX_FIELD_CHARS = 2**31 - 1

Row = dict[str, Any]
_Numbered = Iterator[tuple[int, Row | str]]


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
        return _read_hub(sources[0], split, subset)
    table = _joined([_read_file(source) for source in sources])
    return _sliced(table, split)


def is_file_reference(source: str) -> bool:
    """Whether this names a file: it is there, or ends like a data file."""
    return Path(source).is_file() or Path(source).suffix.lower() in _READERS


def _read_file(source: str) -> Table:
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if not path.is_file():
        raise DataError(f"{source}: no such file", hint=f"Looked in {Path.cwd()}.")
    if reader is None:
        raise DataError(f"{source}: unknown kind of file; known: {', '.join(sorted(_READERS))}")
    try:
        return _checked(source, reader(path))
    except UnicodeDecodeError as err:
        raise DataError(
            f"{source} is not UTF-8: byte {err.start} is 0x{err.object[err.start]:02x}",
            hint="Save the file as UTF-8.",
        ) from err
    except OSError as err:
        raise DataError(f"{source} cannot be read: {err}") from err


def _checked(source: str, numbered: _Numbered) -> Table:
    """Collect rows; a text instead of a row is what is wrong with that line."""
    rows, places, problems = [], [], []
    for line, row in numbered:
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
        else:
            rows.append(row)
            places.append(f"{source}:{line}")
    if problems:
        raise DataError(f"{source} has {len(problems)} malformed rows", problems=first_of(problems))
    if not rows:
        raise DataError(f"{source} has no rows")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(source=source, columns=columns, rows=tuple(rows), places=tuple(places))


def _read_csv(path: Path) -> _Numbered:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _csv_rows(file, "," if path.suffix.lower() == ".csv" else "\t")


def _csv_rows(file: TextIO, delimiter: str) -> _Numbered:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for values in reader:
            if values and header is None:
                header = values
                if problem := _header_problem(header):
                    yield line, problem
                    return
            elif values and header is not None:
                yield line, _csv_row(header, values)
            line = reader.line_num + 1
    except csv.Error as err:
        yield line, str(err)


def _header_problem(header: Sequence[str]) -> str | None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        return f"the header names a column twice: {', '.join(map(repr, twice))}"
    return "the header has a column without a name" if not all(header) else None


def _csv_row(header: Sequence[str], values: Sequence[str]) -> Row | str:
    if len(values) != len(header):
        return f"expected {len(header)} columns, got {len(values)}"
    return dict(zip(header, values, strict=True))


def _read_jsonl(path: Path) -> _Numbered:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, _json_row(text)


def _json_row(text: str) -> Row | str:
    try:
        return _as_row(json.loads(text))
    except json.JSONDecodeError as err:
        return f"not valid JSON: {err.msg} at character {err.colno}"


def _read_json(path: Path) -> _Numbered:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        if err.msg == "Extra data":  # JSON lines under the name .json: common, and unambiguous
            yield from _read_jsonl(path)
        else:
            yield err.lineno, f"not valid JSON: {err.msg} at character {err.colno}"
        return
    if not isinstance(value, list):
        yield 1, "expected a list of objects, [{…}, …]"
        return
    for number, item in enumerate(value, start=1):
        yield number, _as_row(item)


def _as_row(value: Any) -> Row | str:
    return value if isinstance(value, dict) else f"expected an object, got {value!r:.60}"


def _read_parquet(path: Path) -> _Numbered:
    from pyarrow import ArrowInvalid  # type: ignore[import-untyped]
    from pyarrow.parquet import read_table as read_parquet  # type: ignore[import-untyped]

    try:
        rows = read_parquet(path).to_pylist()
    except ArrowInvalid as err:
        yield 1, str(err).splitlines()[0]
        return
    yield from enumerate(rows, start=1)


_READERS: dict[str, Callable[[Path], _Numbered]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


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


def _read_hub(source: str, split: str, subset: str | None) -> Table:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(source, name=subset, split=split)
    except (OSError, ValueError, AssertionError, RuntimeError, HfHubHTTPError) as err:
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise DataError(
            f"data '{source}' is no file here and cannot be loaded as a data set: {reason}",
            hint="Give a csv, tsv, json, jsonl or parquet file, or a Hub data set id "
            "(with `subset` where it has several, and the network for the first time).",
        ) from err
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.ClassLabel):
            loaded = loaded.cast_column(column, datasets.Value("string"))
            names = dict(enumerate(feature.names))
            loaded = loaded.map(_named(column, names))
    rows = tuple(loaded.to_list())
    if not rows:
        raise DataError(f"split {split!r} of {source} has no rows")
    places = tuple(f"{source}:{number}" for number in range(1, len(rows) + 1))
    return Table(source=source, columns=tuple(loaded.column_names), rows=rows, places=places)


def _named(column: str, names: dict[int, str]) -> Callable[[Row], Row]:
    return lambda row: {column: names.get(int(row[column]), "")}


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
