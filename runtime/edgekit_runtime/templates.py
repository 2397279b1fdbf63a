"""Prompt templates: ``{name}`` is a field, ``{{`` and ``}}`` are braces.

Deliberately less than ``str.format``: no attributes, indexes, conversions or format specs, so
that a template in a recipe means the same in every runtime that fills it.
"""

import re
from collections.abc import Mapping

from edgekit_runtime.errors import GenerationError, nearest

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]+)\}|[{}]|[^{}]+")
_FREE_TEXT = "text"


def template_pieces(template: str) -> list[tuple[str | None, str]]:
    """Split a template into (field, "") and (None, literal text).

    Raises:
        GenerationError: If a brace is neither part of a field nor doubled.
    """
    pieces: list[tuple[str | None, str]] = []
    for match in _TOKEN.finditer(template):
        text, name = match[0], match[1]
        if name is not None:
            pieces.append((name.strip(), ""))
        elif text in ("{", "}"):
            raise GenerationError(
                f"template {template!r} has a single {text!r} at character {match.start() + 1}",
                hint="Write {name} for a field, and {{ or }} for a brace in the text.",
            )
        else:
            pieces.append((None, text[0] if text in ("{{", "}}") else text))
    return pieces


def template_fields(template: str) -> tuple[str, ...]:
    """Name the fields of a template, in order of their first use.

    Raises:
        GenerationError: If a brace is neither part of a field nor doubled.
    """
    return tuple(dict.fromkeys(name for name, _ in template_pieces(template) if name is not None))


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
    pieces = template_pieces(template)
    return "".join(text if name is None else values[name] for name, text in pieces)


def fill_with_text(template: str, text: str, *, where: str) -> str:
    """Put a user's text into the field ``text``, or into the only field there is.

    Raises:
        GenerationError: If several fields are to be filled and none is called ``text``.
    """
    fields = template_fields(template)
    name = fields[0] if len(fields) == 1 else _FREE_TEXT
    return fill_template(template, {name: text}, where=where)
