"""Perplexity of texts longer than the context."""

import math
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.evaluate import evaluate
from edgekit.evaluating.subjects import torch_subject
from edgekit.evaluating.windows import check_window, windows_of
from edgekit.training.tokens import IGNORED, TokenizedExample


@pytest.mark.parametrize("n_learnt", [100, 60, 1])
@pytest.mark.parametrize(("window", "stride"), [(2, 1), (16, 4), (16, 15), (64, 32), (200, 100)])
def test_every_learnt_token_is_scored_once_with_enough_before_it(
    window: int, stride: int, n_learnt: int
) -> None:
    ids = tuple(range(100))
    labels = (IGNORED,) * (100 - n_learnt) + ids[100 - n_learnt :]
    cut = windows_of(TokenizedExample(input_ids=ids, labels=labels), window, stride)
    scored = [label for piece in cut for label in piece.labels if label != IGNORED]
    assert scored == [token for token in labels if token not in {IGNORED, 0}]
    for piece in cut:
        assert len(piece.input_ids) == len(piece.labels) <= window
        first = next(i for i, label in enumerate(piece.labels) if label != IGNORED)
        assert piece.input_ids[first] == piece.labels[first]
        assert first >= (1 if piece.input_ids[0] == 0 else min(window - stride, 1))


def test_a_sequence_of_one_token_has_nothing_to_score() -> None:
    assert windows_of(TokenizedExample(input_ids=(5,), labels=(5,)), 8, 4) == []


def test_windows_that_make_no_sense_are_refused_together() -> None:
    assert check_window(None, None, 64) == (64, 32)
    with pytest.raises(RecipeError) as caught:
        check_window(65, 70, 64)
    assert len(caught.value.problems) == 2
    with pytest.raises(RecipeError, match="stride: expected 1 to 7"):
        check_window(8, 8, 64)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One text over the context of the tiny model, one below it."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    long = "the card is lost and the light is on " * 40
    path.write_text(f'{{"text": "{long}"}}\n{{"text": "where is my card"}}\n', encoding="utf-8")
    return str(path)


def test_torch_reads_a_long_text_as_hugging_face_describes(tiny_base: Path, texts: str) -> None:
    report = evaluate(
        data=texts, base=str(tiny_base), recipe={"text_template": "{text}"},
        method="perplexity", window=32, stride=20, limit=1,
    )  # fmt: skip
    total, count = _described(tiny_base, report.rows[0].prompt, window=32, stride=20)
    assert report.rows[0].n_tokens == count > 200
    assert report.metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert set(report.metrics) == {"perplexity"}


def _described(base: Path, text: str, *, window: int, stride: int) -> tuple[float, int]:
    """The loop of transformers' documentation, loss by the model's own labels."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
    total, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : begin and before - begin] = -100
        n = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(ids[:, begin:end], labels=labels).loss) * n
        count, before = count + n, end
        if end == ids.shape[1]:
            break
    return total, count


def test_a_bundle_reads_by_windows_too(
    built_tiny_bundle: Path, tiny_base: Path, texts: str
) -> None:
    options: dict[str, Any] = {
        "data": texts, "recipe": {"text_template": "{text}"}, "method": "perplexity",
        "window": 64, "stride": 48,
    }  # fmt: skip
    on_device = evaluate(bundle=built_tiny_bundle, **options)
    in_torch = evaluate(base=str(tiny_base), **options)
    assert [row.n_tokens for row in on_device.rows] == [row.n_tokens for row in in_torch.rows]
    assert 0.2 < on_device.metrics["perplexity"] / in_torch.metrics["perplexity"] < 5


def test_other_metrics_of_what_is_only_read_are_refused(tiny_base: Path, texts: str) -> None:
    with pytest.raises(RecipeError, match="generates no answers"):
        evaluate(
            data=texts, base=str(tiny_base), recipe={"text_template": "{text}"},
            method="perplexity", metrics=["accuracy"],
        )  # fmt: skip


def test_texts_without_a_second_token_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    with torch_subject(str(tiny_base), None) as subject:
        end = subject.tokenizer.eos_token
    path.write_text(f"text\n{end}\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row has a token to score"):
        evaluate(
            data=str(path), base=str(tiny_base), recipe={"text_template": "{text}"},
            method="perplexity",
        )  # fmt: skip


def test_likelihoods_of_a_batch_are_those_of_each_row_alone(tiny_base: Path) -> None:
    import torch

    rows = [
        TokenizedExample(
            input_ids=tuple(3 + i % 50 for i in range(length)),
            labels=tuple(IGNORED if i < prompt else 3 + i % 50 for i in range(length)),
        )
        for length, prompt in ((9, 4), (1, 0), (30, 29), (2, 0), (700, 200), (500, 500), (12, 1))
    ]
    with torch_subject(str(tiny_base), None) as subject:
        wanted = [[i for i, label in enumerate(row.labels) if i and label >= 0] for row in rows]
        alone = []
        for row, ones in zip(rows, wanted, strict=True):
            with torch.inference_mode():
                logits = subject.model(torch.tensor([row.input_ids])).logits[0].double()
            log_probs = logits.log_softmax(-1)
            alone.append(-sum(float(log_probs[i - 1, row.input_ids[i]]) for i in ones))
        found = subject.nll_of_each(rows)
        total, count = subject.nll(rows)
    assert [count for _, count in found] == [5, 0, 1, 1, 500, 0, 11]
    assert [nll for nll, _ in found] == pytest.approx(alone, rel=1e-5)
    assert total == pytest.approx(sum(alone), rel=1e-5) and count == 518
