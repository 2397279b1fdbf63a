"""Holds JSON values against the part of JSON Schema that describes our request bodies.

One description serves both ends: requests are checked by it, and ``/openapi.json`` shows it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from edgekit_runtime.errors import nearest

Schema = Mapping[str, Any]

_SHORT = 32  # characters of a value that a message repeats

_KINDS = {
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "number": (int | float, "a number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a list"),
    "object": (dict, "an object"),
}


def problems_of(value: Any, schema: Schema, where: str) -> list[str]:
    """Every way in which a value is not as described, one line each."""
    if "anyOf" in schema:
        return _none_of(value, schema, where)
    if "enum" in schema:
        is_listed = isinstance(value, str) and value in schema["enum"]
        return [] if is_listed else [_expected(where, say(schema), value)]
    if "type" not in schema:
        return []
    kind, _ = _KINDS[schema["type"]]
    is_bool = isinstance(value, bool) and schema["type"] != "boolean"
    if not isinstance(value, kind) or is_bool or not _within(value, schema):
        return [_expected(where, say(schema), value)]
    if isinstance(value, list) and "items" in schema:
        return [
            problem
            for index, item in enumerate(value)
            for problem in problems_of(item, schema["items"], f"{where}[{index}]")
        ]
    return _of_fields(value, schema, where) if isinstance(value, dict) else []


def _none_of(value: Any, schema: Schema, where: str) -> list[str]:
    """Nothing if one alternative takes the value; else what the nearest one says against it."""
    found = [problems_of(value, option, where) for option in schema["anyOf"]]
    if not all(found):
        return []
    inner = [problems for problems in found if not problems[0].startswith(f"{where}: ")]
    return inner[0] if inner else [_expected(where, say(schema), value)]


def _of_fields(value: Mapping[str, Any], schema: Schema, where: str) -> list[str]:
    known: Schema = schema.get("properties", {})
    prefix = f"{where}." if where else ""
    required = schema.get("required", ())
    problems = [f"{prefix}{name}: missing" for name in required if name not in value]
    for name, item in value.items():
        if name in known:
            if item is not None or name in required:
                problems += problems_of(item, known[name], f"{prefix}{name}")
        elif schema.get("additionalProperties") is False:
            problems.append(f"{prefix}{name}: no such field; {nearest(name, known)}")
    return problems


def _within(value: Any, schema: Schema) -> bool:
    """Whether the size, range or form of a value is as described."""
    if isinstance(value, int | float):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        over = schema.get("exclusiveMinimum", -math.inf)
        return bool(math.isfinite(value) and low <= value <= high and value > over)
    if isinstance(value, str):
        is_long = len(value) >= schema.get("minLength", 0)
        return is_long and ("pattern" not in schema or bool(re.search(schema["pattern"], value)))
    if isinstance(value, list):
        return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf))
    return True


def say(schema: Schema) -> str:
    """A description in words."""
    if "anyOf" in schema:
        return " or ".join(say(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(repr(option) for option in schema["enum"])
    words = _KINDS[schema["type"]][1] if "type" in schema else "anything"
    if "exclusiveMinimum" in schema:
        words += f" over {schema['exclusiveMinimum']}"
    elif "minimum" in schema:
        words += f" of at least {schema['minimum']}"
    if "maximum" in schema:
        words += f", at most {schema['maximum']}"
    if "pattern" in schema:
        words += f" as {schema['pattern']}"
    if schema.get("minLength"):
        words = "non-empty text"
    if "items" in schema:
        words += f" of {say(schema['items'])}" if "type" in schema["items"] else ""
    if "minItems" in schema:
        words += f" with at least {schema['minItems']}"
    if "maxItems" in schema:
        words += f", at most {schema['maxItems']}"
    return words


def _expected(where: str, expected: str, value: Any) -> str:
    """What a problem says; of long values only the kind, since they may be private."""
    if isinstance(value, list):
        got = f"a list of {len(value)}"
    elif isinstance(value, dict):
        got = "an object"
    elif isinstance(value, str) and len(value) > _SHORT:
        got = f"text of {len(value)} characters"
    else:
        got = repr(value)
    return f"{where}: expected {expected}, got {got}"
