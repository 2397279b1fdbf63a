"""A user's own metric, by file, and what can be wrong with it."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import RecipeError
from edgekit.evaluating.measuring import value_of
from edgekit.evaluating.metrics import check_metrics, measure, recorded_metrics, score
from edgekit.evaluating.sampling import intervals_of

CODE = """
def first_letter(predictions, references):
    return [float(p[:1] == r[:1]) for p, r in zip(predictions, references)]

def mean_length(predictions, references):
    return sum(map(len, predictions)) / len(predictions)

def too_few(predictions, references):
    return [1.0]

def text(predictions, references):
    return "good"

def nan(predictions, references):
    return float("nan")

def nan_row(predictions, references):
    return [0.0, float("nan")]

def broken(predictions, references):
    return 1 / 0

def array(predictions, references):
    import numpy
    return numpy.array(0.5)

def text_of_some(predictions, references):
    return 0.5 if "a" in predictions else "none"

def fails_on_some(predictions, references):
    return 1 / predictions.count("a")

def in_a_library(predictions, references):
    import json
    return json.loads("{")

number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    """Path of a file with metrics."""
    path = tmp_path / "own.py"
    path.write_text(CODE, encoding="utf-8")
    return str(path)


def test_a_number_a_row_is_averaged(code: str) -> None:
    name = f"{code}:first_letter"
    assert score([name, "accuracy"], ["ab", "cd"], ["ax", "xd"]) == {name: 0.5, "accuracy": 0.0}


def test_one_number_for_all_rows_is_asked_for_again_of_every_sample(code: str) -> None:
    name = f"{code}:mean_length"
    measured = measure([name], ["a", "bbb"], ["", ""])[name]
    assert measured(np.array([[1, 1], [2, 0], [0, 2], [1, 3]])).tolist() == [2, 1, 3, 2.5]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("too_few", "a list of 2 numbers, one for each row, got list of 1"),
        ("text", "expected a number, or a list of 2 numbers, one for each row, got str"),
        ("nan", "expected a finite number, got nan"),
        ("nan_row", "expected a finite number, got nan for row 2"),
        ("broken", "ZeroDivisionError: division by zero"),
        ("number", "cannot be called"),
        ("first_leter", "did you mean 'first_letter'"),
    ],
)
def test_a_wrong_one_is_refused_in_our_words(code: str, function: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        score([f"{code}:{function}"], ["a", "b"], ["a", "b"])


def test_an_array_of_no_dimensions_is_a_number(code: str) -> None:
    assert score([f"{code}:array"], ["a", "b"], ["a", "b"]) == {f"{code}:array": 0.5}


@pytest.mark.parametrize("function", ["text_of_some", "fails_on_some"])
def test_a_sample_without_a_number_leaves_the_score_and_no_interval(
    code: str, function: str
) -> None:
    """As a rare label may be in no row of a sample: the answers are not lost for that."""
    name = f"{code}:{function}"
    measured = measure([name], ["a", "b"], ["a", "b"])
    assert value_of(measured[name], 2) in (0.5, 1)
    assert intervals_of(measured, 2, 0.95) == {name: None}


def test_the_line_of_the_own_file_is_named_where_a_library_fails(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (code, Path(code).name):
        monkeypatch.chdir(Path(code).parent)
        with pytest.raises(RecipeError) as caught:
            score([f"{name}:in_a_library"], ["a"], ["a"])
        assert "own.py:" in caught.value.problems[0]
        assert 'return json.loads("{")' in caught.value.problems[0]


def test_a_file_that_is_not_there_is_refused_before_any_scoring() -> None:
    with pytest.raises(RecipeError, match=r"metric: there is no file 'nowhere\.py'"):
        check_metrics(["nowhere.py:score"])


def test_a_wrong_name_is_told_with_near_ones_and_how_to_name_a_file() -> None:
    with pytest.raises(RecipeError, match=r"'rogueL': did you mean 'rougeL'") as caught:
        check_metrics(["rogueL", "accuracy"])
    assert "path/to/file.py:function" in str(caught.value)


def test_a_package_offers_a_metric_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "offering-1.2.dist-info"
    info.mkdir()
    (tmp_path / "offering.py").write_text(CODE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[edgekit.metrics]\nfirst = offering:first_letter\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert score(["first"], ["ab"], ["ax"]) == {"first": 1.0}
    with pytest.raises(RecipeError, match="did you mean 'first'"):
        check_metrics(["frst"])


def test_code_that_an_adapter_names_is_not_run() -> None:
    assert recorded_metrics(["accuracy", "evil.py:run"]) == ("accuracy",)
