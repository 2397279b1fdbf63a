"""A user's function that makes training rows out of training rows."""

import importlib.util
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import DataError
from edgekit.training.tables import MAX_PROBLEMS, Row

_KEY = "data.augment"


def augmented_rows(reference: str, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Call a user's function on the training rows.

    Args:
        reference: ``path/to/file.py:function``; the function takes a list of rows (a dict by
            column) and returns the list to train on: the rows it was given, changed or new ones.
        rows: Of the training split alone; the function gets copies.

    Raises:
        DataError: If there is no such function, it fails (told with file and line), or it
            returns anything but rows.
    """
    path, _, name = reference.rpartition(":")
    if not Path(path).is_file():
        raise DataError(f"{_KEY}: no such file {path}", hint=f"Looked in {Path.cwd()}.")
    function = getattr(_module(path), name, None)
    if not callable(function):
        raise DataError(f"{_KEY}: {path} has no function {name!r}")
    try:
        made = function([dict(row) for row in rows])
    except Exception as err:  # a user's code: whatever it raises is theirs to read
        raise _failed(path, err) from err
    return _checked(reference, made)


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as err:  # a user's code, as above
        raise _failed(path, err) from err
    return module


def _failed(path: str, err: Exception) -> DataError:
    if isinstance(err, SyntaxError):
        return DataError(f"{_KEY}: {path}:{err.lineno}: {type(err).__name__}: {err.msg}")
    resolved = Path(path).resolve()
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(err.__traceback__)
        if Path(frame.filename).resolve() == resolved
    ]
    place = f"{path}:{lines[-1]}" if lines else path
    return DataError(f"{_KEY}: {place}: {type(err).__name__}: {err}")


def _checked(reference: str, made: Any) -> tuple[Row, ...]:
    if not isinstance(made, list | tuple):
        raise DataError(f"{_KEY}: {reference} should return a list of rows, got {made!r:.60}")
    problems = [
        f"row {number}: expected a dict with text keys, got {row!r:.60}"
        for number, row in enumerate(made, start=1)
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row)
    ]
    if problems:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"… and {more} more"] if more > 0 else [])
        raise DataError(f"{_KEY}: {reference} returned what is no row", problems=shown)
    if not made:
        raise DataError(f"{_KEY}: {reference} returned no rows")
    return tuple(made)
