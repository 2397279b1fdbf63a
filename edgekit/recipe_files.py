"""Reading a recipe's YAML, and the overrides that are typed beside it."""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from edgekit.errors import RecipeError

_MAX_NODES: Final = 100_000


class _RecipeLoader(yaml.SafeLoader):
    """SafeLoader that reads ``2e-4`` as a number and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a mapping", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in an exponent; people write 2e-4 and mean a number.
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path, *, what: str = "recipe") -> dict[str, Any]:
    """Read a YAML file that holds keys and values.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        RecipeError: If it is missing, not UTF-8, not YAML (with the line), or no mapping.
    """
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise RecipeError(f"{what} {path}: no such file") from err
    except (OSError, ValueError) as err:  # not UTF-8; a path with a NUL
        raise RecipeError(f"{what} {path} cannot be read: {err}") from err
    except yaml.YAMLError as err:
        raise RecipeError(f"{what} {path}{_line_of(err)}: {_reason_of(err)}") from err
    if not isinstance(values, dict):
        raise RecipeError(
            f"{what} {path} holds no keys",
            hint=f"A {what} is a YAML file of lines such as 'name: …'.",
        )
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the values with ``dotted.key=value`` overrides put in.

    Raises:
        RecipeError: With every override that cannot be read.
    """
    result = _copy(values)
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(f"{override!r}: expected KEY=VALUE, such as training.max_steps=50")
            continue
        try:
            problems += _put(result, parts, _parse(text))
        except yaml.YAMLError as err:
            problems.append(f"{override!r}: {_reason_of(err)}")
    if problems:
        raise RecipeError("--set cannot be used", problems=problems)
    return result


def _put(values: dict[str, Any], parts: Sequence[str], value: Any) -> list[str]:
    """Set a nested key; returns what stands in the way."""
    for depth, part in enumerate(parts[:-1], start=1):
        inner = values.get(part)
        if inner is None:
            inner = values[part] = {}
        if not isinstance(inner, dict):
            return [f"{'.'.join(parts)}: {'.'.join(parts[:depth])} is {inner!r}, it has no keys"]
        values = inner
    values[parts[-1]] = value
    return []


def _copy(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, dict) else item for key, item in values.items()}


def _parse(text: str) -> Any:
    # The loader derives from SafeLoader: nothing but plain data comes out of it.
    try:
        loader = _RecipeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _n_written_out(node, {}) > _MAX_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MAX_NODES} values")
        return loader.construct_document(node)
    except RecursionError as err:
        raise yaml.YAMLError("it is nested too deeply") from err
    except ValueError as err:  # of a number or a date
        raise yaml.YAMLError(str(err)) from err


def _n_written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a document whose every alias is written out: a few lines can stand for billions."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0  # being counted
        inner = [part for item in node.value for part in (item if type(item) is tuple else (item,))]
        known[id(node)] = 1 + sum(_n_written_out(part, known) for part in inner)
    elif not known[id(node)]:
        raise yaml.YAMLError("a value holds itself")
    return known[id(node)]


def _line_of(err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _reason_of(err: yaml.YAMLError) -> str:
    reason = getattr(err, "problem", None) or str(err)
    return f"not valid YAML: {reason}"
