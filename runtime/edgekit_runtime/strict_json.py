"""Reads JSON that somebody else wrote."""

import json
from typing import Any, NoReturn


def loads(data: bytes | str) -> Any:
    """Parse a document.

    Unlike `json.loads` it raises `ValueError` for everything that is wrong: for nesting that
    Python cannot follow, too, and for ``NaN`` and ``Infinity``, which are no JSON (RFC 8259).

    Raises:
        ValueError: If it is no JSON, or is not UTF-8.
    """
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
