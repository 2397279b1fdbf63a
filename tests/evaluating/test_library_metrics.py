"""Our metrics against the libraries that define them, and what samples of rows give."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import f1_score, recall_score

from edgekit.evaluating.class_metrics import OTHER, confusion_of
from edgekit.evaluating.measuring import value_of
from edgekit.evaluating.metrics import METRICS, measure, score

TEXTS = [
    ("the cat sat on the mat", "the cat is on the mat"),
    ("a light rain fell in the night", "light rain fell during the night ."),
    ("nothing in common", "entirely different words here"),
    ("short", "a much longer reference than the answer"),
    ("exactly the same words\nin two lines", "exactly the same words\nin two lines"),
]
PREDICTIONS, REFERENCES = zip(*TEXTS, strict=True)


def labels_by_chance(count: int) -> tuple[list[str], list[str]]:
    rng = random.Random(3)
    names = ["a", "b", "c", "d"]
    right = rng.choices(names, weights=[8, 4, 2, 1], k=count)
    return [rng.choice([label, *names, "rubbish"]) for label in right], right


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1_is_scikit_learns(average: str) -> None:
    predictions, references = labels_by_chance(200)
    expected = f1_score(references, predictions, labels=["a", "b", "c", "d"], average=average)
    name = {"macro": "f1", "micro": "micro_f1"}[average]
    assert score([name], predictions, references)[name] == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_is_scikit_learns_mean_recall() -> None:
    predictions, references = labels_by_chance(200)
    expected = recall_score(
        references, predictions, labels=["a", "b", "c", "d"], average="macro", zero_division=0
    )
    got = score(["balanced_accuracy"], predictions, references)
    assert got["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)


def test_bleu_and_chrf_are_sacrebleus_as_shares() -> None:
    scores = score(["bleu", "chrf"], PREDICTIONS, REFERENCES)
    bleu = BLEU(force=True).corpus_score(list(PREDICTIONS), [list(REFERENCES)])
    chrf = CHRF().corpus_score(list(PREDICTIONS), [list(REFERENCES)])
    assert scores["bleu"] == pytest.approx(bleu.score / 100, abs=1e-12)
    assert scores["chrf"] == pytest.approx(chrf.score / 100, abs=1e-12)
    assert 0 < scores["bleu"] < 1


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores_mean_f(kind: str) -> None:
    scorer = RougeScorer([kind])
    each = [scorer.score(r, p)[kind].fmeasure for p, r in TEXTS]
    assert score([kind], PREDICTIONS, REFERENCES)[kind] == pytest.approx(np.mean(each), abs=1e-12)


def test_rouge_knows_words_of_every_script() -> None:
    # rouge-score's own tokenizer drops all but a-z and 0-9, which would make this 0.
    assert score(["rouge1"], ["Кошка сидит"], ["кошка спит"])["rouge1"] == 0.5


def test_an_empty_answer_scores_nothing() -> None:
    assert set(score(["bleu", "chrf", "rouge1"], [""], ["a word"]).values()) == {0.0}


def test_bleu_of_answers_under_four_words_is_nothing_as_the_reference_page_warns() -> None:
    assert score(["bleu", "chrf"], ["lost card"], ["lost card"]) == {"bleu": 0.0, "chrf": 1.0}


@pytest.mark.parametrize("name", METRICS)
def test_a_sample_scores_as_its_rows_written_out(name: str) -> None:
    predictions, references = labels_by_chance(12)
    if name not in {"accuracy", "exact_match", "balanced_accuracy", "f1", "micro_f1"}:
        predictions = [*PREDICTIONS, '{"a": 1, "b": 2}', "1"]
        references = [*REFERENCES, '{"a": 1, "c": 2}', "1.0"]
    counts = np.array([[row % 3 for row in range(len(references))]])
    rows = np.repeat(np.arange(len(references)), counts[0])
    written_out = score(
        [name], [predictions[row] for row in rows], [references[row] for row in rows]
    )
    measured = measure([name], predictions, references)[name]
    assert measured(counts)[0] == pytest.approx(written_out[name], abs=1e-12)
    assert value_of(measured, len(references)) == score([name], predictions, references)[name]


def test_the_confusion_matrix_counts_references_by_row() -> None:
    found = confusion_of(["x", "y", "y", "what"], ["x", "x", "y", "y "], ["x", "y", "z"])
    assert found.labels == ("x", "y")
    assert found.counts == ((1, 1, 0), (0, 1, 1))
    assert found.most_confused(5) == [("x", "y", 1), ("y", OTHER, 1)]
