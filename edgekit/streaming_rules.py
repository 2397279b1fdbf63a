"""What does not go together with ``data.streaming``; all of it is told at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.data_recipe import DEFAULT_SHUFFLE_BUFFER, DataRecipe

if TYPE_CHECKING:
    from edgekit.recipes import TrainRecipe

_NEEDS_ALL_ROWS = {
    "stratify": "validation is its first rows, or a file",
    "group": "validation is its first rows, or a file",
    "packing": "which looks for rows that fill each other among all of them",
    "augment": "which is a function of all training rows",
}
_NO_END = "a stream has no known end, so training.max_steps alone says how long a run is"
_STRATEGIES = ("eval_strategy", "save_strategy", "logging_strategy")


def streaming_problems(recipe: "TrainRecipe") -> list[str]:
    """What a recipe's stream cannot do, or what only a stream can."""
    data = recipe.data
    if not data.streaming:
        return _problems_without(data)
    problems = [
        f"data.{key}: not with data.streaming: {reason}"
        for key, reason in _NEEDS_ALL_ROWS.items()
        if getattr(data, key)
    ]
    problems += (
        _split_problems(data) + _held_out_problems(data) + _training_problems(recipe.training)
    )
    if recipe.class_weights == "balanced":
        problems.append(
            "class_weights: balanced counts all rows, which data.streaming does not hold; give a "
            "weight by label"
        )
    return problems


def _problems_without(data: DataRecipe) -> list[str]:
    problems = []
    if data.shuffle_buffer != DEFAULT_SHUFFLE_BUFFER:
        problems.append("data.shuffle_buffer: goes with data.streaming; else all rows are shuffled")
    if isinstance(data.validation, int):
        problems.append(
            "data.validation: expected a share from 0 to below 1, a file, or a slice such as "
            f"train[90%:], got {data.validation}; a number of rows goes with data.streaming"
        )
    return problems


def _split_problems(data: DataRecipe) -> list[str]:
    named = [("data.split", data.split)]
    named += [(f"data.train.{n}.split", source.split) for n, source in enumerate(data.sources)]
    return [
        f"{key}: with data.streaming the name of a split, without a slice, got {split!r}"
        for key, split in named
        if not split.replace("_", "").replace("-", "").replace(".", "").isalnum()
    ]


def _held_out_problems(data: DataRecipe) -> list[str]:
    problems = []
    if isinstance(data.validation, float) and data.validation:
        problems.append(
            "data.validation: with data.streaming a number of rows, taken from the start, or a "
            f"file, got {data.validation}"
        )
    problems += [
        f"data.{key}: with data.streaming give a file, got {value!r}"
        for key, value in (("validation", data.validation), ("test", data.test))
        if isinstance(value, str) and not Path(value).suffix
    ]
    return problems


def _training_problems(training: dict[str, Any]) -> list[str]:
    problems = []
    max_steps = training.get("max_steps", -1)
    if isinstance(max_steps, int | float) and max_steps <= 0:
        problems.append("training.max_steps: missing; a stream has no known end")
    if "num_train_epochs" in training:
        problems.append(f"training.num_train_epochs: not with data.streaming: {_NO_END}")
    problems += [
        f"training.{key}: epoch does not go with data.streaming; take steps"
        for key in _STRATEGIES
        if training.get(key) == "epoch"
    ]
    if training.get("dataloader_num_workers"):
        problems.append(
            "training.dataloader_num_workers: not with data.streaming: each would read all rows"
        )
    if "accelerator_config" in training:
        problems.append(
            "training.accelerator_config: not with data.streaming, which decides how several "
            "processes share the rows"
        )
    return problems
