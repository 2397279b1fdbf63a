"""A user's function that makes training rows out of training rows."""

from collections.abc import Sequence
from typing import Any

from edgekit.errors import DataError, first_of
from edgekit.training.row_files import Row
from edgekit.user_code import load_user_object, user_code

_GROUP = "edgekit.augmentations"
_KEY = "data.augment"


def augmented_rows(reference: str, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Call a user's function on the training rows.

    Args:
        reference: ``path/to/file.py:function``; the function takes a list of rows (a dict by
            column) and returns the list to train on: the rows it was given, changed or new ones.
        rows: Of the training split alone; the function gets copies.

    Raises:
        RecipeError: If there is no such function, or it fails (told with file and line).
        DataError: If it returns anything but rows.
    """
    function = load_user_object(reference, key=_KEY, group=_GROUP).value
    with user_code(reference, _KEY):
        made = function([dict(row) for row in rows])
    return _checked(reference, made)


def _checked(reference: str, made: Any) -> tuple[Row, ...]:
    if not isinstance(made, list | tuple):
        raise DataError(f"{_KEY}: {reference} should return a list of rows, got {made!r:.60}")
    problems = [
        f"row {number}: expected a dict with text keys, got {row!r:.60}"
        for number, row in enumerate(made, start=1)
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row)
    ]
    if problems:
        raise DataError(f"{_KEY}: {reference} returned what is no row", problems=first_of(problems))
    if not made:
        raise DataError(f"{_KEY}: {reference} returned no rows")
    return tuple(made)
