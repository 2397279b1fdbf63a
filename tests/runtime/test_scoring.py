"""Scores of given text."""

import numpy as np
import pytest

from edgekit_runtime import Engine, GenerationError
from edgekit_runtime.scoring import split_completion

PROMPT = "Q: where is the card\nA:"


@pytest.mark.parametrize("adapter", [None, "alpha"])
def test_a_score_is_the_sum_of_its_tokens_log_probabilities(
    engine: Engine, adapter: str | None
) -> None:
    completions = [" lost", " the light was on", " no"]
    for completion, score in zip(
        completions, engine.score(PROMPT, completions, adapter=adapter), strict=True
    ):
        tokens = engine.tokenize(PROMPT + completion)
        log_probs = engine.token_log_probs(tokens, adapter=adapter)
        assert score.log_prob == pytest.approx(log_probs[-score.n_tokens :].sum(), abs=1e-3)
        assert score.n_tokens == len(tokens) - len(engine.tokenize(PROMPT))


def test_the_greedy_token_is_the_likeliest(engine: Engine) -> None:
    prompt = engine.tokenize(PROMPT)
    greedy = engine.generate(PROMPT, adapter="beta", max_new_tokens=1).token_ids[0]
    scores = [
        engine.token_log_probs([*prompt, token], adapter="beta")[-1]
        for token in (greedy, *range(60, 80))
    ]
    assert int(np.argmax(scores)) == 0


def test_probabilities_of_all_next_tokens_sum_to_one(engine: Engine) -> None:
    decoder = engine._loaded.decoder(adapter="beta", capacity_tokens=64, kind="score")
    decoder.append(engine.tokenize(PROMPT))
    n_vocabulary = len(decoder.logits())
    decoder.close()
    if n_vocabulary > 2000:
        pytest.skip("needs a small vocabulary")
    prompt = engine.tokenize("Q:")
    total = sum(
        np.exp(engine.token_log_probs([*prompt, token], adapter="beta")[-1])
        for token in range(n_vocabulary)
    )
    assert total == pytest.approx(1, abs=1e-3)


def test_an_adapter_changes_the_scores(engine: Engine) -> None:
    tokens = engine.tokenize("the card is lost and the payment was not found")
    base = engine.token_log_probs(tokens)
    assert np.abs(base - engine.token_log_probs(tokens, adapter="alpha")).max() > 0.1


def test_long_texts_are_scored_by_pieces_with_the_same_result(engine: Engine) -> None:
    tokens = (engine.tokenize("the card is lost and the light is on ") * 20)[:300]
    whole = engine.token_log_probs(tokens)
    assert len(whole) == 299
    np.testing.assert_allclose(whole[:50], engine.token_log_probs(tokens[:51]), atol=1e-4)


def test_a_token_across_the_border_counts_to_the_completion() -> None:
    assert split_completion([1, 2, 3], [1, 2, 3, 4]) == ([1, 2, 3], [4])
    assert split_completion([1, 2, 3], [1, 2, 9, 4]) == ([1, 2], [9, 4])
    assert split_completion([1], [7]) == ([7], [])


def test_nothing_to_score_is_refused(engine: Engine) -> None:
    with pytest.raises(GenerationError, match=r"completions\[1\]: empty"):
        engine.score(PROMPT, ["a", ""])
    with pytest.raises(GenerationError, match="prompt: empty"):
        engine.score("", ["a"])
    with pytest.raises(GenerationError, match="at least two token ids"):
        engine.token_log_probs([1])
    with pytest.raises(GenerationError, match="too long for the context"):
        engine.token_log_probs([5] * 5000)
