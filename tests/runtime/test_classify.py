"""Label trees against every label scored in full."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime import Bundle, Engine, GenerationError
from edgekit_runtime.classifying import check_labels, completions_of, label_log_probs
from edgekit_runtime.decoder import Decoder
from tests.runtime.bundle_edits import replace_file

PROMPT = "Q: where is the card\nA:"
# Some begin alike, and one is the beginning of another.
LABELS = [" lost", " lost card", " lost light", " light", " light on", " the payment was found"]


def in_full(engine: Engine, adapter: str | None, labels: Sequence[str]) -> dict[str, float]:
    """Every label and its end scored by itself, from the beginning."""
    prompt = engine.tokenize(PROMPT)
    found = {}
    for label in labels:
        tokens = engine.tokenize(PROMPT + label)
        assert tokens[: len(prompt)] == prompt
        ends = [
            float(engine.token_log_probs([*tokens, end], adapter=adapter)[-1])
            for end in engine._loaded.tokenizer().eos_ids
        ]
        own = engine.token_log_probs(tokens, adapter=adapter)[len(prompt) - 1 :].sum()
        found[label] = float(own + np.logaddexp.reduce(ends))
    return found


@pytest.mark.parametrize("adapter", [None, "alpha", "beta"])
def test_the_tree_equals_every_label_scored_in_full(engine: Engine, adapter: str | None) -> None:
    expected = in_full(engine, adapter, LABELS)
    found = engine.classify(prompt=PROMPT, labels=LABELS, adapter=adapter)
    total = sum(math.exp(value) for value in expected.values())
    for label, value in expected.items():
        assert found.probabilities[label] == pytest.approx(math.exp(value) / total, abs=1e-3)
    assert found.coverage == pytest.approx(total, rel=1e-2)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.label == str(found) == next(iter(found.probabilities))
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)


class Counted:
    """A decoder that counts the tokens that it runs."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.n_run = 0

    def append(self, tokens: Sequence[int]) -> None:
        self.n_run += len(tokens)
        self._decoder.append(tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def test_the_prompt_is_run_once_and_shared_tokens_once(engine: Engine) -> None:
    prompt = engine.tokenize(PROMPT)
    parts = [engine.tokenize(PROMPT + label)[len(prompt) :] for label in LABELS]
    nodes = {tuple(part[:n]) for part in parts for n in range(1, len(part) + 1)}
    decoder = Counted(engine._loaded.decoder(adapter="alpha", capacity_tokens=64))
    label_log_probs(decoder, prompt, parts, frozenset({0}))  # type: ignore[arg-type]
    decoder.close()
    assert len(prompt) < decoder.n_run <= len(prompt) + len(nodes)
    assert len(nodes) < sum(map(len, parts))


class Sure:
    """Stands for a trained model: after any token, one token is nearly certain."""

    def __init__(self, next_of: dict[int, int], n_vocabulary: int) -> None:
        self._next_of, self._n_vocabulary = next_of, n_vocabulary
        self.tokens: list[int] = []
        self.n_run = 0

    def append(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        self.n_run += len(tokens)

    def rewind(self, n_tokens: int) -> None:
        del self.tokens[n_tokens:]

    def logits(self) -> Any:
        values = np.zeros(self._n_vocabulary, np.float32)
        values[self._next_of.get(self.tokens[-1], 0)] = 40
        return values


def test_labels_that_are_out_of_the_question_are_not_run() -> None:
    sure = Sure({1: 5, 5: 6, 6: 0}, 100)
    labels = [[token, 6] for token in range(2, 90)]
    found = label_log_probs(sure, [1], labels, frozenset({0}))  # type: ignore[arg-type]
    assert sure.n_run == 3  # the prompt, and the two tokens of the likely label
    assert max(range(len(found)), key=found.__getitem__) == labels.index([5, 6])
    assert max(found) == pytest.approx(0, abs=1e-6)
    assert all(value < -12 for value in sorted(found)[:-1])


def test_a_label_may_be_longer_than_a_call_stack() -> None:
    sure = Sure({}, 10)
    found = label_log_probs(sure, [1], [[2] * 3000, [3]], frozenset({0}))  # type: ignore[arg-type]
    assert found[1] > found[0] > -math.inf


def test_the_text_fills_the_adapters_template(engine: Engine) -> None:
    labels = ["lost", "found"]
    by_text = engine.classify("where is the card", labels, adapter="alpha")
    by_inputs = engine.classify(
        inputs={"text": "where is the card"}, labels=labels, adapter="alpha"
    )
    # Its completions begin with a space, and so do the labels.
    by_prompt = engine.classify(prompt=PROMPT, labels=[" lost", " found"], adapter="alpha")
    assert by_text == by_inputs
    assert set(by_text.probabilities) == set(labels)
    assert by_text.probabilities["lost"] == by_prompt.probabilities[" lost"]


def test_labels_begin_as_the_completions_do() -> None:
    assert completions_of(["a", " b"], " {label}") == [" a", " b"]
    assert completions_of(["a"], "{label}") == completions_of(["a"], None) == ["a"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("yes", "expected a list, got str"),
        (["yes"], "at least two, got 1"),
        ([], "at least two, got 0"),
        (["yes", "yes"], r"labels\[1\]: 'yes' is there twice"),
        (["yes", " "], r"labels\[1\]: empty"),
        (["yes", 1], r"labels\[1\]: expected str, got int"),
    ],
)
def test_what_is_no_set_of_labels_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        check_labels(labels)


def test_a_request_that_cannot_be_run_says_why(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="the base records no labels"):
        engine.classify("text")
    with pytest.raises(GenerationError, match="adapter 'alpha' records no labels"):
        engine.classify("text", adapter="alpha")
    with pytest.raises(GenerationError, match="exactly one of text, prompt, messages and inputs"):
        engine.classify("text", ["a", "b"], prompt="other")
    with pytest.raises(GenerationError, match="too long for the context"):
        engine.classify(prompt="card " * 5000, labels=["a", "b"])


def test_recorded_labels_are_the_default(bundle_copy: Path) -> None:
    path = "adapters/alpha/adapter.json"
    card = json.loads((bundle_copy / path).read_bytes())
    card["recipe"]["labels"] = ["lost", "light"]
    replace_file(bundle_copy, path, json.dumps(card).encode())
    with Bundle.open(bundle_copy, cache_dir=None).engine(threads=1) as engine:
        found = engine.classify("where is the card", adapter="alpha")
        given = engine.classify("where is the card", ["light", "lost"], adapter="alpha")
    assert found.probabilities == pytest.approx(given.probabilities)
