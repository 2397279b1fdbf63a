"""Bodies of requests: JSON that is read with care, fields that are checked all at once."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from edgekit_runtime.serving.errors import bad_request
from edgekit_runtime.serving.fields import CHAT, COMPLETION, IGNORED, REFUSED, REQUIRED
from edgekit_runtime.serving.shapes import problems_of

Kind = Literal["chat", "completion"]


def read_json(data: bytes) -> dict[str, Any]:
    """Read a body.

    Raises:
        ApiError: If it is no JSON object.
    """
    try:
        body = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        reason = "nested too deeply" if isinstance(err, RecursionError) else _reason(err)
        raise bad_request("the body is no JSON", [reason], code="invalid_json") from err
    if not isinstance(body, dict):
        raise bad_request("the body is no JSON object", [], code="invalid_json")
    return body


def check_fields(body: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """Check a body's fields; return those that were given.

    Raises:
        ApiError: With every problem.
    """
    known = CHAT if kind == "chat" else COMPLETION
    given = {name: value for name, value in body.items() if value is not None}
    problems = [f"{name}: missing" for name in REQUIRED[kind] if name not in given]
    for name, value in given.items():
        if name in known:
            problems += problems_of(value, known[name], name)
        elif name in REFUSED:
            is_neutral, reason = REFUSED[name]
            problems += [] if is_neutral(value) else [f"{name}: {reason}"]
        elif name not in IGNORED:
            problems.append(_unknown(name, known))
    if problems:
        raise bad_request("the request is malformed", problems)
    return {name: value for name, value in given.items() if name in known}


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, [*known, *REFUSED, *IGNORED], n=1)
    return f"{name}: no such field" + (f"; did you mean {close[0]!r}?" if close else "")


def _reason(err: ValueError) -> str:
    """What is wrong, without the text that it is wrong in."""
    if isinstance(err, json.JSONDecodeError):
        return f"{err.msg} at line {err.lineno}, column {err.colno}"
    return "not UTF-8" if isinstance(err, UnicodeError) else str(err)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
