"""Reads JSON that somebody else wrote."""

import json
from collections import Counter
from typing import Any, Final, NoReturn

_N_NAMED: Final = 5  # names that an error lists


def loads(data: bytes | str, *, unique_names: bool = False) -> Any:
    """Parse a document.

    Unlike `json.loads` it raises `ValueError` for everything that is wrong: for nesting that
    Python cannot follow, too, and for ``NaN`` and ``Infinity``, which are no JSON (RFC 8259).

    Args:
        data: The document.
        unique_names: Whether an object that has a name twice is refused. Otherwise the last one
            counts, as everywhere in Python; others take the first (RFC 8259, section 4).

    Raises:
        ValueError: If it is no JSON, or is not UTF-8.
    """
    pairs_hook = _object if unique_names else None
    try:
        return json.loads(data, parse_constant=_refuse, object_pairs_hook=pairs_hook)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)[:_N_NAMED]
        raise ValueError(f"an object has a name twice: {', '.join(map(repr, twice))}")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
