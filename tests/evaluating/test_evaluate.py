"""One scoring code for a torch model and for a bundle."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.answers import tfidf_answers, with_shots
from edgekit.evaluating.evaluate import evaluate
from edgekit.evaluating.report import EvaluationReport
from edgekit.evaluating.subjects import torch_subject
from edgekit.evaluating.torch_scoring import continuation_log_probs, score_pairs
from edgekit.training.examples import Example
from edgekit.training.tokens import Question
from edgekit_runtime.errors import AdapterError
from tests.tiny_models import make_tiny_model

ROWS = [
    ("where is my card", "lost"),
    ("turn on the light", "light"),
    ("the card is lost", "lost"),
    ("the light in the kitchen", "light"),
]
RECIPE = {"prompt": "Q: {text}\nA:", "completion": " {answer}", "task": "classification"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four questions with one of two labels."""
    path = tmp_path_factory.mktemp("rows") / "test.csv"
    lines = ["text,answer", *(f"{text},{answer}" for text, answer in ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def on_device(built_tiny_bundle: Path, rows: str) -> EvaluationReport:
    return evaluate(data=rows, bundle=built_tiny_bundle, adapter="alpha")


@pytest.fixture(scope="module")
def in_torch(tiny_base: Path, alpha_adapter: Path, rows: str) -> EvaluationReport:
    return evaluate(data=rows, base=str(tiny_base), adapter=str(alpha_adapter))


def test_torch_and_bundle_score_the_same_rows_by_the_recorded_recipe(
    on_device: EvaluationReport, in_torch: EvaluationReport
) -> None:
    assert on_device.n_rows == in_torch.n_rows == 4
    assert set(on_device.metrics) == set(in_torch.metrics) == {"exact_match", "perplexity"}
    assert on_device.wrong[0]["prompt"] == in_torch.wrong[0]["prompt"] == "Q: where is my card\nA:"


def test_perplexity_of_bundle_and_torch_differs_by_quantization_only(
    on_device: EvaluationReport, in_torch: EvaluationReport
) -> None:
    ratio = on_device.metrics["perplexity"] / in_torch.metrics["perplexity"]
    # Random weights suffer more from int4 than trained ones; a wrong adapter is orders away.
    assert 0.2 < ratio < 5


def test_the_adapter_changes_what_is_measured(
    built_tiny_bundle: Path, rows: str, on_device: EvaluationReport
) -> None:
    base = evaluate(data=rows, bundle=built_tiny_bundle, recipe_of="alpha")
    assert base.adapter is None
    assert base.metrics["perplexity"] != pytest.approx(on_device.metrics["perplexity"], rel=0.01)


@pytest.mark.parametrize("where", ["bundle", "torch"])
def test_scored_labels_are_always_labels(
    where: str, built_tiny_bundle: Path, tiny_base: Path, rows: str
) -> None:
    subject: dict[str, Any] = (
        {"bundle": built_tiny_bundle} if where == "bundle" else {"base": str(tiny_base)}
    )
    report = evaluate(data=rows, recipe=RECIPE, method="labels", train=rows, **subject)
    assert report.method == "labels"
    assert {row["prediction"] for row in report.wrong} <= {"lost", "light"}
    # Both labels are there twice, and every answer is one of them.
    assert report.metrics["accuracy"] in {0.0, 0.25, 0.5, 0.75, 1.0}


def test_an_infinite_perplexity_is_null_in_json(on_device: EvaluationReport) -> None:
    metrics = {"exact_match": 0.5, "perplexity": math.inf}
    written = json.dumps(replace(on_device, metrics=metrics).to_dict(), allow_nan=False)
    assert json.loads(written)["metrics"] == {"exact_match": 0.5, "perplexity": None}


def test_few_shot_puts_solved_rows_of_every_label_first() -> None:
    known = [Example(place="", prompt=f"Q: {t}\nA:", completion=f" {a}") for t, a in ROWS]
    asked = with_shots([Example(place="", prompt="Q: x\nA:", completion=" lost")], known, 2)
    prompt = asked[0].prompt or ""
    assert prompt.endswith("\n\nQ: x\nA:")
    assert prompt.count("\n\n") == 2
    assert "A: lost" in prompt
    assert "A: light" in prompt


def test_the_baseline_learns_what_words_tell() -> None:
    known = [Example(place="", prompt=text, completion=f" {label}") for text, label in ROWS]
    answers = tfidf_answers(known, known)
    assert [row.prediction for row in answers] == [row.reference for row in answers]


def test_a_base_without_a_recipe_says_how_to_give_one(built_tiny_bundle: Path, rows: str) -> None:
    with pytest.raises(RecipeError, match="nothing says how a row becomes a prompt"):
        evaluate(data=rows, bundle=built_tiny_bundle, adapter="beta")


def test_few_shot_without_training_rows_is_refused(built_tiny_bundle: Path, rows: str) -> None:
    with pytest.raises(RecipeError, match="needs training rows"):
        evaluate(data=rows, bundle=built_tiny_bundle, adapter="alpha", method="few-shot")


def test_a_broken_template_is_refused(tiny_base: Path, rows: str) -> None:
    with pytest.raises(RecipeError, match="prompt"):
        evaluate(data=rows, base=str(tiny_base), recipe={"prompt": "Q {", "completion": "x"})


def test_unknown_weights_are_refused(tiny_base: Path, rows: str) -> None:
    recipe = {"prompt": "Q: {text}\nA:", "completion": " {answer}"}
    with pytest.raises(RecipeError, match="expected 'float' or 'target:NAME', got 'int4'"):
        evaluate(data=rows, base=str(tiny_base), recipe=recipe, weights="int4")


def test_a_field_that_the_data_lack_is_named(built_tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("question,answer\nwhere,lost\n", encoding="utf-8")
    with pytest.raises(DataError, match="text"):
        evaluate(data=str(path), bundle=built_tiny_bundle, adapter="alpha")


def test_an_unknown_adapter_names_the_near_ones(built_tiny_bundle: Path, rows: str) -> None:
    with pytest.raises(AdapterError, match="did you mean 'alpha'"):
        evaluate(data=rows, bundle=built_tiny_bundle, adapter="alpa")


def test_the_command_prints_the_report_as_json(
    built_tiny_bundle: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--bundle", str(built_tiny_bundle), "--adapter", "alpha", "--data", rows]
    assert main([*command, "--limit", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_rows"] == 2
    assert 0 <= report["metrics"]["exact_match"] <= 1


def test_the_command_wants_exactly_one_subject(
    rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--data", rows]) == 2
    assert "either --bundle or --base" in capsys.readouterr().err


def test_one_label_is_nothing_to_choose_from(built_tiny_bundle: Path, rows: str) -> None:
    recipe = RECIPE | {"labels": ["lost"]}
    with pytest.raises(RecipeError, match="at least two of them, got only 'lost'"):
        evaluate(data=rows, bundle=built_tiny_bundle, recipe=recipe, method="labels")


def test_a_run_is_compared_with_an_earlier_one(
    built_tiny_bundle: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--bundle", str(built_tiny_bundle), "--data", rows]
    one = str(tmp_path / "one.json")
    assert main([*command, "--adapter", "alpha", "--output", one]) == 0
    shown = capsys.readouterr().out
    assert "95% interval" in shown
    assert main([*command, "--recipe-of", "alpha", "--compare", one, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    trained = json.loads(Path(one).read_text(encoding="utf-8"))
    assert [row["number"] for row in trained["rows"]] == [1, 2, 3, 4]
    compared = report["comparison"]["metrics"]
    assert set(compared) == {"exact_match", "perplexity"}
    assert compared["perplexity"]["other"] == pytest.approx(trained["metrics"]["perplexity"])
    assert compared["perplexity"]["score"] == report["metrics"]["perplexity"]
    low, high = report["intervals"]["perplexity"]
    assert low <= report["metrics"]["perplexity"] <= high


def test_a_run_over_other_rows_is_refused_before_it_answers(
    built_tiny_bundle: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--bundle", str(built_tiny_bundle), "--adapter", "alpha", "--data", rows]
    one = str(tmp_path / "one.json")
    assert main([*command, "--limit", "2", "--output", one]) == 0
    assert main([*command, "--compare", one]) == 1
    assert "expected 4 rows, got 2" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_first(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--base", "nothing-here", "--data", rows]
    assert main([*command, "--output", str(tmp_path / "no" / "one.json")]) == 2
    assert "there is no directory" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--window", "8"]) == 2


@pytest.mark.parametrize("where", ["bundle", "torch"])
def test_classified_rows_say_how_likely_the_answer_is(
    where: str, built_tiny_bundle: Path, tiny_base: Path, rows: str
) -> None:
    subject: dict[str, Any] = (
        {"bundle": built_tiny_bundle} if where == "bundle" else {"base": str(tiny_base)}
    )
    report = evaluate(data=rows, recipe=RECIPE, method="classify", train=rows, **subject)
    assert {(row.prediction or "").strip() for row in report.rows} <= {"lost", "light"}
    assert all(0.5 <= (row.probability or 0) <= 1 for row in report.rows)
    assert report.confusion is not None and report.confusion.labels == ("light", "lost")


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "phi3"])
def test_torch_classifies_behind_a_prompt_longer_than_the_window(
    family: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = make_tiny_model(tmp_path / family, family)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    prompt, ends = [3 + i % 40 for i in range(90)], frozenset({0, 2})
    parts = [[5], [5, 9, 11, 20], [7, 8], *([30, i, 12] for i in range(4, 21))]
    expected = []
    for part in parts:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *part]])).logits[0]
        log_probs = logits[len(prompt) - 1 :].double().log_softmax(-1)
        own = sum(float(log_probs[place, token]) for place, token in enumerate(part))
        expected.append(own + float(torch.logsumexp(log_probs[-1, sorted(ends)], 0)))
    found = continuation_log_probs(model, prompt, parts, ends)
    assert found == pytest.approx(expected, abs=1e-4)


def test_pairs_are_scored_as_each_by_itself(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    pairs = [([5, 6, 7], [8, 9]), ([5], [6]), ([9, 8, 7, 6, 5, 4], [11, 12, 13])]
    expected = []
    with torch.inference_mode():
        for given, scored in pairs:
            logits = model(torch.tensor([[*given, *scored]])).logits[0, len(given) - 1 : -1]
            own = logits.double().log_softmax(-1)[range(len(scored)), scored]
            expected.append(float(own.sum()))
        likeliest = int(model(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    found = score_pairs(model, [*pairs, ([5, 6, 7], [likeliest])], pad_token_id=2)
    assert [log_prob for log_prob, _ in found[:3]] == pytest.approx(expected, abs=1e-4)
    assert [is_greedy for _, is_greedy in found] == [False, False, False, True]


def test_torch_classifies_by_every_label_and_its_end_in_full(tiny_base: Path) -> None:
    import torch

    labels = [" lost", " lost card", " light", " the payment was found"]
    with torch_subject(str(tiny_base), None) as subject:
        prompt = "Q: where is my card\nA:"
        ids = subject.tokenizer(prompt).input_ids
        question = Question(prompt=prompt, prompt_ids=tuple(ids), reference="lost")
        expected = []
        for label in labels:
            whole = subject.tokenizer(prompt + label).input_ids
            with torch.inference_mode():
                log_probs = subject.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            end = float(torch.logsumexp(log_probs[-1, sorted(subject.end_ids)], 0))
            written = range(len(ids), len(whole))
            expected.append(end + sum(float(log_probs[i - 1, whole[i]]) for i in written))
        shares = torch.tensor(expected).softmax(0)
        ((label, share),) = subject.classify([question], labels, done=lambda count: None)
    assert label == labels[int(shares.argmax())]
    assert share == pytest.approx(float(shares.max()), abs=1e-4)


def test_the_command_writes_a_page(
    built_tiny_bundle: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    command = ["eval", "--bundle", str(built_tiny_bundle), "--adapter", "alpha", "--data", rows]
    assert main([*command, "--limit", "2", "--html", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().err.replace("\n", "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
