"""Mixing, groups, augmentation and the checks of rows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import DataError, EdgekitError, RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.data_checks import Finding
from edgekit.training.example_splits import ExampleSplits, load_examples


def recipe_of(train: Any, task: str = "classification", **data: Any) -> TrainRecipe:
    shape = {"prompt": "{text}:", "completion": " {label}"}
    values = {"train": train, **shape, **data}
    return parse_recipe({"base": "b", "task": task, "data": values, "output": "o"}, TrainRecipe)


def load(train: Any, task: str = "classification", **data: Any) -> ExampleSplits:
    return load_examples(recipe_of(train, task, **data))


def write_rows(path: Path, *rows: tuple[str, ...], header: str = "text,label") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]), encoding="utf-8")
    return str(path)


def write_function(path: Path, body: str) -> str:
    path.write_text(f"def more(rows):\n    {body}\n", encoding="utf-8")
    return f"{path}:more"


def finding(splits: ExampleSplits, check: str) -> Finding:
    (found,) = (one for one in splits.findings if one.check == check)
    return found


class TestSources:
    def test_sources_get_their_weights_and_no_row_is_lost(self, tmp_path: Path) -> None:
        large = write_rows(tmp_path / "l.csv", *((f"l{i}", "a") for i in range(10)))
        small = write_rows(tmp_path / "s.csv", *((f"s{i}", "b") for i in range(4)))
        train = [{"path": large, "weight": 1}, {"path": small, "weight": 1}]
        splits = load(train, validation=0)
        assert Counter(example.source for example in splits.train) == {0: 10, 1: 10}
        assert len({example.place for example in splits.train}) == 14

    def test_weights_repeat_no_validation_row(self, tmp_path: Path) -> None:
        large = write_rows(tmp_path / "l.csv", *((f"l{i}", "a") for i in range(40)))
        small = write_rows(tmp_path / "s.csv", *((f"s{i}", "b") for i in range(10)))
        train = [{"path": large, "weight": 1}, {"path": small, "weight": 3}]
        splits = load(train, validation=0.2)
        held_out = {example.place for example in splits.validation}
        assert len(splits.validation) == len(held_out) == 10
        assert held_out.isdisjoint(example.place for example in splits.train)

    def test_each_source_has_its_own_slice_and_columns(self, tmp_path: Path) -> None:
        one = write_rows(tmp_path / "a.csv", *((f"a{i}", "a") for i in range(4)))
        two = write_rows(tmp_path / "b.csv", ("b", "b"), header="question,label")
        train = [
            {"path": one, "split": "train[:2]"},
            {"path": two, "rename": {"question": "text"}},
        ]
        assert [e.prompt for e in load(train, validation=0).train] == ["a0:", "a1:", "b:"]

    def test_a_column_that_cannot_be_renamed_is_named(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("t", "a"))
        train = [{"path": source, "rename": {"txt": "x", "label": "text"}}]
        with pytest.raises(DataError) as caught:
            load(train)
        assert caught.value.problems == (
            "rename names 'txt', did you mean 'text'? known: label, text",
            "rename gives two columns the name 'text'",
        )

    def test_all_that_does_not_go_together_is_told_at_once(self) -> None:
        train = ["a.csv", {"path": "b.csv", "weight": 1}, {"path": "c.csv"}]
        with pytest.raises(RecipeError) as caught:
            recipe_of(train, split="train[:3]", validation="train[3:]", augment="f.py:more")
        (problem,) = caught.value.problems
        for part in (
            "or none",
            "augment: not with weights",
            "a weight",
            "split: goes into",
            "got 'train[3:]'",
        ):
            assert part in problem

    def test_a_misspelt_key_of_a_source_is_told_alone(self) -> None:
        with pytest.raises(RecipeError) as caught:
            recipe_of([{"path": "b.csv", "wieght": 1}])
        (problem,) = caught.value.problems
        assert problem.startswith("data.train.0.wieght: unknown key; did you mean 'weight'?")

    @pytest.mark.parametrize("weight", [0, -1, "much", float("nan"), float("inf")])
    def test_a_weight_is_a_positive_number(self, weight: object) -> None:
        with pytest.raises(RecipeError, match="weight"):
            recipe_of([{"path": "b.csv", "weight": weight}])


class TestGroups:
    def test_no_group_is_in_both_splits_and_labels_keep_their_shares(self, tmp_path: Path) -> None:
        rows = [(f"t{i}", "ab"[i % 2], f"g{i // 4}") for i in range(80)]
        source = write_rows(tmp_path / "a.csv", *rows, header="text,label,who")
        splits = load(source, group="who", validation=0.25)
        assert not {e.group for e in splits.train} & {e.group for e in splits.validation}
        assert len(splits.train) == 60
        assert Counter(e.stratum for e in splits.validation) == {"a": 10, "b": 10}

    def test_one_group_cannot_be_split(self, tmp_path: Path) -> None:
        rows = [(f"t{i}", "a", "g") for i in range(4)]
        source = write_rows(tmp_path / "a.csv", *rows, header="text,label,who")
        with pytest.raises(DataError, match="every row is of 'g'"):
            load(source, group="who")

    def test_a_column_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("t", "a"))
        with pytest.raises(DataError, match=r"data\.group names 'who'"):
            load(source, group="who")

    def test_a_group_in_a_validation_file_too_is_a_leak(self, tmp_path: Path) -> None:
        one = write_rows(
            tmp_path / "a.csv", ("t", "a", "x"), ("u", "b", "y"), header="text,label,who"
        )
        two = write_rows(tmp_path / "b.csv", ("v", "a", "x"), header="text,label,who")
        leak = finding(load(one, group="who", validation=two), "leakage")
        assert leak.text == "1 of 1 validation rows are of a group in training too"


class TestAugmentation:
    def test_training_rows_alone_are_augmented(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", *((f"t{i}", "ab"[i % 2]) for i in range(10)))
        body = "return rows + [{**row, 'text': row['text'].upper()} for row in rows]"
        function = write_function(tmp_path / "f.py", body)
        splits = load(source, augment=function, validation=0.2)
        assert (len(splits.train), len(splits.validation)) == (16, 2)
        assert all((e.prompt or "").islower() for e in splits.validation)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return 1 / 0", "f.py:2: return 1 / 0"),
            ("return 'rows'", "should return a list of rows, got 'rows'"),
            ("return rows[:0]", "returned no rows"),
            ("return [*rows, 3]", "row 3: expected a dict with text keys, got 3"),
            ("return [{'text': 'x'} for _ in rows]", "data.completion names 'label'"),
            ("return (", "f.py:2"),
        ],
    )
    def test_a_bad_function_is_told_with_its_place(
        self, tmp_path: Path, body: str, message: str
    ) -> None:
        source = write_rows(tmp_path / "a.csv", ("t", "a"), ("u", "b"))
        function = write_function(tmp_path / "f.py", body)
        with pytest.raises(EdgekitError) as caught:
            load(source, augment=function, validation=0)
        assert message in str(caught.value)

    def test_a_file_or_function_that_is_not_there(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("t", "a"), ("u", "b"))
        with pytest.raises(EdgekitError, match="there is no file"):
            load(source, augment=str(tmp_path / "none.py:more"))
        write_function(tmp_path / "f.py", "return rows")
        with pytest.raises(EdgekitError, match="has no 'fewer'"):
            load(source, augment=str(tmp_path / "f.py:fewer"))

    def test_the_key_is_a_file_and_a_function(self) -> None:
        with pytest.raises(RecipeError, match=r"expected path/to/file\.py:function"):
            recipe_of("a.csv", augment="module.function")


class TestFindings:
    def test_rows_that_contradict_one_another(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("t", "a"), ("u", "b"), ("t", "b"))
        conflict = finding(load(source, validation=0), "conflicts")
        assert (conflict.n_rows, conflict.places) == (2, (f"{source}:2", f"{source}:4"))
        assert not finding(load(source, "generation", validation=0), "conflicts").is_problem

    def test_duplicates_and_near_ones_are_apart(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("Hi you", "a"), ("Hi you", "a"), ("hi  you!", "a"))
        splits = load(source, "generation", validation=0)
        assert finding(splits, "duplicates").places == (f"{source}:3",)
        assert finding(splits, "near duplicates").places == (f"{source}:4",)

    def test_the_same_prompt_in_validation_is_a_leak(self, tmp_path: Path) -> None:
        one = write_rows(tmp_path / "a.csv", ("t", "a"), ("u", "b"))
        two = write_rows(tmp_path / "b.csv", ("v", "a"), ("t", "b"))
        splits = load(one, validation=two)
        assert finding(splits, "leakage").places == (f"{two}:3",)
        assert any(f"({two}:3)" in warning for warning in splits.warnings)

    def test_classes_of_one_kind_and_lopsided_ones(self, tmp_path: Path) -> None:
        one = write_rows(tmp_path / "a.csv", ("t", "a"), ("u", "a"))
        assert "nothing to tell apart" in finding(load(one, validation=0), "classes").text
        rows = [(f"t{i}", "a") for i in range(11)]
        two = write_rows(tmp_path / "b.csv", *rows, ("x", "b"))
        assert finding(load(two, validation=0), "classes").is_problem
        three = write_rows(tmp_path / "c.csv", *rows[1:], ("x", "b"))
        assert not finding(load(three, validation=0), "classes").is_problem

    def test_an_empty_field_beside_others(self, tmp_path: Path) -> None:
        source = write_rows(
            tmp_path / "a.csv", ("t", "a", "x"), ("", "b", "y"), header="text,label,c"
        )
        splits = load(source, prompt="{text} {c}", validation=0)
        assert finding(splits, "empty fields").places == (f"{source}:3",)

    def test_a_template_in_other_letters_than_the_rows(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", ("где", "да"), ("когда", "нет"))
        splits = load(source, prompt="Question: {text}", validation=0)
        assert "latin letters, rows mostly in others: 2" in finding(splits, "template").text

    def test_clean_rows_have_no_problem(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.csv", *((f"t{i}", "ab"[i % 2]) for i in range(10)))
        splits = load(source)
        assert [one.check for one in splits.findings] == ["classes"]
        assert splits.warnings == ()


class TestCommand:
    @pytest.fixture
    def recipe(self, tmp_path: Path, tiny_base: Path) -> str:
        source = write_rows(tmp_path / "a.csv", ("t", "a"), ("t", "b"), ("long " * 40, "b"))
        path = tmp_path / "r.yaml"
        data = {
            "train": source,
            "validation": 0,
            "prompt": "{text}:",
            "completion": " {label}",
            "max_length": 16,
        }
        values = {"base": str(tiny_base), "task": "classification", "data": data, "output": "o"}
        path.write_text(json.dumps(values))
        return str(path)

    def test_json_has_every_finding(self, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "check", recipe, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [one["check"] for one in report["findings"]] == ["conflicts", "length", "classes"]
        assert (report["problems"], report["rows"]["train"]) == (2, 3)

    def test_strict_fails_on_problems_only(
        self, recipe: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["data", "check", recipe, "--strict"]) == 1
        assert "conflicts" in capsys.readouterr().out
        text = ["--set", "task=generation", "--set", "data.max_length=512"]
        assert main(["data", "check", recipe, "--strict", *text]) == 0

    def test_rows_that_cannot_be_used_are_an_error(
        self, recipe: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["data", "check", recipe, "--set", "data.prompt='{txt}'"]) == 1
        error = capsys.readouterr().err
        assert "data.prompt names 'txt'" in error
        assert "Traceback" not in error
