"""Metrics: each by a case that can be checked by hand."""

import math

import pytest

from edgekit.errors import RecipeError
from edgekit.evaluating.class_metrics import balanced_accuracy, exact_match, f1, micro_f1
from edgekit.evaluating.json_metrics import field_f1, json_exact, json_valid
from edgekit.evaluating.metrics import default_metrics, perplexity_of, score


def test_exact_match_ignores_white_space_at_the_ends_only() -> None:
    assert exact_match([" a", "b c\n", "b  c", "A"], ["a ", "b c", "b c", "a"]) == 0.5


def test_f1_is_the_mean_over_classes() -> None:
    # x: precision 1/2, recall 1 -> 2/3; y: precision 1, recall 1/2 -> 2/3.
    assert f1(["x", "x", "y"], ["x", "y", "y"]) == pytest.approx(2 / 3)


def test_f1_counts_a_prediction_that_is_no_label_as_wrong() -> None:
    # x: recall 1/2, precision 1 -> 2/3; y: 1. What is no label makes no class of its own.
    assert f1(["x", "rubbish", "y"], ["x", "x", "y"], ["x", "y"]) == pytest.approx(5 / 6)


def test_f1_leaves_out_labels_that_a_sample_does_not_touch() -> None:
    assert f1(["x"], ["x"], ["x", "y", "z"]) == 1.0


def test_f1_counts_a_wrongly_guessed_label() -> None:
    # y occurs only as a wrong guess: its F1 is 0.
    assert f1(["x", "y"], ["x", "x"], ["x", "y"]) == pytest.approx((2 / 3 + 0) / 2)


def test_micro_f1_counts_what_is_no_label_as_missed() -> None:
    # 2 right, of 2 labels guessed and 3 expected: 2 * 2 / (2 + 3).
    assert micro_f1(["x", "rubbish", "y"], ["x", "x", "y"], ["x", "y"]) == pytest.approx(4 / 5)


def test_balanced_accuracy_weighs_a_rare_class_like_a_common_one() -> None:
    # x: recall 3/3, y: 0/1; the plain share would be 3/4. Rubbish makes no class of its own.
    assert balanced_accuracy(["x", "x", "x ", "rubbish"], ["x", "x", "x", "y"]) == 0.5


def test_json_valid_takes_json_and_nothing_else() -> None:
    assert json_valid(['{"a": 1}', "[1]", "{a: 1}", "NaN"], [""] * 4) == 0.5


def test_json_exact_ignores_the_order_of_keys_but_not_of_items() -> None:
    predictions = ['{"b": [1, 2], "a": 1.0}', '{"a": 1, "b": [2, 1]}', "no"]
    assert json_exact(predictions, ['{"a": 1, "b": [1, 2]}'] * 3) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("prediction", "reference"), [("true", "1"), ("0", "false")])
def test_json_exact_tells_truth_from_numbers(prediction: str, reference: str) -> None:
    assert json_exact([prediction], [reference]) == 0.0


def test_field_f1_is_micro_over_pairs() -> None:
    # 2 of 3 predicted pairs are right, of 2 + 2 expected: 2 * 2 / (3 + 4).
    predictions = ['{"a": 1, "b": 2, "c": 3}', "not json"]
    references = ['{"a": 1, "b": 2}', '{"a": 1, "b": null}']
    assert field_f1(predictions, references) == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("texts", "expected"), [(["{}"], 1.0), (["garbage"], 0.0), (["{}", "garbage"], 0.0)]
)
def test_field_f1_without_a_field_is_perfect_only_for_empty_objects(
    texts: list[str], expected: float
) -> None:
    assert field_f1(texts, texts) == expected


def test_field_f1_looks_into_nested_values() -> None:
    assert field_f1(['{"a": {"b": [1, 2]}}'], ['{"a": {"b": [2, 3]}}']) == pytest.approx(0.5)


def test_score_gives_every_metric_by_its_name() -> None:
    assert score(["accuracy", "f1"], ["x"], ["x"], ["x", "y"]) == {"accuracy": 1.0, "f1": 1.0}


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'acuracy': did you mean 'accuracy'"):
        score(["acuracy"], ["x"], ["x"])


@pytest.mark.parametrize(("predictions", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_lengths_have_to_agree(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match="one prediction for each reference"):
        exact_match(predictions, references)


def test_each_task_has_metrics() -> None:
    assert default_metrics("classification") == ("accuracy", "f1")
    assert default_metrics("extraction") == ("exact_match", "field_f1", "json_valid")
    assert default_metrics("summarization") == ("rouge1", "rouge2", "rougeL")
    assert default_metrics(None) == ("exact_match",)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert perplexity_of(10 * math.log(7), 10) == pytest.approx(7)


def test_perplexity_may_be_infinite() -> None:
    assert perplexity_of(1e6, 1) == math.inf
