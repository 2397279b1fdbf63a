"""What is wrong with values that people type (recipes, profiles, options), in edgekit's words."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgekit_runtime.errors import nearest

# By pydantic's type of an error; its context fills the braces.
_EXPECTED = {
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "{min_length} or more of them",
    "string_pattern_mismatch": "text that matches {pattern}",
    "finite_number": "a finite number",
    "invalid_key": "text as a key",
}
# The same by the beginning of a type: bool_type, bool_parsing …
_EXPECTED_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "path": "a path",
    "dict": "keys and values",
    "model": "keys and values",
    "tuple": "a list",
    "list": "a list",
    "none": "nothing",
}
# Pydantic names the branch of a union in the path of an error; people did not type that.
_UNION_TAGS = ("str", "tuple[MessageTemplate, ...]", "bool", "DataSource")
_KEY_TAG = "[key]"  # stands behind a mapping's key that is at fault itself


def problems_of(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Every problem as ``dotted.key: expected this, got that``.

    Args:
        error: What pydantic raised.
        kind: The model that the values were validated as.
    """
    found = error.errors(include_url=False)
    return [line for one in found if not _is_other_branch(one) for line in _describe(one, kind)]


def show_value(value: object) -> str:
    """A value as people type it: ``true``, ``null``, quoted text."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _describe(error: ErrorDetails, kind: type[BaseModel]) -> Iterator[str]:
    location = error["loc"]
    path = ".".join(str(part) for part in location if part not in (*_UNION_TAGS, _KEY_TAG))
    where = f"{path}: " if path else ""
    got = show_value(error["input"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        yield f"{where}unknown key; {nearest(str(location[-1]), known)}"
    elif error["type"] == "missing":
        yield f"{where}missing"
    elif error["type"] == "value_error":
        # Our own words; a section as a whole is too long to be repeated.
        tail = "" if isinstance(error["input"], dict) else f", got {got}"
        for line in str(error["ctx"]["error"]).splitlines():
            yield f"{where}{line}{tail}"
    elif expected := _expected(error):
        quote = " (put it in quotes)" if _is_number_for_text(error) else ""
        yield f"{where}expected {expected}, got {got}{quote}{_guess(error)}"
    else:
        yield f"{where}{error['msg'].removeprefix('Input ')}, got {got}"


def _expected(error: ErrorDetails) -> str | None:
    context = error.get("ctx", {})
    if error["loc"][-1:] == (_KEY_TAG,):
        return _EXPECTED["invalid_key"]
    if form := _EXPECTED.get(error["type"]):
        expected = form.format(**{key: _without_point(value) for key, value in context.items()})
        return expected.lower() if expected in {"True", "False"} else expected
    return _EXPECTED_KINDS.get(error["type"].partition("_")[0])


def _without_point(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_number_for_text(error: ErrorDetails) -> bool:
    """Whether YAML read something else where text is wanted, such as a version."""
    return error["type"] in {"string_type", "invalid_key"} and isinstance(
        error["input"], int | float
    )


def _guess(error: ErrorDetails) -> str:
    """The allowed word that is nearest to a wrong one; the message lists all of them already."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    words = error["ctx"]["expected"].split("'")[1::2]
    guess, listed, _ = nearest(error["input"], words).partition("? ")
    return f"; {guess}?" if listed else ""


def _is_other_branch(error: ErrorDetails) -> bool:
    """Whether this is the complaint that a list of messages, or a section, is no plain text."""
    return error["loc"][-1:] == ("str",) and isinstance(error["input"], list | dict)


def _known_keys(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys of the model that lies at a location."""
    for part in location:
        field = kind.model_fields.get(str(part))
        if field is not None:
            kind = next(iter(_models_in(field.annotation)), kind)
    return list(kind.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
