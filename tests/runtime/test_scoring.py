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


@pytest.mark.parametrize("adapter", [None, "alpha"])
def test_tokens_are_greedy_where_generation_would_write_them(
    engine: Engine, adapter: str | None
) -> None:
    prompt = engine.tokenize(PROMPT)
    written = engine.generate(PROMPT, adapter=adapter, max_new_tokens=4).token_ids
    assert len(written) == 4
    other = [*written[:3], written[3] + 1]
    late, early, both = engine.score_tokens(
        [(prompt, written), ([*prompt, *written[:2]], written[2:]), (prompt, other)],
        adapter=adapter,
    )
    assert (late.is_greedy, early.is_greedy, both.is_greedy) == (True, True, False)
    expected = engine.token_log_probs([*prompt, *written], adapter=adapter)
    assert late.log_prob == pytest.approx(expected[-4:].sum(), abs=1e-3)
    assert early.log_prob == pytest.approx(expected[-2:].sum(), abs=1e-3)


def test_the_last_token_that_is_scored_needs_no_room(engine: Engine) -> None:
    tokens = (engine.tokenize(PROMPT) * engine.context_length)[: engine.context_length + 1]
    (score,) = engine.score_tokens([(tokens[:1], tokens[1:])])
    assert score.n_tokens == engine.context_length
    expected = engine.token_log_probs(tokens[:-1]).sum()
    last = engine.score_tokens([(tokens[:-1], tokens[-1:])])[0].log_prob
    assert score.log_prob == pytest.approx(expected + last, abs=0.05)
    with pytest.raises(GenerationError, match="too long for the context"):
        engine.score_tokens([(tokens, tokens[:1])])


def test_nothing_to_score_is_refused(engine: Engine) -> None:
    with pytest.raises(GenerationError, match=r"completions\[1\]: empty"):
        engine.score(PROMPT, ["a", ""])
    with pytest.raises(GenerationError, match="prompt: empty"):
        engine.score("", ["a"])
    with pytest.raises(GenerationError, match=r"pairs\[1\]: expected token ids before and behind"):
        engine.score_tokens([([1], [2]), ([1], [])])
    with pytest.raises(GenerationError, match="at least two token ids"):
        engine.token_log_probs([1])
    with pytest.raises(GenerationError, match="too long for the context"):
        engine.token_log_probs([5] * 5000)
