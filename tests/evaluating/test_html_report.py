"""The page of an evaluation: whole, self-contained, and nothing in it is obeyed."""

from xml.etree import ElementTree

import numpy as np

from edgekit.evaluating.class_metrics import confusion_of
from edgekit.evaluating.comparing import Comparison, PairedDifference
from edgekit.evaluating.html_report import html_report, worst_rows
from edgekit.evaluating.pictures import draw_confusion, draw_scores
from edgekit.evaluating.report import EvaluationReport, wrong_rows
from edgekit.evaluating.rows import AnsweredRow
from tests.html_pages import tags_of

EVIL = "<script>alert('x')</script> & $x^2"


def row(number: int, prediction: str, *, probability: float | None = None) -> AnsweredRow:
    return AnsweredRow(
        number=number, key=f"k{number}", prompt=EVIL, reference="cost $5$", prediction=prediction,
        probability=probability, nll=float(number), n_tokens=2,
    )  # fmt: skip


ROWS = (row(1, "cost $5$", probability=0.9), row(2, EVIL, probability=0.7), row(3, "no"))


def report() -> EvaluationReport:
    texts = [r.prediction or "" for r in ROWS], [r.reference for r in ROWS]
    found = PairedDifference(
        score=0.5, other=0.25, difference=0.25, interval=(0.1, 0.4), p_value=0.01, test="mcnemar"
    )
    return EvaluationReport(
        subject="bundle b", adapter="alpha", method="classify", data="test.csv", n_rows=3,
        n_too_long=1, metrics={"accuracy": 1 / 3, "perplexity": 7.5}, losses={}, confidence=0.95,
        intervals={"accuracy": (0.0, 0.75), "perplexity": None},
        confusion=confusion_of(*texts, ["cost $5$", "no"]), seconds=1.0, wrong=wrong_rows(ROWS),
        rows=ROWS, comparison=Comparison(path="o.json", other=EVIL, metrics={"accuracy": found}),
    )  # fmt: skip


def test_the_page_shows_scores_pictures_and_rows_and_obeys_nothing() -> None:
    page = html_report(report())
    assert tags_of(page).count("svg") == 4  # scores, differences, confusion, reliability
    for told in ("0.3333", "0.0000 to 0.7500", "unknown", "+0.2500", "1 rows over the context"):
        assert told in page


def test_the_same_report_is_the_same_page() -> None:
    assert html_report(report()) == html_report(report())


def test_a_picture_names_labels_as_they_are() -> None:
    svg = draw_confusion(confusion_of(["a $x$", "<b>"], ["a $x$", "<b>"]))
    text = "".join(ElementTree.fromstring(svg).itertext())
    assert "a $x$" in text
    assert "<b>" in text


def test_of_many_labels_the_most_confused_are_shown() -> None:
    names = [f"label{n:02}" for n in range(60)]
    guesses = [names[(n + 1) % 60] if n >= 50 else name for n, name in enumerate(names)]
    text = "".join(ElementTree.fromstring(draw_confusion(confusion_of(guesses, names))).itertext())
    assert all(name in text for name in names[50:])
    assert "label49" not in text


def test_nothing_finite_is_no_picture() -> None:
    assert draw_scores({"own": np.inf}, {"own": None}, "score") == ""


def test_the_surest_mistakes_come_first() -> None:
    rows = [*ROWS, row(4, "yes", probability=0.99), row(9, "so")]
    assert [found.number for found in worst_rows(rows, 3)] == [4, 2, 9]
