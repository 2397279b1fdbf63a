"""Rows become examples: text to read and text to learn."""

from dataclasses import dataclass, field
from typing import Any

from edgekit.data_recipe import DataRecipe
from edgekit.errors import DataError, first_of
from edgekit.templates import field_text, fill_template, template_fields
from edgekit.training.row_files import Row
from edgekit.training.tables import Table, require_columns

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row as text, in one of three shapes.

    Attributes:
        place: Where it came from.
        row: What the source holds, by column.
        source: Which source of ``data.train``, counted from 0.
        group: What training and validation never share.
        stratum: What the split keeps the shares of.
        prompt: With ``completion``: read, then written.
        messages: A conversation; its assistant turns are learnt.
        text: Learnt as a whole.
    """

    place: str
    row: Row = field(default_factory=dict)
    source: int = 0
    stratum: str = ""
    group: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    text: str | None = None

    @property
    def content(self) -> str:
        """What makes two examples duplicates of each other."""
        return repr((self.prompt, self.completion, self.messages, self.text))


def examples_of(table: Table, data: DataRecipe, stratify_by_label: bool = False) -> list[Example]:
    """Turn every row into an example.

    Raises:
        DataError: If columns are missing, or rows cannot be used, with their places.
    """
    require_columns(table, _needed_columns(data))
    examples, problems = [], []
    for row, place in zip(table.rows, table.places, strict=True):
        problem = _row_problem(row, data)
        if problem is not None:
            problems.append(f"{place}: {problem}")
        else:
            examples.append(_example(row, place, data, stratify_by_label))
    if problems:
        raise DataError(
            f"{table.source} has {len(problems)} unusable rows", problems=first_of(problems)
        )
    return examples


def _templates(data: DataRecipe) -> list[tuple[str, str]]:
    """(template, its key in the recipe) pairs."""
    named = [
        (data.prompt, "data.prompt"),
        (data.completion, "data.completion"),
        (data.text_template, "data.text_template"),
    ]
    if isinstance(data.messages, tuple):
        named += [(message.content, "data.messages") for message in data.messages]
    return [(template, asker) for template, asker in named if template is not None]


def _needed_columns(data: DataRecipe) -> list[tuple[str, str]]:
    needed = [
        (field, asker)
        for template, asker in _templates(data)
        for field in template_fields(template)
    ]
    if isinstance(data.messages, str):
        needed.append((data.messages, "data.messages"))
    if data.stratify is not None:
        needed.append((data.stratify, "data.stratify"))
    if data.group is not None:
        needed.append((data.group, "data.group"))
    return list(dict.fromkeys(needed))


def _row_problem(row: Row, data: DataRecipe) -> str | None:
    """What makes a row unusable, if anything does."""
    lacking = sorted({column for column, _ in _needed_columns(data) if column not in row})
    if lacking:
        return f"lacks {', '.join(map(repr, lacking))}"
    if isinstance(data.messages, str):
        return _messages_problem(row[data.messages])
    for template, asker in _templates(data):
        fields = template_fields(template)
        if fields and not any(field_text(row[field]).strip() for field in fields):
            return f"{asker.removeprefix('data.')} is empty"
    return None


def _messages_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "messages should be a list such as [{role: user, content: …}, …]"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {number} should have a role and a content, both text"
        if message.get("role") not in _ROLES:
            return (
                f"message {number} has the role {message.get('role')!r}; known: {', '.join(_ROLES)}"
            )
        if message["role"] == "assistant" and not message["content"].strip():
            return f"message {number}, an assistant turn, is empty"
    if not any(message["role"] == "assistant" for message in messages):
        return "no assistant turn to learn from"
    return None


def _example(row: Row, place: str, data: DataRecipe, stratify_by_label: bool) -> Example:
    completion = fill_template(data.completion, row) if data.completion is not None else None
    stratum = ""
    if data.stratify is not None:
        stratum = field_text(row[data.stratify])
    elif stratify_by_label and completion is not None:
        stratum = completion.strip()
    return Example(
        place=place,
        row=row,
        group=field_text(row[data.group]) if data.group is not None else None,
        stratum=stratum,
        prompt=fill_template(data.prompt, row) if data.prompt is not None else None,
        completion=completion,
        messages=_messages(row, data),
        text=fill_template(data.text_template, row) if data.text_template is not None else None,
    )


def _messages(row: Row, data: DataRecipe) -> tuple[dict[str, Any], ...] | None:
    if data.messages is None:
        return None
    if isinstance(data.messages, str):
        # Arrow fills keys that only other rows have with null; a chat template would print them.
        turns = [{k: v for k, v in turn.items() if v is not None} for turn in row[data.messages]]
    else:
        turns = [
            {"role": turn.role, "content": fill_template(turn.content, row)}
            for turn in data.messages
        ]
    if data.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": data.system})
    return tuple(turns)
