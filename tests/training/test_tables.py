"""Reading rows: every kind of file, and every way to be malformed, with its line."""

import json
from pathlib import Path

import pytest

from edgekit.errors import DataError
from edgekit.training.tables import read_table


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def problems_of(source: str) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_table([source])
    return caught.value.problems


ROWS = ({"text": 'a, "b"', "label": "x"}, {"text": "ü\nc", "label": "y"})


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    import pandas

    path, frame = tmp_path / f"rows.{kind}", pandas.DataFrame(ROWS)
    if kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    table = read_table([str(path)])
    assert table.rows == ROWS
    assert table.columns == ("text", "label")


def test_several_files_are_joined(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "t\n1\n")
    second = write(tmp_path / "b.jsonl", '{"t": "2"}\n')
    assert [row["t"] for row in read_table([first, second]).rows] == ["1", "2"]


def test_nested_json_stays_as_it_was_written(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", '{"o": {"a": 1}}\n{"o": {"b": [1, {"c": null}]}}\n')
    assert [row["o"] for row in read_table([source]).rows] == [
        {"a": 1},
        {"b": [1, {"c": None}]},
    ]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_table([write(tmp_path / "a.csv", "\ufefft\n1\n")]).columns == ("t",)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:2]", "ab"),
        ("train[-1:]", "d"),
        ("train[50%:]", "cd"),
        ("train[:1]+train[3:]", "ad"),
    ],
)
def test_slices_are_hugging_faces(tmp_path: Path, split: str, expected: str) -> None:
    source = write(tmp_path / "a.csv", "t\na\nb\nc\nd\n")
    assert "".join(row["t"] for row in read_table([source], split=split).rows) == expected


@pytest.mark.parametrize("split", ["test", "train[:x]", "train[:"])
def test_a_slice_that_does_not_fit_names_the_rows_there_are(tmp_path: Path, split: str) -> None:
    source = write(tmp_path / "a.csv", "t\na\n")
    with pytest.raises(DataError, match=r"which has 1 rows(.|\n)*the one split 'train'"):
        read_table([source], split=split)


def test_rows_know_their_line_behind_a_row_of_two_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", 't,u\n"1\n2",x\n\n3,y\n')
    assert read_table([source]).places == (f"{source}:2", f"{source}:5")


def test_csv_rows_with_other_columns_are_listed_by_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", "t,u\n1,2\n1\n1,2,3\n")
    assert problems_of(source) == (
        "line 3: expected 2 columns, got 1",
        "line 4: expected 2 columns, got 3",
    )


def test_a_quote_that_never_closes_is_named(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path / "a.csv", 't,u\n1,2\n"1,2\n3,4\n')) == (
        "line 3: unexpected end of data",
    )


def test_a_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path / "a.csv", "t,t\n1,2\n")) == (
        "line 1: the header names a column twice: 't'",
    )


def test_broken_json_lines_are_listed_by_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": }\n\n[1]\n')
    assert problems_of(source) == (
        "line 2: not valid JSON: Expecting value at character 7",
        "line 4: expected an object, got [1]",
    )


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path / "a.json", '[{"a": 1},\n {"a" 2}]')) == (
        "line 2: not valid JSON: Expecting ':' delimiter at character 7",
    )


def test_at_most_twenty_problems_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path / "a.csv", "t,u\n" + "1\n" * 30))
    assert len(problems) == 21
    assert problems[-1] == "… and 10 more"


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=r"a\.json?l?.* has no rows|a\.csv has no rows"):
        read_table([write(tmp_path / name, content)])


def test_a_header_alone_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_table([write(tmp_path / "a.csv", "t,u\n")])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table([str(tmp_path / "none.csv")])


def test_an_unknown_kind_of_file_is_refused_with_the_known(tmp_path: Path) -> None:
    source = write(tmp_path / "a.xlsx", b"PK")
    with pytest.raises(DataError, match=r"known: \.csv, \.json, \.jsonl, \.parquet, \.tsv"):
        read_table([source])


def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8: byte 3 is 0xfc"):
        read_table([write(tmp_path / "a.csv", b"t\na\xfc\n")])


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="malformed"):
        read_table([write(tmp_path / "a.parquet", b"not parquet at all")])


def test_what_is_neither_file_nor_data_set_says_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no file here and cannot be loaded as a data set"):
        read_table(["nobody/nothing-of-this-name"])


def test_class_numbers_of_a_data_set_become_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    table = read_table([str(tmp_path / "set")])
    assert [row["label"] for row in table.rows] == ["yes", "no"]
