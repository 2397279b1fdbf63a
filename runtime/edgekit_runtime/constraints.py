"""What an answer may be: a JSON schema, a regular expression, or a choice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit_runtime.errors import GenerationError

_OPTION_OF = {"json_schema": "schema", "regex": "regex", "lark_grammar": "choices"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """A grammar for the native sampler.

    Attributes:
        kind: Name of the grammar's language.
        data: The grammar.
    """

    kind: Literal["json_schema", "regex", "lark_grammar"]
    data: str

    def refusal(self, error: Exception) -> GenerationError:
        """The error for a grammar that the native sampler does not take."""
        reason = str(error).removeprefix("Error creating grammar: ").strip()
        name = _OPTION_OF[self.kind]
        return GenerationError(
            f"the {name} cannot be followed",
            problems=[f"{name}: {line}" for line in reason.splitlines() if line.strip()],
            hint="Supported: see docs/reference, 'structured output'.",
        )


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
        data = json.dumps(dict(schema), ensure_ascii=False)
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
