"""Rows of csv, tsv, json, jsonl and parquet files, one at a time.

Text files are read here, strictly, so that a malformed row is named by its line instead of
being guessed at, and so that nested JSON stays as it was written (Arrow would add the keys of
other rows to it).
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from edgekit.errors import DataError

_MAX_FIELD_CHARS = 2**31 - 1
_PARQUET_ROWS = 1024
_PEEKED_CHARS = 1024

Row = dict[str, Any]
NumberedRows = Iterator[tuple[int, Row | str]]
"""Rows with their lines; a text instead of a row is what is wrong with that line."""


def is_file_reference(source: str) -> bool:
    """Whether this names a file: it is there, or ends like a data file."""
    return Path(source).is_file() or Path(source).suffix.lower() in _READERS


def numbered_rows(source: str, *, streamed: bool = False) -> NumberedRows:
    """Read a file.

    Args:
        source: The file.
        streamed: Whether only the row that is read may be held; a JSON list cannot be read so.

    Raises:
        DataError: If there is no such file, or it cannot be read.
    """
    path = Path(source)
    reader = (_READERS | _STREAMING_READERS if streamed else _READERS).get(path.suffix.lower())
    if not path.is_file():
        raise DataError(f"{source}: no such file", hint=f"Looked in {Path.cwd()}.")
    if reader is None:
        raise DataError(f"{source}: unknown kind of file; known: {', '.join(sorted(_READERS))}")
    try:
        yield from reader(path)
    except UnicodeDecodeError as err:
        raise DataError(
            f"{source} is not UTF-8: byte {err.start} is 0x{err.object[err.start]:02x}",
            hint="Save the file as UTF-8.",
        ) from err
    except OSError as err:
        raise DataError(f"{source} cannot be read: {err}") from err


def _read_csv(path: Path) -> NumberedRows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _csv_rows(file, "," if path.suffix.lower() == ".csv" else "\t")


def _csv_rows(file: TextIO, delimiter: str) -> NumberedRows:
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


def _read_jsonl(path: Path) -> NumberedRows:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, _json_row(text)


def _json_row(text: str) -> Row | str:
    try:
        return _as_row(json.loads(text))
    except json.JSONDecodeError as err:
        return f"not valid JSON: {err.msg} at character {err.colno}"
    except (ValueError, RecursionError) as err:  # a number of thousands of digits; too deep
        return f"not readable JSON: {err}"


def _read_json(path: Path) -> NumberedRows:
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
    except (ValueError, RecursionError) as err:
        yield 1, f"not readable JSON: {err}"
        return
    if not isinstance(value, list):
        yield 1, "expected a list of objects, [{…}, …]"
        return
    for number, item in enumerate(value, start=1):
        yield number, _as_row(item)


def _read_json_lines(path: Path) -> NumberedRows:
    """JSON lines under the name .json; a list is told, since it is read as a whole."""
    with path.open(encoding="utf-8-sig") as file:
        is_list = file.read(_PEEKED_CHARS).lstrip().startswith("[")
    if is_list:
        yield 1, "a JSON list has to be read as a whole; write one object a line (.jsonl)"
    else:
        yield from _read_jsonl(path)


def _as_row(value: Any) -> Row | str:
    return value if isinstance(value, dict) else f"expected an object, got {value!r:.60}"


def _read_parquet(path: Path) -> NumberedRows:
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    line = 1
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    yield line, row
                    line += 1
    except ArrowException as err:
        yield line, next(iter(str(err).splitlines()), type(err).__name__)


_Reader = Callable[[Path], NumberedRows]
_READERS: dict[str, _Reader] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
_STREAMING_READERS: dict[str, _Reader] = {".json": _read_json_lines}
