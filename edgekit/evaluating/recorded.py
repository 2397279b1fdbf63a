"""What an adapter records of its task, and what a person's options make of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.adapters.peft_dir import RECORD_FILE
from edgekit.data_recipe import DataRecipe
from edgekit.errors import RecipeError
from edgekit.method_recipes import NF4, TARGET_WEIGHTS, target_of
from edgekit.recipes import parse_recipe
from edgekit.training.examples import Example, examples_of
from edgekit.training.tables import read_table
from edgekit_runtime import Bundle
from edgekit_runtime.classifying import completions_of

FLOAT_WEIGHTS = "float"
_SHAPE_KEYS = ("prompt", "completion", "messages", "text_template", "system")


def recorded_task(
    bundle: Path | None, adapter: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The recorded recipe with a person's own values over it."""
    own = {key: value for key, value in given.items() if value is not None}
    recorded = _recorded(bundle, adapter)
    if "text_template" in own:  # one shape of a row takes the place of another
        recorded = {key: value for key, value in recorded.items() if key not in _SHAPE_KEYS}
    return recorded | own


def read_examples(source: str, recorded: Mapping[str, Any]) -> list[Example]:
    """Rows as examples, by the recorded templates.

    Raises:
        RecipeError: If nothing says how a row becomes a prompt.
        DataError: If the rows cannot be read or used.
    """
    shape = {key: recorded.get(key) for key in _SHAPE_KEYS if recorded.get(key) is not None}
    if not shape:
        raise RecipeError(
            "nothing says how a row becomes a prompt",
            hint="Give --prompt and --completion, or --recipe-of an adapter that records them.",
        )
    values = {"train": source, "validation": 0, "max_length": 1 << 20} | shape
    recipe = parse_recipe(values, DataRecipe)
    return examples_of(read_table([source], split="train"), recipe)


def label_set(recorded: Mapping[str, Any], known: Sequence[Example]) -> tuple[str, ...] | None:
    """The label set: recorded, or what the training rows hold."""
    if recorded.get("labels"):
        return tuple(recorded["labels"])
    if recorded.get("task") == "classification" and known:
        return tuple(sorted({(example.completion or "").strip() for example in known}))
    return None


def label_completions(recorded: Mapping[str, Any], labels: Sequence[str] | None) -> tuple[str, ...]:
    """Every label as the completion template would write it.

    Raises:
        RecipeError: If there is no label set, or only one label.
    """
    if not labels:
        raise RecipeError(
            "scoring labels needs the label set",
            hint="Give --train FILE and --task classification, or an adapter that records labels.",
        )
    if len(set(labels)) == 1:
        raise RecipeError(
            f"scoring labels needs at least two of them, got only {labels[0]!r}",
            hint="Every answer would be right.",
        )
    return tuple(completions_of(labels, recorded.get("completion")))


def base_weights(given: str | None, recorded: Mapping[str, Any]) -> str | None:
    """``target:NAME``, or None for the float weights.

    Raises:
        RecipeError: For anything else.
    """
    weights = given or recorded.get("weights") or FLOAT_WEIGHTS
    if not given and weights == NF4:
        return None  # no device has NF4 weights; its adapter is scored as any other
    if weights != FLOAT_WEIGHTS and target_of(weights) is None:
        raise RecipeError(
            f"weights: expected '{FLOAT_WEIGHTS}' or '{TARGET_WEIGHTS}NAME', got {weights!r}"
        )
    return None if weights == FLOAT_WEIGHTS else str(weights)


def _recorded(bundle: Path | None, adapter: str | None) -> dict[str, Any]:
    """What an adapter records of its task; nothing for one that was trained elsewhere."""
    if adapter is None:
        return {}
    if bundle is not None:
        card = Bundle.open(bundle).adapter_card(adapter)
        return dict(card.recipe) | {"max_new_tokens": card.defaults.get("max_new_tokens")}
    path = Path(adapter) / RECORD_FILE
    if not Path(adapter).is_dir():
        raise RecipeError(f"no adapter directory '{adapter}'")
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
