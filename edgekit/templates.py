"""Prompt templates over a data row; the runtime defines what a template means."""

import json
from collections.abc import Mapping
from typing import Any

from edgekit.errors import RecipeError
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.templates import template_pieces


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
    try:
        return template_pieces(template)
    except GenerationError as err:
        raise RecipeError(err.what, hint=err.hint) from err
