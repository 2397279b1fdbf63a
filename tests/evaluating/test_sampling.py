"""Intervals and paired comparisons, by cases whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.comparing import OtherRun, compare, mcnemar, read_run, refuse_other_rows
from edgekit.evaluating.measuring import summed
from edgekit.evaluating.metrics import measure, perplexity_of_sums
from edgekit.evaluating.rows import AnsweredRow
from edgekit.evaluating.sampling import check_confidence, intervals_of


def rows_with(hits: list[bool]) -> list[AnsweredRow]:
    return [
        AnsweredRow(number=n, key=f"k{n}", prompt="", reference="a", prediction="a" if hit else "b")
        for n, hit in enumerate(hits, 1)
    ]


def measured(rows: list[AnsweredRow], name: str = "accuracy") -> Any:
    return measure([name], [r.prediction or "" for r in rows], [r.reference for r in rows])


def other_of(rows: list[AnsweredRow]) -> OtherRun:
    return OtherRun(path="other.json", name="other", rows=tuple(rows))


def test_the_interval_of_a_share_is_near_the_normal_one() -> None:
    rows = rows_with([n % 5 != 0 for n in range(400)])
    low, high = intervals_of(measured(rows), 400, 0.95)["accuracy"] or (0, 0)
    half = norm.ppf(0.975) * (0.8 * 0.2 / 400) ** 0.5
    assert low == pytest.approx(0.8 - half, abs=0.006)
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        rows = rows_with([bool(hit) for hit in rng.random(80) < 0.7])
        low, high = intervals_of(measured(rows), 80, 0.9)["accuracy"] or (0, 0)
        held += low <= 0.7 <= high
    assert 0.8 <= held / 60 <= 1.0


def test_more_confidence_is_a_wider_interval_and_twice_the_same_is_equal() -> None:
    rows = rows_with([True, False] * 20)
    narrow = intervals_of(measured(rows), 40, 0.5)["accuracy"]
    wide = intervals_of(measured(rows), 40, 0.99)["accuracy"]
    assert narrow and wide and wide[0] < narrow[0] < narrow[1] < wide[1]
    assert wide == intervals_of(measured(rows), 40, 0.99)["accuracy"]


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(confidence: float) -> None:
    with pytest.raises(RecipeError, match="above 0 and below 1"):
        check_confidence(confidence)


def test_mcnemar_is_the_coin_that_the_differing_rows_throw() -> None:
    # 1 row only mine, 5 rows only theirs: 2 * (1 + 6) / 2**6.
    mine = np.array([True, *[False] * 5, True, False])
    theirs = np.array([False, *[True] * 5, True, False])
    assert mcnemar(mine, theirs) == pytest.approx(14 / 64)
    assert mcnemar(mine, mine) == 1.0


@pytest.mark.parametrize(("name", "test"), [("accuracy", "mcnemar"), ("f1", "bootstrap")])
def test_a_better_run_is_told_from_luck(name: str, test: str) -> None:
    worse = rows_with([n % 2 == 0 for n in range(100)])
    better = rows_with([n % 2 == 0 or n % 5 == 0 for n in range(100)])
    same = compare(measured(worse, name), measured(worse, name), worse, other_of(worse), 0.95)
    found = compare(measured(better, name), measured(worse, name), better, other_of(worse), 0.95)
    assert same.metrics[name].p_value == 1.0
    assert same.metrics[name].interval == (0.0, 0.0)
    assert found.metrics[name].test == test
    assert found.metrics[name].difference > 0
    assert found.metrics[name].p_value < 0.01
    low, _ = found.metrics[name].interval or (0, 0)
    assert low > 0


def test_what_is_infinite_is_no_proof_of_anything() -> None:
    rows = rows_with([True, False])
    endless = {"perplexity": summed([[1e9, 1], [1e9, 1]], perplexity_of_sums)}
    found = compare(endless, endless, rows, other_of(rows), 0.95).metrics["perplexity"]
    assert found.interval is None
    assert found.p_value is None


def test_pairing_is_sharper_than_two_intervals() -> None:
    """The same rows are drawn for both, so what they have in common cancels out."""
    worse = rows_with([n % 2 == 0 for n in range(100)])
    better = rows_with([n % 2 == 0 or n % 20 == 1 for n in range(100)])
    low, high = intervals_of(measured(better), 100, 0.95)["accuracy"] or (0, 0)
    found = compare(measured(better), measured(worse), better, other_of(worse), 0.95)
    paired = found.metrics["accuracy"].interval or (0, 0)
    assert low < 0.5 < high
    assert paired[0] > 0


def test_other_rows_are_refused() -> None:
    rows = rows_with([True] * 4)
    ours = [(row.number, row.key) for row in rows]
    refuse_other_rows(other_of(rows), ours)
    changed = [*rows[:2], replace(rows[2], key="other"), rows[3]]
    with pytest.raises(DataError, match="1 rows only in this run, the first is row 3"):
        refuse_other_rows(other_of(changed), ours)
    with pytest.raises(DataError, match="in another order"):
        refuse_other_rows(other_of(rows[::-1]), ours)
    with pytest.raises(DataError, match="expected 4 rows, got 3"):
        refuse_other_rows(other_of(rows[:3]), ours)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[1]", "it has no rows"),
        ('{"rows": []}', "it has no rows"),
        ('{"rows": [1]}', r"rows\[0\]: expected an object, got int"),
        ('{"rows": [{"number": 1}]}', r"rows\[0\]: lacks key, prompt, reference"),
        ("PREDICTION", r"rows\[0\]: prediction: got int"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "other.json"
    if content == "PREDICTION":
        row = dict.fromkeys(("probability", "nll", "n_tokens"))
        row |= {"number": 1, "key": "", "prompt": "", "reference": "", "prediction": 3}  # type: ignore[dict-item]
        content = json.dumps({"rows": [row]})
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_run(path)
