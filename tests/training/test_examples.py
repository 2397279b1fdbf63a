"""Rows become examples: checked columns, honest splits, labels that can be learnt."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.example_splits import ExampleSplits, load_examples


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    path.write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8")
    return str(path)


def load(train: str, task: str = "classification", **data: Any) -> ExampleSplits:
    shape = {"prompt": "{text}:", "completion": " {label}"}
    if {"messages", "text_template", "prompt"} & set(data):
        shape = {}
    values = {"base": "b", "task": task, "data": {"train": train, **shape, **data}, "output": "o"}
    return load_examples(parse_recipe(values, TrainRecipe))


def labels_of(examples: Sequence[Any]) -> Counter[str]:
    return Counter(example.completion.strip() for example in examples)


def test_a_share_is_stratified_by_label(tmp_path: Path) -> None:
    rows = [(f"t{i}", label) for i in range(20) for label in "abbb"]
    splits = load(write_csv(tmp_path / "a.csv", rows), validation=0.25)
    assert labels_of(splits.validation) == {"a": 5, "b": 15}
    assert labels_of(splits.train) == {"a": 15, "b": 45}
    assert splits.labels == ("a", "b")


def test_no_row_is_in_both_splits_and_none_is_lost(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2]) for i in range(31)]
    splits = load(write_csv(tmp_path / "a.csv", rows), validation=0.2)
    places = [example.place for example in (*splits.train, *splits.validation)]
    assert len(places) == len(set(places)) == 31


def test_a_class_with_a_single_row_stays_in_training_and_is_named(tmp_path: Path) -> None:
    rows = [(f"t{i}", "common") for i in range(9)] + [("once", "rare")]
    splits = load(write_csv(tmp_path / "a.csv", rows), validation=0.5)
    assert labels_of(splits.train)["rare"] == 1
    assert splits.warnings == ("1 with a single row, kept in training only: 'rare'",)


def test_a_seed_decides_the_split(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [(f"t{i}", "a") for i in range(40)])
    assert load(source).validation == load(source).validation


def test_stratify_takes_another_column(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [(f"t{i}", "ab"[i % 2]) for i in range(40)])
    splits = load(source, task="generation", stratify="label", validation=0.1)
    assert labels_of(splits.validation) == {"a": 2, "b": 2}


def test_a_label_drawn_away_by_another_stratum_comes_back(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("same", f"label{i}") for i in range(10)])
    splits = load(source, stratify="text", validation=0.3)
    assert len(splits.train) == 10


def test_validation_may_be_a_slice(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [(f"t{i}", "a") for i in range(10)])
    splits = load(source, split="train[:8]", validation="train[8:]")
    assert (len(splits.train), len(splits.validation)) == (8, 2)


def test_validation_and_test_may_be_files(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "a.csv", [("t", "a"), ("u", "b")])
    other = write_csv(tmp_path / "b.csv", [("v", "a")])
    splits = load(train, validation=other, test=other)
    assert splits.validation[0].place == f"{other}:2"
    assert len(splits.test) == 1


def test_no_validation_is_possible(tmp_path: Path) -> None:
    splits = load(write_csv(tmp_path / "a.csv", [("t", "a")] * 3), validation=0)
    assert splits.validation == ()


def test_labels_that_training_never_has_are_named(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "a.csv", [("t", "a")] * 3)
    other = write_csv(tmp_path / "b.csv", [("v", "a"), ("w", "z"), ("x", "z")])
    with pytest.raises(DataError) as caught:
        load(train, validation=other)
    assert caught.value.what == "validation has labels that never occur in training"
    assert caught.value.problems == (f"'z': 2 rows, the first is {other}:3",)


def test_missing_columns_are_named_with_those_that_exist(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("t", "a")])
    with pytest.raises(DataError) as caught:
        load(source, prompt="{txt}", completion="{label}", stratify="group")
    assert caught.value.problems == (
        "data.prompt names 'txt', did you mean 'text'? known: label, text",
        "data.stratify names 'group', known: label, text",
    )


def test_empty_completions_are_listed_by_line(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("t", "a"), ("u", ""), ("v", " ")])
    with pytest.raises(DataError) as caught:
        load(source)
    assert caught.value.problems == (
        f"{source}:3: completion is empty",
        f"{source}:4: completion is empty",
    )


def test_a_json_row_that_lacks_a_field_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "t", "label": "a"}\n{"text": "u"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2: lacks 'label'"):
        load(str(path))


def test_duplicates_are_counted_and_kept(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("t", "a")] * 3 + [("u", "a")])
    splits = load(source, validation=0)
    assert (splits.n_duplicates, len(splits.train)) == (2, 4)


def test_validation_rows_that_are_in_training_are_told(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("t", "a"), ("u", "b"), ("v", "a")])
    splits = load(source, split="train[:2]", validation="train[1:]")
    assert splits.warnings == (
        f"1 of 2 validation rows are in training too: their score says little ({source}:3)",
    )


def test_messages_come_from_a_column_and_get_the_system_message(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    turns = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]'
    path.write_text(f'{{"m": {turns}}}\n', encoding="utf-8")
    splits = load(str(path), task="chat", messages="m", system="Be kind.", validation=0)
    assert splits.train[0].messages is not None
    assert [turn["role"] for turn in splits.train[0].messages] == ["system", "user", "assistant"]


def test_messages_may_be_templates(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [("hi", "yo")])
    turns = [{"role": "user", "content": "{text}"}, {"role": "assistant", "content": "{label}"}]
    splits = load(source, task="chat", messages=turns, validation=0)
    assert splits.train[0].messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
    )


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ('"hi"', "messages should be a list"),
        ('[{"role": "user"}]', "message 1 should have a role and a content, both text"),
        ('[{"role": "bot", "content": "x"}]', "message 1 has the role 'bot'; known: system"),
        ('[{"role": "user", "content": "x"}]', "no assistant turn to learn from"),
        ('[{"role": "assistant", "content": " "}]', "message 1, an assistant turn, is empty"),
    ],
)
def test_messages_that_cannot_be_used_are_refused(
    tmp_path: Path, messages: str, problem: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"m": {messages}}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=problem):
        load(str(path), task="chat", messages="m")
