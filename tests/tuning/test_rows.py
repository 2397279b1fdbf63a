"""The rows of a search: what is held out stays out, whatever the sources are."""

from pathlib import Path
from typing import Any

from edgekit.training.example_splits import load_examples
from edgekit.training.examples import Example
from edgekit.tuning.loading import Search
from edgekit.tuning.rows import split_rows, with_rows, write_rows
from tests.tuning.conftest import MakeSearch


def contents(examples: Any) -> list[str]:
    return [example.content for example in examples]


def written(search: Search, directory: Path) -> list[list[str]]:
    """Training, validation and test of what a trial reads."""
    rows = split_rows(search)
    write_rows(rows, directory)
    found = load_examples(with_rows(search.recipe, directory))
    return [contents(part) for part in (found.train, found.validation, found.test)]


def test_a_trial_reads_the_rows_that_were_split_and_no_test_rows(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    search = make_search(tmp_path / "a")
    rows = split_rows(search)
    found = written(search, tmp_path / "rows")
    assert found == [contents(rows.train), contents(rows.validation), []]
    assert len(rows.test) == 5
    assert rows.digest == split_rows(search).digest


def test_sources_keep_their_weights_and_names(make_search: MakeSearch, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    ours.write_text("text,label\n" + "".join(f"ours {i},a\n" for i in range(20)))
    theirs.write_text("question,label\n" + "".join(f"theirs {i},b\n" for i in range(20)))
    train = [
        {"path": str(ours), "weight": 3},
        {"path": str(theirs), "weight": 1, "rename": {"question": "text"}},
    ]
    search = make_search(tmp_path / "a", recipe={"data": {"train": train}})
    rows = split_rows(search)
    assert len(set(contents(rows.train))) == len(rows.train) == 40 - 8 - len(rows.test)
    train_read, validation_read, _ = written(search, tmp_path / "rows")
    assert set(train_read) == set(contents(rows.train))
    assert validation_read == contents(rows.validation)
    n_ours = sum("ours" in text for text in train_read)
    assert n_ours == 3 * (len(train_read) - n_ours)


def test_a_group_is_in_one_split_only(make_search: MakeSearch, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"row {i} {label},{label},{i % 10}" for i in range(30) for label in "ab"]
    path.write_text("\n".join(["text,label,who", *lines]) + "\n")
    data = {"train": str(path), "group": "who", "validation": 0.3}
    rows = split_rows(make_search(tmp_path / "a", recipe={"data": data}, test=0.3))

    def groups(examples: tuple[Example, ...]) -> set[str]:
        return {str(example.row["who"]) for example in examples}

    parts = [groups(rows.train), groups(rows.validation), groups(rows.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


def test_a_slice_of_the_recipe_is_kept_out(
    make_search: MakeSearch, rows_csv: Path, tmp_path: Path
) -> None:
    data = {"split": "train[:20]", "validation": "train[20:25]", "test": "train[25:]"}
    rows = split_rows(make_search(tmp_path / "a", recipe={"data": data}))
    assert [len(part) for part in (rows.train, rows.validation, rows.test)] == [20, 5, 5]
    own = split_rows(make_search(tmp_path / "a", recipe={"data": data}, test=0.25))
    assert [len(part) for part in (own.train, own.validation, own.test)] == [15, 5, 5]


def test_no_test_rows_where_none_are_wanted(make_search: MakeSearch, tmp_path: Path) -> None:
    assert split_rows(make_search(tmp_path / "a", test=0)).test == ()
