"""Prompt templates: ``{name}`` is a field, ``{{`` and ``}}`` are braces."""

import re
from collections.abc import Mapping

from edgekit_runtime.errors import GenerationError, nearest

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FREE_TEXT = "text"


def template_fields(template: str) -> tuple[str, ...]:
    """Name the fields of a template, in order of their first use."""
    names = [match[1] for match in _TOKEN.finditer(template) if match[1] is not None]
    return tuple(dict.fromkeys(names))


def fill_template(template: str, values: Mapping[str, str], *, where: str) -> str:
    """Put values into a template's fields.

    Raises:
        GenerationError: With every missing, unknown or non-text field.
    """
    fields = template_fields(template)
    problems = [f"{name}: missing" for name in fields if name not in values]
    for name, value in values.items():
        if name not in fields:
            problems.append(f"{name}: no such field; {nearest(name, fields)}")
        elif not isinstance(value, str):
            problems.append(f"{name}: expected str, got {type(value).__name__}")
    if problems:
        raise GenerationError(
            f"the inputs do not fit {where}",
            problems=problems,
            hint=f"It takes: {', '.join(fields) or 'no fields'}.",
        )
    return _TOKEN.sub(lambda match: _piece(match, values), template)


def fill_with_text(template: str, text: str, *, where: str) -> str:
    """Put a user's text into the field ``text``, or into the only field there is.

    Raises:
        GenerationError: If several fields are to be filled and none is called ``text``.
    """
    fields = template_fields(template)
    name = fields[0] if len(fields) == 1 else _FREE_TEXT
    return fill_template(template, {name: text}, where=where)


def _piece(match: re.Match[str], values: Mapping[str, str]) -> str:
    return values[match[1]] if match[1] is not None else match[0][0]
