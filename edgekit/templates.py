"""Prompt templates: text with fields in braces, ``{{`` and ``}}`` for literal braces.

Deliberately less than ``str.format``: no attributes, indexes, conversions or format specs, so
that a template in a recipe means the same in every runtime that fills it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from edgekit.errors import RecipeError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}\n]+)\}|[{}]|[^{}]+")


def template_fields(template: str) -> tuple[str, ...]:
    """The fields of a template, in order of first appearance.

    Raises:
        RecipeError: If a brace is neither part of a field nor doubled.
    """
    return tuple(dict.fromkeys(name for name, _ in _pieces(template) if name is not None))


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """Put a row's values into a template.

    Args:
        template: Text with fields in braces.
        row: Has every field of the template; text is taken as it is, other values as JSON.

    Raises:
        RecipeError: If the row lacks a field.
    """
    pieces = _pieces(template)
    missing = sorted({name for name, _ in pieces if name is not None and name not in row})
    if missing:
        fields = ", ".join(f"{{{name}}}" for name in missing)
        raise RecipeError(
            f"template {template!r} has no value for {fields}",
            hint=f"Given: {', '.join(sorted(row)) or 'nothing'}.",
        )
    return "".join(text if name is None else field_text(row[name]) for name, text in pieces)


def field_text(value: Any) -> str:
    """The text of one value: text as it is, nothing for null, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pieces(template: str) -> list[tuple[str | None, str]]:
    """Split into (field, "") and (None, literal text)."""
    pieces: list[tuple[str | None, str]] = []
    for match in _PIECE.finditer(template):
        text, name = match.group(0), match.group(1)
        if name is not None:
            pieces.append((name.strip(), ""))
        elif text in ("{", "}"):
            raise RecipeError(
                f"template {template!r} has a single {text!r} at character {match.start() + 1}",
                hint="Write {name} for a field, and {{ or }} for a brace in the text.",
            )
        else:
            pieces.append((None, text[0] if text in ("{{", "}}") else text))
    return pieces
