"""Recipes: what people type, and what they are told when it is wrong."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import BundleRecipe, TrainRecipe, load_recipe, parse_recipe
from edgekit.templates import fill_template, template_fields

TRAIN = """
base: smollm2-135m
method: lora
task: classification
data:
  train: data/train.csv
  split: "train[:4096]"
  validation: 0.15
  stratify: category
  prompt: "Query: {text}\\nIntent:"
  completion: " {category}"
lora: {r: 16, lora_alpha: 32, lora_dropout: 0.05, target_modules: all-linear}
training: {max_steps: 200, learning_rate: 2.0e-4}
metrics: [accuracy, f1]
output: adapters/banking
"""

BUNDLE = """
name: support-assistant
version: 1.2.0
base: smollm2-135m
targets: [cpu, cuda]
adapters:
  banking: adapters/banking
  smart-home: {path: adapters/smart-home, prompt: "Do: {text}", defaults: {temperature: 0}}
  by-target: {cpu: adapters/a, default: adapters/b}
output: bundles/support-assistant
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


DATA = {"train": "t.csv", "prompt": "{a}", "completion": "{b}"}
PACKED = DATA | {"packing": True}


def values(**changes: Any) -> dict[str, Any]:
    return {"base": "b", "data": DATA, "output": "o"} | changes


def problems_of(recipe: dict[str, Any], kind: Any = TrainRecipe) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, kind)
    return caught.value.problems


def test_the_train_recipe_of_the_design_loads(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, TRAIN), TrainRecipe)
    assert recipe.data.train == ("data/train.csv",)
    assert recipe.data.max_length == 512
    assert recipe.training == {"max_steps": 200, "learning_rate": 2e-4}
    assert recipe.output == Path("adapters/banking")


def test_the_bundle_recipe_of_the_design_loads(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, BUNDLE), BundleRecipe)
    assert recipe.adapters["banking"].path == {"default": "adapters/banking"}
    assert recipe.adapters["smart-home"].defaults == {"temperature": 0}
    assert recipe.adapters["by-target"].path_for("cpu") == Path("adapters/a")
    assert recipe.adapters["by-target"].path_for("cuda") == Path("adapters/b")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(values(), TrainRecipe).seed = 1  # type: ignore[misc]


def test_overrides_reach_nested_keys_and_are_yaml(tmp_path: Path) -> None:
    overrides = ["training.max_steps=50", "lora.target_modules=[q_proj, v_proj]", "seed=7"]
    recipe = load_recipe(write(tmp_path, TRAIN), TrainRecipe, overrides)
    assert recipe.training["max_steps"] == 50
    assert recipe.lora.target_modules == ("q_proj", "v_proj")
    assert recipe.seed == 7


def test_an_override_makes_the_parts_that_are_not_there(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, BUNDLE), BundleRecipe, ["parity.max_nll_increase=0.3"])
    assert recipe.parity.max_nll_increase == 0.3


def test_bad_overrides_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, TRAIN), TrainRecipe, ["seed", "base.x=1", "seed=[1"])
    assert caught.value.problems == (
        "'seed': expected KEY=VALUE, such as training.max_steps=50",
        "base.x: base is 'smollm2-135m', it has no keys",
        "'seed=[1': not valid YAML: expected ',' or ']', but got '<stream end>'",
    )


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.0e-4", "0.0002"])
def test_an_exponent_is_a_number(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, TRAIN)
    recipe = load_recipe(path, TrainRecipe, [f"training.learning_rate={text}"])
    assert recipe.training["learning_rate"] == 2e-4


def test_every_problem_is_told_at_once_with_the_nearest_name() -> None:
    wrong = values(metod="lora", task="classificaton", seed="x", lora={"r": 0, "lora_alpa": 1})
    assert problems_of(wrong) == (
        "task: expected 'classification', 'extraction', 'generation', 'summarization' or 'chat', "
        "got 'classificaton'; did you mean 'classification'?",
        "lora.r: expected 1 or more, got 0",
        "lora.lora_alpa: unknown key; did you mean 'lora_alpha' or 'lora_dropout'? known: "
        "alpha_pattern, exclude_modules, init_lora_weights, layers_pattern, layers_to_transform, "
        "lora_alpha, lora_dropout, modules_to_save, r, rank_pattern, target_modules, use_rslora",
        "seed: expected a whole number, got 'x'",
        "metod: unknown key; did you mean 'method' or 'metrics'? known: base, bottleneck, "
        "class_weights, data, early_stopping, license, lora, loss, loss_options, method, metrics, "
        "output, seed, task, training, weights",
    )


@pytest.mark.parametrize("method", ["adalora", "lorra"])
def test_other_methods_are_refused_with_the_supported_ones(method: str) -> None:
    assert problems_of(values(method=method)) == (
        f"method: not supported; supported now: lora, qlora, dora, full, bottleneck, "
        f"got {method!r}",
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "qlora"}, "method qlora needs weights: target:NAME or nf4, got none"),
        (
            {"method": "qlora", "weights": "cpu"},
            "method qlora needs weights: target:NAME or nf4, got 'cpu'",
        ),
        (
            {"method": "qlora", "weights": "target:"},
            "method qlora needs weights: target:NAME or nf4, got 'target:'",
        ),
        ({"weights": "target:cpu"}, "weights is for method qlora, and method is lora"),
        (
            {"method": "full", "lora": {"r": 4}},
            "lora is for methods lora, qlora, dora, and method is full",
        ),
        (
            {"bottleneck": {"reduction_factor": 4}},
            "bottleneck is for method bottleneck, and method is lora",
        ),
        ({"loss_options": {"weight": 1}}, "loss_options go with loss, and there is none"),
        (
            {"loss": "own.py:Loss", "data": PACKED},
            "loss: not with data.packing, which puts several sequences in a row",
        ),
        (
            {"lora": {"init_lora_weights": "loftq"}},
            "loftq starts from what rounding took from the weights, so it goes with method qlora",
        ),
        (
            {"method": "dora", "lora": {"init_lora_weights": "pissa"}},
            "pissa changes the base's weights, and DoRA's magnitudes are those of the unchanged",
        ),
        (
            {
                "lora": {
                    "init_lora_weights": "olora",
                    "use_rslora": True,
                    "rank_pattern": {"q_proj": 4},
                }
            },
            "olora cannot be written for the unchanged base together with use_rslora",
        ),
        (
            {"lora": {"init_lora_weights": "pissa", "modules_to_save": ["lm_head"]}},
            "pissa cannot be written for the unchanged base together with modules_to_save",
        ),
        ({"lora": {"init_lora_weights": "corda"}}, "lora.init_lora_weights: expected true, false"),
        (
            {"lora": {"init_lora_weights": "pissa_niter_0"}},
            "or pissa_niter_NUMBER, got 'pissa_niter_0'",
        ),
        (
            {"method": "bottleneck", "bottleneck": {"reduction_factor": 0.5}},
            "bottleneck.reduction_factor: expected 1 or more, got 0.5",
        ),
    ],
)
def test_what_does_not_go_with_a_method(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(values(**changes))
    assert problem in found


def test_qlora_names_its_target() -> None:
    recipe = parse_recipe(values(method="qlora", weights="target:mine.yaml"), TrainRecipe)
    assert recipe.target == "mine.yaml"
    assert parse_recipe(values(), TrainRecipe).target is None


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 3, column 1: not valid YAML"):
        load_recipe(write(tmp_path, "base: x\ndata: {train: [a\n"), TrainRecipe)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"line 2, column 1: .*the key 'base' is there twice"):
        load_recipe(write(tmp_path, "base: x\nbase: y\n"), TrainRecipe)


def test_a_missing_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "none.yaml", TrainRecipe)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_recipe_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="holds no keys"):
        load_recipe(write(tmp_path, text), TrainRecipe)


def test_a_version_that_yaml_reads_as_a_number_says_to_quote_it() -> None:
    wrong = {"name": "n", "base": "b", "output": "o", "version": 1.2}
    assert problems_of(wrong, BundleRecipe) == (
        "version: expected text, got 1.2 (put it in quotes)",
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "data: give one of prompt + completion, messages, or text_template"),
        (
            {"prompt": "{a}", "completion": "b", "text_template": "{c}"},
            "data: give one of prompt + completion, messages, or text_template, "
            "got prompt and text_template",
        ),
        ({"prompt": "{a}"}, "data: prompt and completion go together, completion is missing"),
        (
            {"text_template": "{a}", "system": "s"},
            "data: system goes with messages; put it into the prompt template instead",
        ),
        (
            {"messages": [{"role": "user", "content": "{a}"}]},
            "data: messages should end with an assistant turn, what the model learns",
        ),
        (
            {"messages": [{"role": "usr", "content": "{a}"}]},
            "data.messages.0.role: expected 'system', 'user' or 'assistant', got 'usr'; "
            "did you mean 'user'?",
        ),
        (
            {"text_template": "{a"},
            "data.text_template: template '{a' has a single '{' at character 1. Write {name} for "
            "a field, and {{ or }} for a brace in the text., got '{a'",
        ),
        (
            {"text_template": "{a}", "validation": 1.5},
            "data.validation: expected a share from 0 to below 1, a file, or a slice such as "
            "train[90%:], got 1.5",
        ),
    ],
)
def test_data_has_one_shape(data: dict[str, Any], problem: str) -> None:
    assert problems_of(values(data={"train": "t.csv", **data})) == (problem,)


def test_an_adapter_needs_a_path_for_every_target() -> None:
    adapters = {"a": {"cuda": "p"}, "b": {"path": {"cpu": "p"}}, "c": {"cpu": "p", "cda": "q"}}
    wrong = {"name": "n", "base": "b", "output": "o", "targets": ["cpu", "cuda"]}
    (problem,) = problems_of(wrong | {"adapters": adapters}, BundleRecipe)
    assert "a has no path for target 'cpu'" in problem
    assert "b has no path for target 'cuda'" in problem
    assert "c names 'cda', did you mean 'cuda'" in problem


def test_a_typo_inside_an_adapter_is_named_by_its_path() -> None:
    adapters = {"a": {"path": "p", "promt": "x"}}
    wrong = {"name": "n", "base": "b", "output": "o", "adapters": adapters}
    assert problems_of(wrong, BundleRecipe) == (
        "adapters.a.promt: unknown key; did you mean 'prompt'? known: defaults, license, path, "
        "prompt",
    )


def test_a_template_is_filled_with_doubled_braces_for_literal_ones() -> None:
    assert fill_template('{{"q": "{my text}"}}', {"my text": "x{y}"}) == '{"q": "x{y}"}'


def test_values_that_are_no_text_are_filled_in_as_json() -> None:
    row = {"n": 3, "b": True, "o": {"ä": [1, None]}, "none": None}
    assert fill_template("{n} {b} {o} {none}|", row) == '3 true {"ä": [1, null]} |'


def test_the_fields_of_a_template_come_once_and_in_order() -> None:
    assert template_fields("{b} {a} {b} {{c}}") == ("b", "a")


def test_a_missing_field_is_named_with_what_is_there() -> None:
    with pytest.raises(RecipeError, match=r"no value for \{txt\}\nGiven: label, text\."):
        fill_template("{txt}", {"text": "", "label": ""})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: " + "[" * 50_000, "it is nested too deeply"),
        ("? [a, b]\n: 1\n", "a key is a list or a mapping"),
        ("name: " + "9" * 5000, "digits"),
        ("name: &a {b: *a}", "a value holds itself"),
        ("name: &a [*a]", "a value holds itself"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
                for old, new in pairwise("abcdefghi")
            ),
            "its aliases stand for more than 100000 values",
        ),
    ],
)
def test_yaml_that_would_hang_or_break_the_reader_is_refused(
    text: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=told):
        load_recipe(path, BundleRecipe)


def test_an_alias_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text(
        "name: b\nbase: x\noutput: out\nadapters:\n  a: &a {path: x, prompt: '{text}'}\n  b: *a\n",
        encoding="utf-8",
    )
    adapters = load_recipe(path, BundleRecipe).adapters
    assert adapters["a"] == adapters["b"]
