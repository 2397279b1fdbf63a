"""What a search file says wrong is told at once, before anything is trained."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.evaluating.metrics import METRICS
from edgekit.tuning.loading import parse_search
from tests.tuning.conftest import MakeSearch, MakeValues


def problems_of(values: dict[str, Any]) -> set[str]:
    with pytest.raises(RecipeError, match="search cannot be used") as caught:
        parse_search(values, where="search", name="search")
    return set(caught.value.problems)


def test_every_problem_is_told_at_once(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values(tmp_path / "a", objective="acuracy", evaluate_on="devcie")
    values["search_space"] = {
        "learning_rate": {"type": "float", "low": 1e-2, "high": 1e-5, "log": True},
        "lora.rr": {"type": "int", "low": 4, "high": 8},
        "training.learning_rte": {"type": "float", "low": 0.1, "high": 0.2},
        "lora.r": {"type": "choice", "values": [4, "many"]},
        "lora.use_rslora": {"type": "choice", "values": [True]},
        "lora.lora_alpha": {"type": "float", "low": -1, "high": 8},
    }
    values["recipe"]["task"] = "clasification"
    recipe_problem = {p for p in problems_of(values) if p.startswith("recipe: ")}
    assert len(recipe_problem) == 1
    assert "clasification" in recipe_problem.pop()
    values["recipe"]["task"] = "classification"
    known = sorted([*METRICS, "adapter_size", "latency", "loss", "perplexity"])
    assert problems_of(values) == {
        "search_space.learning_rate: low is over high: 0.01 > 1e-05",
        "search_space.lora.rr: unknown key; did you mean 'lora.r' or 'lora_r'?; or a dotted key "
        "of the recipe",
        "search_space.training.learning_rte: unknown key; did you mean 'learning_rate' or "
        "'logging_strategy'?",
        "search_space: lora.r: expected a whole number, got 'many'",
        "search_space.lora.use_rslora: a choice needs two values or more, got 1",
        "search_space: lora.lora_alpha: expected more than 0, got -1.0",
        "objective.0.metric: unknown metric; did you mean 'accuracy' or 'balanced_accuracy'? "
        f"known: {', '.join(known)}, got 'acuracy'",
        "evaluate_on: expected 'torch' or 'bundle', got 'devcie'",
    }


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ({"type": "float", "low": 1}, "high is missing"),
        ({"type": "int", "low": 1.5, "high": 4}, "low: expected a whole number, got 1.5"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "log needs a low above 0, got 0"),
        ({"type": "int", "low": 2, "high": 2}, "low and high are both 2"),
        ({"type": "int", "low": 2, "high": 9, "values": [1, 2]}, "values are for type choice"),
        ({"type": "choice", "values": [1, 2], "low": 1}, "low is for float and int"),
        ({"type": "choice", "values": [1, 1]}, "the value 1 is there twice"),
        ({"type": "int", "low": 1, "high": 4, "step": 9}, "step: expected more than 0"),
        ({"type": "flot", "low": 1, "high": 4}, "did you mean 'float'?"),
        ({"type": "int", "low": 1, "hgh": 4}, "unknown key; did you mean 'high'"),
    ],
)
def test_a_parameter_that_makes_no_sense(
    make_values: MakeValues, tmp_path: Path, parameter: dict[str, Any], problem: str
) -> None:
    values = make_values(tmp_path / "a", search_space={"lora.r": parameter})
    found = problems_of(values)
    assert any(problem in line for line in found), found
    assert all(line.startswith("search_space.lora.r") for line in found)


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"batch_size": {"type": "float", "low": 1, "high": 8}}, "takes whole numbers"),
        ({"lora.r": {"type": "float", "low": 4, "high": 8}}, "expected a whole number"),
        ({"training.lr_scheduler_type": ["cosine", "cosinus"]}, "cosinus"),
        ({"training.bf16": [False, "yes"]}, "expected true or false, got 'yes'"),
        ({"method": ["lora", "full"], "lora.r": [4, 8]}, "lora is for methods lora, qlora, dora"),
        ({"data.validation": [0.1, 0.2]}, "has to be the same in every trial"),
        ({"seed": {"type": "int", "low": 0, "high": 9}}, "another seed is luck"),
        ({"base": ["a", "b"]}, "make one search for each base"),
        ({"lora_r": [4, 8], "lora.r": [4, 8]}, "is short for lora.r, there as well"),
        ({"training.output_dir": ["a", "b"]}, "set `output` at the top of the recipe"),
        ({}, "1 or more of them"),
    ],
)
def test_a_corner_that_the_recipe_refuses(
    make_values: MakeValues, tmp_path: Path, space: dict[str, Any], problem: str
) -> None:
    found = problems_of(make_values(tmp_path / "a", search_space=space))
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"search_strategy": {"type": "grid"}}, "a grid needs a step or values for a float"),
        ({"search_strategy": {"type": "rndom"}}, "did you mean 'random'?"),
        ({"search_strategy": {"num_trials": 0}}, "num_trials: expected 1 or more, got 0"),
        ({"objective": ["loss", "loss"]}, "the same metric is there twice"),
        ({"objective": "latency"}, "it needs evaluate_on: bundle"),
        ({"objective": {"metric": "loss", "direction": "maximize"}}, "better when it is smaller"),
        (
            {"objective": ["loss", "adapter_size"], "search_strategy": {"pruner": "median"}},
            "take none, or one objective",
        ),
        ({"test": 1.5}, "expected a share from 0 to below 1, or a file"),
        ({"evaluate_on": "bundle", "target": "cpo"}, "target: no target 'cpo'"),
        (
            {"evaluate_on": "bundle", "search_space": {"method": ["lora", "dora"]}},
            "method dora is tried; take evaluate_on: torch",
        ),
        ({"recipe": 5}, "expected the path of a training recipe"),
        ({"recipe": "nosuch.yaml"}, "recipe: recipe nosuch.yaml: no such file"),
        ({"worker": 2}, "worker: unknown key; did you mean 'workers'"),
    ],
)
def test_a_search_that_makes_no_sense(
    make_values: MakeValues, tmp_path: Path, keys: dict[str, Any], problem: str
) -> None:
    found = problems_of(make_values(tmp_path / "a") | keys)
    assert any(problem in line for line in found), found


def test_a_recipe_without_validation_is_refused(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values(tmp_path / "a", recipe={"data": {"validation": 0}})
    assert problems_of(values) == {
        "recipe: data.validation is 0, and a search needs rows to judge trials by"
    }


def test_a_recipe_that_streams_is_refused(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values(tmp_path / "a", recipe={"data": {"streaming": True, "validation": 4}})
    (problem,) = problems_of(values)
    assert problem.startswith("recipe: data.streaming: a search splits its rows, so it holds them")


def test_a_metric_of_answers_needs_answers(
    make_values: MakeValues, rows_csv: Path, tmp_path: Path
) -> None:
    values = make_values(tmp_path / "a", objective="accuracy")
    values["recipe"]["task"] = "generation"
    values["recipe"]["data"] = {"train": str(rows_csv), "text_template": "{text}: {label}"}
    assert problems_of(values) == {
        "objective: accuracy is of answers, and the rows are whole texts; take loss"
    }


def test_what_a_search_falls_back_to(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values(tmp_path / "a", search_strategy={})
    del values["objective"], values["output"]
    search = parse_search(values, where="search", name="mine")
    assert [one.metric for one in search.objectives] == ["accuracy"]
    assert search.num_trials == 20
    assert search.test == 0.2
    assert search.output == Path("searches/mine")


def test_a_grid_counts_its_cells(make_search: MakeSearch, tmp_path: Path) -> None:
    space = {
        "learning_rate": {"type": "float", "low": 0.001, "high": 0.003, "step": 0.001},
        "lora.r": {"type": "int", "low": 2, "high": 7, "step": 2},
        "lora.target_modules": [["q_proj"], ["q_proj", "v_proj"]],
    }
    search = make_search(tmp_path / "a", search_space=space, search_strategy={"type": "grid"})
    assert search.num_trials == 3 * 3 * 2


def test_the_command_says_what_is_wrong_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli import main

    path = tmp_path / "search.yaml"
    path.write_text("recipe: {base: x}\nserch_space: {}\n", encoding="utf-8")
    assert main(["tune", str(path)]) == 1
    said = capsys.readouterr().err
    assert "serch_space: unknown key; did you mean 'search_space'" in said
    assert "recipe: data: missing" in said
    assert "Traceback" not in said
    assert main(["tune", str(tmp_path / "none.yaml")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["tune"]) == 2
