"""Options and the sampler."""

import threading

import numpy as np
import pytest

from edgekit_runtime import GenerationError
from edgekit_runtime.sampling import Options, Sampler, resolve_options, sampler_for


def test_every_bad_option_is_listed() -> None:
    with pytest.raises(GenerationError) as caught:
        resolve_options(
            {
                "max_new_tokens": 0,
                "temperature": -1,
                "top_k": 1.5,
                "top_p": 0,
                "repetition_penalty": float("nan"),
                "seed": True,
                "stop": "text",
                "timeout_s": 0,
                "cancel": 1,
                "temprature": 1,
            }
        )
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "temprature",
        "max_new_tokens",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "seed",
        "stop",
        "timeout_s",
        "cancel",
    ]
    assert "temprature: no such option; did you mean 'temperature'?" in caught.value.problems[0]


def test_later_layers_win_and_none_means_default() -> None:
    options = resolve_options(
        {"max_new_tokens": 16, "temperature": 0.5}, {"temperature": None, "seed": 3}, {"seed": 4}
    )
    assert (options.max_new_tokens, options.temperature, options.seed) == (16, 0.5, 4)
    assert resolve_options({}) == Options()


def test_a_turns_constraint_replaces_the_sessions() -> None:
    options = resolve_options({"regex": "a+"}, {"choices": ["x"]})
    assert options.constraint is not None and options.constraint.kind == "lark_grammar"


def test_two_constraints_at_once_are_refused() -> None:
    with pytest.raises(GenerationError, match="regex and choices: expected one of them, got 2"):
        resolve_options({"regex": "a", "choices": ["a"]})


def test_cancel_and_stop_pass() -> None:
    event = threading.Event()
    options = resolve_options({"cancel": event, "stop": ["a", "b"]})
    assert options.cancel is event and options.stop == ("a", "b")


def test_greedy_needs_no_sampler() -> None:
    assert sampler_for(Options()) is None
    assert sampler_for(Options(temperature=1)) is not None
    assert sampler_for(Options(temperature=5e-324)) is None  # nothing is left of it in float32
    assert sampler_for(Options(repetition_penalty=1.1)) is not None


def _draw(options: Options, logits: list[float], n: int = 4000) -> np.ndarray:
    sampler = Sampler(options)
    values, said = np.array(logits, dtype=np.float32), np.zeros(0, dtype=np.int32)
    picks = [int(sampler.adjust(values, said).argmax()) for _ in range(n)]
    return np.bincount(picks, minlength=len(logits)) / n


def test_samples_follow_the_softmax_at_the_temperature() -> None:
    logits = [2.0, 1.0, 0.0, -1.0]
    for temperature in (0.5, 1.0, 2.0):
        shares = _draw(Options(temperature=temperature, seed=1), logits)
        weights = np.exp(np.array(logits) / temperature)
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)


def test_top_k_and_top_p_rule_the_rest_out() -> None:
    logits = [3.0, 2.9, 2.8, -1.0]
    assert _draw(Options(temperature=1, top_k=2, seed=1), logits, 300)[2:].sum() == 0
    assert _draw(Options(temperature=1, top_p=0.3, seed=1), logits, 300)[1:].sum() == 0
    assert (_draw(Options(temperature=1, top_p=0.9, seed=1), logits, 300)[:3] > 0).all()


def test_ruled_out_tokens_keep_their_order() -> None:
    adjusted = Sampler(Options(temperature=1, top_k=1, seed=1)).adjust(
        np.array([5, 1, 3, 2], dtype=np.float32), np.zeros(0, dtype=np.int32)
    )
    assert np.argsort(-adjusted).tolist() == [0, 2, 3, 1]


def test_the_penalty_lowers_what_was_said() -> None:
    adjusted = Sampler(Options(repetition_penalty=2)).adjust(
        np.array([4, 3, -1], dtype=np.float32), np.array([0, 2, 2], dtype=np.int32)
    )
    assert adjusted.tolist() == [2, 3, -2]
