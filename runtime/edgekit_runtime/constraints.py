"""What an answer may be: a JSON schema, a regular expression, or a choice."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit_runtime.errors import GenerationError

_OPTION_OF = {"json_schema": "schema", "regex": "regex", "lark_grammar": "choices"}
_HINTS = {
    "json_schema": "See llguidance's documentation for the part of JSON Schema that is supported.",
    "regex": "The syntax is that of Rust's regex crate: no look-around, no back references.",
    "lark_grammar": "Give plain strings.",
}
_PREFIX = "Error creating grammar: "
_SCHEMA_KEYS = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")

# Left free, small models fill the answer with white space; this is how json.dumps writes.
_GUIDANCE_KEY = "x-guidance"
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """A grammar for the native sampler.

    Attributes:
        kind: Name of the grammar's language.
        data: The grammar.
    """

    kind: Literal["json_schema", "regex", "lark_grammar"]
    data: str

    def refusal(self, error: str, refused: Callable[["Constraint"], str | None]) -> GenerationError:
        """The error for a grammar that the native sampler does not take.

        Args:
            error: What the native sampler says.
            refused: Says why another grammar is refused, to find the place in a schema.
        """
        name, reason = _OPTION_OF[self.kind], _reason(error)
        place = name
        if self.kind == "json_schema":
            place = _bad_place(json.loads(self.data), name, reason, refused)
        return GenerationError(
            f"the {name} cannot be followed",
            problems=[f"{place}: {reason}"],
            hint=_HINTS[self.kind],
        )


def _reason(error: str) -> str:
    """The one line that says it; a refused regular expression comes as a drawing."""
    lines = [line.strip() for line in error.removeprefix(_PREFIX).splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or ["refused without a reason"])[0]


def _bad_place(
    schema: object, place: str, reason: str, refused: Callable[[Constraint], str | None]
) -> str:
    """Walk down to the smallest part of a schema that is refused for the same reason."""
    for name, part in _parts(schema):
        grammar = Constraint(kind="json_schema", data=json.dumps(part))
        error = refused(grammar)
        if error is not None and _reason(error) == reason:
            return _bad_place(part, f"{place}.{name}", reason, refused)
    return place


def _parts(schema: object) -> Iterator[tuple[str, object]]:
    """The schemas that a schema is made of."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _SCHEMA_KEYS and isinstance(value, dict):
            yield key, value
        elif key in _SCHEMA_MAPS and isinstance(value, dict):
            yield from ((f"{key}.{name}", part) for name, part in value.items())
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            yield from ((f"{key}[{index}]", part) for index, part in enumerate(value))


def read_constraint(
    *, schema: object, regex: object, choices: object, problems: list[str]
) -> Constraint | None:
    """Turn the three options into one constraint; what is wrong is added to ``problems``."""
    given = {"schema": schema, "regex": regex, "choices": choices}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        problems.append(f"{' and '.join(names)}: expected one of them, got {len(names)}")
        return None
    if schema is not None:
        return _schema(schema, problems)
    if regex is not None:
        return _regex(regex, problems)
    return _choices(choices, problems) if choices is not None else None


def _schema(schema: object, problems: list[str]) -> Constraint | None:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as err:
            problems.append(f"schema: no JSON: {err}")
            return None
    if not isinstance(schema, Mapping):
        problems.append(f"schema: expected a JSON object, got {type(schema).__name__}")
        return None
    try:
        data = json.dumps({_GUIDANCE_KEY: _LAYOUT} | dict(schema), ensure_ascii=False)
    except (TypeError, ValueError) as err:
        problems.append(f"schema: no JSON: {err}")
        return None
    return Constraint(kind="json_schema", data=data)


def _regex(regex: object, problems: list[str]) -> Constraint | None:
    if not isinstance(regex, str) or not regex:
        problems.append(f"regex: expected a regular expression, got {regex!r}")
        return None
    return Constraint(kind="regex", data=regex)


def _choices(choices: object, problems: list[str]) -> Constraint | None:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        problems.append(f"choices: expected a list of strings, got {choices!r}")
        return None
    bad = [choice for choice in choices if not isinstance(choice, str) or not choice]
    problems += [f"choices: expected non-empty strings, got {choice!r}" for choice in bad]
    if bad:
        return None
    quoted = [json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices)]
    return Constraint(kind="lark_grammar", data=f"start: {' | '.join(quoted)}")
