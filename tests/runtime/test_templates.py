"""Filling prompt templates."""

import pytest

from edgekit_runtime import GenerationError
from edgekit_runtime.templates import fill_template, fill_with_text, template_fields


def test_fields_are_filled_and_double_braces_are_braces() -> None:
    filled = fill_template('{a} and {b}: {{"{a}"}}', {"a": "1", "b": "{b}"}, where="t")
    assert filled == '1 and {b}: {"1"}'


def test_the_fields_are_named_once_in_order() -> None:
    assert template_fields("{b} {{x}} {a} {b}") == ("b", "a")


def test_missing_and_unknown_fields_are_all_listed() -> None:
    with pytest.raises(GenerationError) as caught:
        fill_template("{text} {tone}", {"txt": "x", "tone": 3}, where="the prompt")  # type: ignore[dict-item]
    assert caught.value.problems == (
        "text: missing",
        "txt: no such field; did you mean 'text'? known: text, tone",
        "tone: expected str, got int",
    )
    assert caught.value.hint == "It takes: text, tone."


def test_a_users_text_fills_the_only_field_or_the_one_called_text() -> None:
    assert fill_with_text("Say {word}!", "hi", where="t") == "Say hi!"
    with pytest.raises(GenerationError, match="tone: missing"):
        fill_with_text("{text} {tone}", "hi", where="t")
