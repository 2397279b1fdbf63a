"""Read a search file and its recipe; everything that is wrong with both is told at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekit.errors import EdgekitError, RecipeError
from edgekit.evaluating.metrics import default_metrics
from edgekit.recipe_files import apply_overrides, read_yaml
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.targets import load_target
from edgekit.training.argument_checks import check_training
from edgekit.training.processes import refuse_several
from edgekit.tuning.search_file import (
    DEFAULT_TEST_SHARE,
    DEFAULT_TRIALS,
    Objective,
    Parameter,
    SearchFile,
    as_parameter,
)
from edgekit.tuning.space import (
    MAX_GRID,
    corner_problems,
    grid_size,
    key_problems,
    long_key,
    with_values,
)
from edgekit.typed_files import problems_of

BUILT_METHODS = ("lora", "qlora")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A search that can be run.

    Attributes:
        recipe: Its own values, the defaults.
        recipe_values: The same as typed.
        num_trials: In all.
        test: A share, or a file or slice.
    """

    file: SearchFile
    recipe: TrainRecipe
    recipe_values: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    num_trials: int
    test: float | str
    output: Path

    @property
    def space(self) -> Mapping[str, Parameter]:
        """Parameters by the key that was typed."""
        return self.file.search_space

    def default_value(self, key: str) -> Any:
        """What the recipe itself says, or falls back to, at a searched key."""
        found: Any = self.recipe.model_dump(mode="json")
        for part in long_key(key).split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return "(its default)" if found is None else found

    def recipe_with(self, values: Mapping[str, Any]) -> TrainRecipe:
        """The recipe of a trial, its data and output still the recipe's own."""
        return parse_recipe(with_values(self.recipe_values, values), TrainRecipe)


def load_search(path: Path, overrides: Sequence[str] = ()) -> Search:
    """Read and check a search file.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value``, the value parsed as YAML.

    Raises:
        RecipeError: With every problem of the file, its recipe, and the corners of its space.
    """
    values = apply_overrides(read_yaml(path, what="search"), overrides)
    return parse_search(values, where=f"search {path}", name=path.stem)


def parse_search(values: Mapping[str, Any], *, where: str, name: str) -> Search:
    """Check a search that is already read.

    Args:
        values: Keys and values.
        where: What it is, for messages.
        name: Of the output, where the search names none.

    Raises:
        RecipeError: With every problem.
    """
    refuse_several("a search")  # before transformers takes it for training by all of them
    problems: list[str] = []
    search: SearchFile | None = None
    try:
        search = SearchFile.model_validate(values)
    except ValidationError as err:
        problems += problems_of(err, SearchFile)
    raw_space = values.get("search_space")
    keys = [str(key) for key in raw_space] if isinstance(raw_space, dict) else []
    wrong_keys = key_problems(keys)
    problems += wrong_keys
    recipe_values, recipe = _recipe_of(values.get("recipe"), problems)
    if recipe is not None and isinstance(raw_space, dict):
        space = _sound_parameters(raw_space, wrong_keys)
        problems += corner_problems(recipe_values, space)
    if search is not None:
        problems += _strategy_problems(search)
        if recipe is not None:
            problems += _recipe_problems(search, recipe)
    if problems or search is None or recipe is None:
        raise RecipeError(f"{where} cannot be used", problems=dict.fromkeys(problems))
    return Search(
        file=search,
        recipe=recipe,
        recipe_values=recipe_values,
        objectives=search.objective or (_default_objective(recipe),),
        num_trials=_num_trials(search),
        test=_test_of(search, recipe),
        output=Path(search.output) if search.output else Path("searches") / name,
    )


def _recipe_of(given: Any, problems: list[str]) -> tuple[dict[str, Any], TrainRecipe | None]:
    """Read the recipe; what is wrong with it is added to the problems."""
    values: dict[str, Any] = {}
    if not given or not isinstance(given, str | dict):
        return values, None  # told by the search file's own check
    try:
        values = dict(given) if isinstance(given, dict) else read_yaml(Path(given))
        values.setdefault("output", "adapters/tuned")  # trials have outputs of their own
        recipe = parse_recipe(values, TrainRecipe)
        check_training(recipe.training)
    except RecipeError as err:
        problems += [f"recipe: {problem}" for problem in err.problems or [err.what]]
        return values, None
    return values, recipe


def _sound_parameters(raw: Mapping[Any, Any], wrong_keys: Sequence[str]) -> dict[str, Parameter]:
    """The parameters that are right in themselves, so that their corners can be looked at."""
    found: dict[str, Parameter] = {}
    for key, value in raw.items():
        if any(problem.startswith(f"search_space.{key}: ") for problem in wrong_keys):
            continue
        try:
            found[str(key)] = Parameter.model_validate(as_parameter(value))
        except ValidationError:
            continue  # told by the search file's own check
    return found


def _strategy_problems(search: SearchFile) -> list[str]:
    if search.search_strategy.type != "grid":
        return []
    endless = [
        key for key, one in search.search_space.items() if one.type == "float" and one.step is None
    ]
    problems = [
        f"search_space.{key}: a grid needs a step or values for a float" for key in endless
    ] + [
        f"search_space.{key}: a grid has steps of one size, so log does not go with it; give values"
        for key, one in search.search_space.items()
        if one.log
    ]
    if not problems and (size := grid_size(search.search_space)) > MAX_GRID:
        problems.append(
            f"search_space: a grid of {size} combinations; at most {MAX_GRID}, so give larger "
            "steps or fewer values"
        )
    return problems


def _recipe_problems(search: SearchFile, recipe: TrainRecipe) -> list[str]:
    """What does not go together in a search and its recipe."""
    problems = []
    if not recipe.data.validation:
        problems.append("recipe: data.validation is 0, and a search needs rows to judge trials by")
    if recipe.data.streaming:
        problems.append(
            "recipe: data.streaming: a search splits its rows, so it holds them; search on a part "
            "of them (data.split or a smaller file), and train the winner's values on the stream"
        )
    has_answers = recipe.data.text_template is None
    problems += [
        f"objective: {one.metric} is of answers, and the rows are whole texts; take loss"
        for one in search.objective or ()
        if one.is_scored and not has_answers
    ]
    test = _test_of(search, recipe)
    if recipe.data.sources and isinstance(test, str) and not Path(test).suffix:
        problems.append(f"test: with several sources give a file or a share, got {test!r}")
    return problems + (_bundle_problems(search, recipe) if search.evaluate_on == "bundle" else [])


def _bundle_problems(search: SearchFile, recipe: TrainRecipe) -> list[str]:
    problems = []
    methods = {recipe.method}
    for key, one in search.search_space.items():
        if long_key(key) == "method":
            methods = {str(value) for value in one.values or ()}
    problems += [
        f"evaluate_on: a bundle holds adapters of method {' and '.join(BUILT_METHODS)}, "
        f"and method {method} is tried; take evaluate_on: torch"
        for method in sorted(methods - set(BUILT_METHODS))
    ]
    if recipe.lora.modules_to_save:
        problems.append("evaluate_on: a bundle cannot hold lora.modules_to_save")
    try:
        load_target(search.target)
    except EdgekitError as err:
        problems.append(f"target: {err.what}")
    return problems


def _default_objective(recipe: TrainRecipe) -> Objective:
    if recipe.data.text_template is not None:
        return Objective(metric="loss")
    return Objective(metric=(recipe.metrics or default_metrics(recipe.task))[0])


def _num_trials(search: SearchFile) -> int:
    wanted = search.search_strategy.num_trials
    if search.search_strategy.type != "grid":
        return wanted or DEFAULT_TRIALS
    size = grid_size(search.search_space)
    return min(wanted or size, size)


def _test_of(search: SearchFile, recipe: TrainRecipe) -> float | str:
    if search.test is not None:
        return search.test
    return recipe.data.test or DEFAULT_TEST_SHARE
