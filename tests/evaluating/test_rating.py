"""Blind sheets: nobody sees whose answer is whose, and the key finds it again."""

import csv
import json
import re
from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.evaluating.rating_sheet import Key, Pair, csv_sheet, html_sheet, make_sheet
from edgekit.evaluating.ratings import rate, read_key
from edgekit.evaluating.rows import AnsweredRow

N_ROWS = 40


def run(prefix: str) -> list[AnsweredRow]:
    """Answers that say whose they are; every tenth is the same in every run."""
    return [
        AnsweredRow(
            number=n, key=f"k{n}", prompt=f"<b>ask</b> {n}", reference="=1+1",
            prediction="same" if n % 10 == 0 else f"={prefix} {n}",
        )
        for n in range(1, N_ROWS + 1)
    ]  # fmt: skip


def sheet_of() -> tuple[list[Pair], Key]:
    return make_sheet(run("mine"), run("theirs"), "run-new", "run-old")


def filled(path: Path, ratings: dict[int, str], sheet: str) -> Path:
    """What the button of a page saves."""
    lines = [f"{sheet},{number},{rating}" for number, rating in ratings.items()]
    path.write_text("\n".join(["sheet,number,rating", *lines]) + "\n", encoding="utf-8")
    return path


def test_sides_are_by_chance_and_the_key_tells_them_apart() -> None:
    pairs, key = sheet_of()
    assert key.n_equal == 4
    assert len(pairs) == 36
    for pair in pairs:
        assert pair.a.startswith("=mine") == (key.a[pair.number] == "this")
        assert {pair.a, pair.b} == {f"=mine {pair.number}", f"=theirs {pair.number}"}
    assert 8 < sum(who == "this" for who in key.a.values()) < 28
    assert [pair.number for pair in pairs] != sorted(pair.number for pair in pairs)
    assert sheet_of() == (pairs, key)


def test_the_sheets_do_not_say_whose_an_answer_is() -> None:
    pairs, key = sheet_of()
    for text in (csv_sheet(pairs, key.sheet), html_sheet(pairs, key.sheet)):
        assert "run-new" not in text
        assert "run-old" not in text


def test_a_spreadsheet_takes_no_answer_for_a_formula() -> None:
    pairs, key = sheet_of()
    rows = list(csv.DictReader(csv_sheet(pairs, key.sheet).splitlines()))
    assert len(rows) == 36
    assert all(not row[name].startswith("=") for row in rows for name in row)


def test_the_page_has_three_choices_a_row_and_shows_markup_as_text() -> None:
    pairs, key = sheet_of()
    page = html_sheet(pairs, key.sheet)
    assert len(re.findall(r'type="radio" name="row\d+"', page)) == 3 * 36
    assert "<b>ask</b>" not in page
    assert f'data-sheet="{key.sheet}"' in page


def test_ratings_are_counted_for_the_run_that_gave_the_answer(tmp_path: Path) -> None:
    pairs, key = sheet_of()
    numbers = [pair.number for pair in pairs]
    mine = {n: "a" if key.a[n] == "this" else "b" for n in numbers[:20]}
    theirs = {n: "B" if key.a[n] == "this" else "A" for n in numbers[20:25]}
    ratings = mine | theirs | dict.fromkeys(numbers[25:30], "tie") | dict.fromkeys(numbers[30:], "")
    report = rate(filled(tmp_path / "r.csv", ratings, key.sheet), key, 0.95)
    found = (report.n_this, report.n_other, report.n_ties, report.n_equal, report.n_unrated)
    assert found == (20, 5, 5, 4, 6)
    assert report.win_rate == 0.8
    # Clopper and Pearson for 20 of 25, and a coin that falls 20 times or more on one side.
    assert report.interval == pytest.approx((0.59296, 0.93169), abs=1e-4)
    assert report.p_value == pytest.approx(0.00407, abs=1e-4)


def test_a_sheet_without_a_winner_has_no_win_rate(tmp_path: Path) -> None:
    _, key = sheet_of()
    report = rate(filled(tmp_path / "r.csv", {}, key.sheet), key, 0.95)
    assert (report.win_rate, report.interval, report.p_value) == (None, None, None)
    assert report.n_unrated == 36


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("number,rating\n1,a\n", "lacks the column 'sheet'"),
        ("sheet,number,rating\nother,1,a\n", "is of the sheet 'other'"),
        ("sheet,number,rating\nSHEET,10,a\n", "no row '10' on the sheet"),
        ("sheet,number,rating\nSHEET,x,a\n", "no row 'x' on the sheet"),
        ("sheet,number,rating\nSHEET,1,c\n", "expected a, b, tie or nothing, got 'c'"),
        ("sheet,number,rating\nSHEET,1,a\nSHEET,1,b\n", "row 1 is there twice"),
        ("", "lacks the column 'sheet'"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, content: str, message: str) -> None:
    _, key = sheet_of()
    path = tmp_path / "r.csv"
    path.write_text(content.replace("SHEET", key.sheet), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        rate(path, key, 0.95)


@pytest.mark.parametrize("content", ["{", "[]", '{"sheet": "x"}', '{"a": {"1": "me"}}'])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is no key of a rating sheet"):
        read_key(path)


def test_equal_runs_have_nothing_to_rate() -> None:
    with pytest.raises(DataError, match="both runs answered every row alike"):
        make_sheet(run("one"), run("one"), "one", "two")


def test_from_two_runs_to_a_count(
    built_tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, one, sheet = tmp_path / "d.csv", tmp_path / "one.json", tmp_path / "sheet.csv"
    data.write_text("text,answer\nwhere is my card,lost\nthe light is on,light\n", encoding="utf-8")
    command = ["eval", "--bundle", str(built_tiny_bundle), "--data", str(data)]
    assert main([*command, "--adapter", "alpha", "--output", str(one)]) == 0
    base = [*command, "--recipe-of", "alpha", "--rating-sheet"]
    assert main([*base, str(sheet)]) == 2
    assert main([*base, "sheet.txt", "--compare", str(one)]) == 2
    assert main([*base, str(sheet), "--compare", str(one)]) == 0
    rows = list(csv.DictReader(sheet.read_text(encoding="utf-8").splitlines()))
    filled(tmp_path / "r.csv", {int(row["number"]): "a" for row in rows}, rows[0]["sheet"])
    capsys.readouterr()
    key = str(tmp_path / "sheet.csv.key.json")
    assert main(["ratings", str(tmp_path / "r.csv"), "--key", key, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_this"] + report["n_other"] == len(rows) >= 1
    assert main(["ratings", str(tmp_path / "r.csv"), "--key", key]) == 0
    assert "win rate" in capsys.readouterr().out
    assert main(["ratings", str(tmp_path / "r.csv")]) == 1
    assert "name it with --key" in capsys.readouterr().err
