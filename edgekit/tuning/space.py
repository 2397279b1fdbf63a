"""The space of a search: its keys, its corners, and values going in and out of Optuna."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from edgekit.data_recipe import DataRecipe
from edgekit.errors import RecipeError
from edgekit.method_recipes import BottleneckRecipe, LoraRecipe
from edgekit.recipe_files import apply_overrides
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.tuning.search_file import Parameter
from edgekit_runtime.errors import nearest

if TYPE_CHECKING:
    from optuna import Trial

SHORT_NAMES = {
    "learning_rate": "training.learning_rate",
    "batch_size": "training.per_device_train_batch_size",
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
}
_SAME = "has to be the same in every trial, or their scores would not compare"
_NOT_SEARCHED = {
    "base": "make one search for each base",
    "task": _SAME,
    "metrics": "say `objective` in the search file",
    "output": "say `output` in the search file",
    "seed": "another seed is luck, not a better value",
    "license": "it changes no score",
    **{f"data.{key}": _SAME for key in DataRecipe.model_fields},
}
_SEARCHED_DATA = ("prompt", "system", "max_length", "packing", "augment")
for _key in _SEARCHED_DATA:
    del _NOT_SEARCHED[f"data.{_key}"]
_SECTIONS: dict[str, type[BaseModel]] = {
    "lora": LoraRecipe,
    "bottleneck": BottleneckRecipe,
    "data": DataRecipe,
}
_WHOLE = ("method", "weights", "loss")
_MAX_CORNERS = 256
MAX_GRID = 10_000


def long_key(key: str) -> str:
    """The dotted key of the recipe that a short name stands for."""
    return SHORT_NAMES.get(key, key)


def key_problems(keys: Sequence[str]) -> list[str]:
    """What is wrong with the keys of a search space, one line each."""
    problems = [_key_problem(key) for key in keys]
    for key in keys:
        if key in SHORT_NAMES and SHORT_NAMES[key] in keys:
            problems.append(f"search_space.{key}: is short for {SHORT_NAMES[key]}, there as well")
    return [problem for problem in problems if problem]


def _key_problem(key: str) -> str | None:
    dotted = long_key(key)
    section, _, name = dotted.partition(".")
    if dotted in _NOT_SEARCHED or section in _NOT_SEARCHED:
        reason = _NOT_SEARCHED.get(dotted) or _NOT_SEARCHED[section]
        return f"search_space.{key}: {reason}"
    if section == "training" and name:
        return f"search_space.{key}: {problem}" if (problem := _training_problem(name)) else None
    fields = _SECTIONS[section].model_fields if section in _SECTIONS else ()
    if dotted in _WHOLE or (section == "loss_options" and name) or name.split(".")[0] in fields:
        return None
    known = [*SHORT_NAMES, *_WHOLE, *_dotted_keys()]
    guess = nearest(key, known).partition(" known: ")[0]
    listed = guess if guess.startswith("did you") else nearest(key, [*SHORT_NAMES, *_WHOLE])
    return f"search_space.{key}: unknown key; {listed}; or a dotted key of the recipe"


def _dotted_keys() -> list[str]:
    keys = [f"{name}.{key}" for name, model in _SECTIONS.items() for key in model.model_fields]
    every = dict.fromkeys([*keys, *SHORT_NAMES.values()])
    return [key for key in every if key not in _NOT_SEARCHED]


def _training_problem(name: str) -> str | None:
    from edgekit.training.argument_checks import check_training

    try:
        check_training({name: None})
    except RecipeError as err:
        line = err.problems[0].removeprefix(f"training.{name}: ")
        return None if line.startswith("expected") else line  # of None, which nobody typed
    return None


def with_values(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as typed, with the values of a trial put in.

    Args:
        recipe: Keys and values, not yet checked.
        values: By key of the search space.
    """
    overrides = [f"{long_key(key)}={json.dumps(value)}" for key, value in values.items()]
    return apply_overrides(dict(recipe), overrides)


def corner_problems(recipe: Mapping[str, Any], space: Mapping[str, Parameter]) -> list[str]:
    """What the recipe refuses at the corners of a space: each extreme and choice, in combination.

    Args:
        recipe: As typed; its own values can be used.
        space: Parameters that are right in themselves, under keys that are known.
    """
    found: dict[str, None] = {}
    samples = {key: _corners_of(parameter) for key, parameter in space.items()}
    for values in _combinations(samples):
        found |= dict.fromkeys(_recipe_problems(recipe, values))
    for key, corners in samples.items():
        for value in corners:
            problems = [] if found else _training_problems(recipe, {key: value})
            found |= dict.fromkeys(f"search_space.{key}: {problem}" for problem in problems)
    return [*found, *_whole_number_problems(space)]


def _corners_of(parameter: Parameter) -> list[Any]:
    if parameter.values is not None:
        return list(parameter.values)
    assert parameter.low is not None and parameter.high is not None
    if parameter.type == "int":
        return [int(parameter.low), int(parameter.high)]
    # One that is no whole number between them, for keys that take whole numbers only.
    between = parameter.low + (parameter.high - parameter.low) * 0.37
    return [parameter.low, between if parameter.step is None else parameter.low + parameter.step,
            parameter.high]  # fmt: skip


def _combinations(samples: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All of them, or, of very many, each value once beside the first of the others."""
    count = 1
    for values in samples.values():
        count *= len(values)
    if count <= _MAX_CORNERS:
        for combination in itertools.product(*samples.values()):
            yield dict(zip(samples, combination, strict=True))
        return
    first = {key: values[0] for key, values in samples.items()}
    for key, values in samples.items():
        for value in values:
            yield first | {key: value}


def _recipe_problems(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """A problem at a searched key is told with that key; one of a combination, with its values."""
    try:
        parse_recipe(with_values(recipe, values), TrainRecipe)
    except RecipeError as err:
        own = [p for p in err.problems if any(p.startswith(long_key(key)) for key in values)]
        if own:
            return [f"search_space: {problem}" for problem in own]
        shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())
        return [f"search_space: with {shown}: {problem}" for problem in err.problems or [err.what]]
    return []


def _training_problems(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What transformers refuses of a ``training`` value."""
    from edgekit.training.argument_checks import check_training
    from edgekit.training.arguments import training_arguments

    if not all(long_key(key).startswith("training.") for key in values):
        return []
    parsed = parse_recipe(with_values(recipe, values), TrainRecipe)
    try:
        check_training(parsed.training)
        training_arguments(parsed, Path("checkpoints"), n_sequences=1, validates=True)
    except RecipeError as err:
        return list(err.problems) or [err.what]
    return []


def _whole_number_problems(space: Mapping[str, Parameter]) -> list[str]:
    """TrainingArguments takes 8.5 rows a batch and fails later, so a range of them is refused."""
    import dataclasses

    from transformers import TrainingArguments

    defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    return [
        f"search_space.{key}: {long_key(key)} takes whole numbers; say type: int"
        for key, parameter in space.items()
        if parameter.type == "float" and long_key(key).startswith("training.")
        if type(defaults.get(long_key(key).removeprefix("training."))) is int
    ]


def suggest(trial: "Trial", space: Mapping[str, Parameter]) -> None:
    """Let Optuna pick a trial's values; a choice is held as JSON text, so that it may be anything.

    Args:
        trial: Its parameters are named as the keys that were typed.
        space: By those keys.
    """
    for key, parameter in space.items():
        low, high, step = parameter.low or 0.0, parameter.high or 0.0, parameter.step
        if parameter.values is not None:
            trial.suggest_categorical(key, [json.dumps(value) for value in parameter.values])
        elif parameter.type == "int":
            whole = int(step or 1)
            last = int(low) + (int(high) - int(low)) // whole * whole
            trial.suggest_int(key, int(low), last, log=parameter.log, step=whole)
        else:
            last_step = _axis(parameter)[-1] if step is not None else high
            trial.suggest_float(key, low, last_step, log=parameter.log, step=step)


def values_of(space: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna picked, as values of the recipe."""
    return {
        key: json.loads(value) if space[key].type == "choice" else value
        for key, value in params.items()
    }


def grid_of(space: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Every combination of a grid, as Optuna's parameters."""
    axes = {key: _axis(parameter) for key, parameter in space.items()}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def grid_size(space: Mapping[str, Parameter]) -> int:
    """How many combinations a grid has."""
    size = 1
    for parameter in space.values():
        size *= len(_axis(parameter))
    return size


def _axis(parameter: Parameter) -> list[Any]:
    if parameter.values is not None:
        return [json.dumps(value) for value in parameter.values]
    assert parameter.low is not None and parameter.high is not None
    if parameter.type == "int":
        return list(range(int(parameter.low), int(parameter.high) + 1, int(parameter.step or 1)))
    assert parameter.step is not None  # a grid without is refused
    count = int((parameter.high - parameter.low) / parameter.step * (1 + 1e-9)) + 1
    return [parameter.low + index * parameter.step for index in range(count)]
