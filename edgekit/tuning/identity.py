"""What a search was begun with: it goes on with the same only, and says what changed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError
from edgekit.tuning.loading import Search
from edgekit.typed_files import show_value
from edgekit_runtime.disk import replace_file

SEARCH_RECORD = "search.json"
_BUDGETS = ("search_strategy.num_trials", "search_strategy.max_minutes", "workers")
_NOTHING: Any = object()


def identity_of(search: Search, facts: Mapping[str, str]) -> dict[str, Any]:
    """What has to stay the same for a search to go on, by dotted key.

    Args:
        search: Its budgets, workers and outputs may change.
        facts: What it stands on: digests of rows, base and a user's code.
    """
    file = search.file.model_dump(mode="json", exclude={"recipe", "output"})
    typed = {**file, "recipe": search.recipe.model_dump(mode="json", exclude={"output"})}
    typed["test"] = search.test
    typed["storage"] = shown_url(search.file.storage) if search.file.storage else None
    typed["objective"] = [one.model_dump(mode="json") for one in search.objectives]
    flat = dict(_flat(typed, ""))
    return {key: value for key, value in flat.items() if key not in _BUDGETS} | dict(facts)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def refuse_foreign(output: Path) -> None:
    """Refuse an output that is a file, or holds anything but a search.

    Raises:
        RecipeError: If it is.
    """
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise RecipeError(f"output {output}: {existing} is a file", hint="Choose a directory.")
    if not output.is_dir() or (output / SEARCH_RECORD).is_file():
        return
    if any(path.name != ".lock" for path in output.iterdir()):
        raise RecipeError(
            f"output {output} exists, is not empty, and is not a search",
            hint="Choose another `output`.",
        )


def check_identity(output: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this search was begun in its output already.

    Raises:
        RecipeError: If another one was, with what differs.
    """
    path = output / SEARCH_RECORD
    if not path.is_file():
        return False
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(dict(identity)))
    problems = [
        f"{key}: was {_shown(recorded, key)}, is {_shown(now, key)}"
        for key in dict.fromkeys([*recorded, *now])
        if recorded.get(key, _NOTHING) != now.get(key, _NOTHING)
    ]
    if problems:
        raise RecipeError(
            f"output {output} holds a search that was begun with other values",
            problems=problems,
            hint="Set them back to go on with it, choose another `output`, or --overwrite to "
            "throw it away. num_trials, max_minutes and workers may be changed.",
        )
    return True


def _shown(values: Mapping[str, Any], key: str) -> str:
    return show_value(values[key]) if key in values else "not there"


def write_identity(output: Path, identity: Mapping[str, Any]) -> None:
    """Record what a search was begun with."""
    output.mkdir(parents=True, exist_ok=True)
    replace_file(output / SEARCH_RECORD, (json.dumps(dict(identity), indent=2) + "\n").encode())


def shown_url(url: str) -> str:
    """An URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
