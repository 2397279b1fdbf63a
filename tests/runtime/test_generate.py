"""Answers of the engine: choice of graph, options, stops, cancellation, errors."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import AdapterError, Bundle, Engine, Generation, GenerationError
from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder

PROMPT = "Q: where is the card\nA:"
# The tiny model says bytes that are no text; this makes it say letters.
LETTERS: dict[str, Any] = {"regex": "[a-e]{60}", "temperature": 1.0, "seed": 5}


def _tokens(engine: Engine, adapter: str | None, **options: Any) -> tuple[int, ...]:
    return engine.generate(PROMPT, adapter=adapter, max_new_tokens=12, **options).token_ids


def test_base_and_adapters_answer_differently(engine: Engine) -> None:
    answers = {_tokens(engine, adapter) for adapter in (None, "alpha", "beta")}
    assert len(answers) == 3


def test_no_adapter_is_the_base_graph_and_equals_empty_sockets(engine: Engine) -> None:
    prompt = engine.tokenize(PROMPT)
    decoder = engine._loaded.decoder(adapter=None, capacity_tokens=64, kind="model")
    decoder.append(prompt)
    assert tuple(decoder.next() for _ in range(12)) == _tokens(engine, None)
    decoder.close()


def test_a_to_b_to_a_is_a(engine: Engine) -> None:
    first = {adapter: _tokens(engine, adapter) for adapter in (None, "alpha", "beta")}
    for adapter in ("beta", None, "alpha", "beta", "alpha", None):
        assert _tokens(engine, adapter) == first[adapter]


def test_a_generation_tells_what_happened(engine: Engine) -> None:
    answer = engine.generate(PROMPT, adapter="alpha", max_new_tokens=5)
    assert (answer.finish_reason, answer.adapter, len(answer.token_ids)) == ("length", "alpha", 5)
    assert answer.usage.prompt_tokens == len(engine.tokenize(PROMPT))
    assert answer.usage.completion_tokens == 5
    assert answer.timings.ttft_ms is not None
    assert 0 < answer.timings.ttft_ms <= answer.timings.total_ms
    assert answer.timings.prefill_tokens_per_s and answer.timings.decode_tokens_per_s
    assert str(answer) == answer.text
    assert json.loads(json.dumps(answer.to_dict()))["usage"]["completion_tokens"] == 5


def test_a_stream_yields_the_text_and_keeps_the_answer(engine: Engine) -> None:
    stream = engine.stream(PROMPT, max_new_tokens=60, **LETTERS)
    with pytest.raises(GenerationError, match="the answer is not complete"):
        _ = stream.result
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.result.text


def test_the_adapters_defaults_apply_unless_overridden(engine: Engine) -> None:
    default = engine.bundle.adapter_card("alpha").defaults["max_new_tokens"]
    assert (
        len(
            engine.generate(
                PROMPT,
                adapter="alpha",
            ).token_ids
        )
        <= default
    )
    assert len(engine.generate(PROMPT, adapter="alpha", max_new_tokens=3).token_ids) == 3


def test_inputs_fill_the_recorded_template(engine: Engine) -> None:
    filled = engine.generate(inputs={"text": "hello"}, adapter="alpha")
    assert filled.token_ids == engine.generate("Q: hello\nA:", adapter="alpha").token_ids


def test_messages_go_through_the_chat_template(engine: Engine) -> None:
    messages = [{"role": "user", "content": "hello"}]
    rendered = engine.apply_chat_template(messages)
    assert "hello" in rendered and rendered.endswith("<|im_start|>assistant\n")
    chatted = engine.generate(messages=messages, max_new_tokens=4)
    assert chatted.token_ids == engine.generate(rendered, max_new_tokens=4).token_ids


@pytest.mark.parametrize("adapter", [None, "alpha"])
def test_the_same_seed_gives_the_same_text(engine: Engine, adapter: str | None) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.1}
    first = _tokens(engine, adapter, seed=7, **options)
    assert _tokens(engine, adapter, seed=7, **options) == first
    assert _tokens(engine, adapter, seed=8, **options) != first


def test_without_a_seed_sampling_varies(engine: Engine) -> None:
    assert len({_tokens(engine, None, temperature=1.5) for _ in range(4)}) > 1


def test_temperature_zero_is_greedy_whatever_the_seed(engine: Engine) -> None:
    assert _tokens(engine, None, temperature=0, seed=1) == _tokens(engine, None)


def test_top_k_one_is_greedy(engine: Engine) -> None:
    assert _tokens(engine, "beta", temperature=2.0, top_k=1) == _tokens(engine, "beta")


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    whole = engine.generate(PROMPT, **LETTERS).text
    for start, end in ((7, 9), (20, 25), (33, 34)):
        stop = whole[start:end]
        answer = engine.generate(PROMPT, stop=[stop, "unused"], **LETTERS)
        assert answer.finish_reason == "stop_string"
        assert answer.text == whole[: whole.index(stop)]


def test_the_model_ends_its_answer(engine: Engine) -> None:
    assert engine.generate(PROMPT, choices=["yes"]).finish_reason == "stop"


def test_cancelling_stops_within_one_token(engine: Engine) -> None:
    cancel = threading.Event()
    pieces = []
    stream = engine.stream(PROMPT, cancel=cancel, max_new_tokens=60, **LETTERS)
    for piece in stream:
        pieces.append(piece)
        if len(pieces) == 3:
            cancel.set()
    assert stream.result.finish_reason == "cancelled"
    assert len(pieces) == 3
    assert stream.result.text == "".join(pieces)


def test_cancelling_works_between_the_pieces_of_a_long_prompt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, appended = threading.Event(), []
    original = Decoder._append_piece

    def append_and_cancel(self: Decoder, tokens: Any) -> None:
        original(self, tokens)
        appended.append(len(tokens))
        cancel.set()

    monkeypatch.setattr(Decoder, "_append_piece", append_and_cancel)
    answer = engine.generate("x" * 400, cancel=cancel)
    assert (answer.finish_reason, answer.token_ids) == ("cancelled", ())
    assert appended == [PREFILL_CHUNK_TOKENS]
    assert answer.timings.ttft_ms is None


def test_a_timeout_returns_what_there_is(engine: Engine) -> None:
    stream = engine.stream(PROMPT, timeout_s=0.5, max_new_tokens=400)
    assert next(stream) is not None
    threading.Event().wait(0.6)
    assert stream.finish().finish_reason == "timeout"


def test_closing_a_stream_stops_it(engine: Engine) -> None:
    with engine.stream(PROMPT, adapter="alpha", max_new_tokens=60, **LETTERS) as stream:
        first = next(stream)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(first)
    assert {status.name: status.in_use for status in engine.adapters()}["alpha"] == 0


def test_a_forgotten_stream_lets_its_adapter_go(engine: Engine) -> None:
    stream = engine.stream(PROMPT, adapter="alpha", max_new_tokens=60, **LETTERS)
    next(stream)
    assert {status.name: status.in_use for status in engine.adapters()}["alpha"] == 1
    del stream
    assert {status.name: status.in_use for status in engine.adapters()}["alpha"] == 0


def test_closing_the_engine_in_the_middle_is_a_clear_error(tiny_bundle: Path) -> None:
    engine = Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1)
    stream = engine.stream(PROMPT, adapter="alpha", max_new_tokens=60, **LETTERS)
    next(stream)
    engine.close()
    with pytest.raises(GenerationError, match="was closed while it was in use"):
        next(stream)
    with pytest.raises(GenerationError, match="the engine is closed"):
        engine.generate(PROMPT)
    engine.close()


def test_a_prompt_over_the_context_is_refused(engine: Engine) -> None:
    n_tokens = len(engine.tokenize("x" * 3000))
    with pytest.raises(GenerationError) as caught:
        engine.generate("x" * 3000)
    assert caught.value.problems == (
        f"expected at most {engine.context_length - 1} tokens, got {n_tokens}",
    )


def test_an_answer_ends_where_the_context_does(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1, context_length=24) as engine:
        answer = engine.generate("x" * 20, regex="[a-e]{60}")
        assert answer.finish_reason == "length"
        total = answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert total == engine.context_length


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "expected exactly one of prompt, messages and inputs, got none"),
        ({"prompt": "a", "messages": []}, "got prompt and messages"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 3}, "prompt: expected str, got int"),
        ({"prompt": "a\0b"}, "holds a NUL"),
        ({"prompt": "a\ud800b"}, "half a surrogate pair"),
        ({"messages": []}, "messages: expected at least one"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content: expected str, got NoneType"),
        ({"inputs": {"text": "a"}}, "no adapter is active"),
        ({"prompt": "a", "tempo": 1}, "tempo: no such option"),
    ],
)
def test_bad_requests_are_refused(engine: Engine, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        engine.generate(**request_)


def test_an_unknown_adapter_names_the_near_ones(engine: Engine) -> None:
    with pytest.raises(AdapterError, match="no adapter 'betta'\ndid you mean 'beta'"):
        engine.generate(PROMPT, adapter="betta")


def test_inputs_without_a_recorded_template_are_refused(engine: Engine) -> None:
    with pytest.raises(AdapterError, match="'beta' records no prompt template"):
        engine.generate(inputs={"text": "a"}, adapter="beta")


def test_growing_the_cache_keeps_the_text(engine: Engine) -> None:
    def run(capacity: int) -> list[int]:
        decoder = engine._loaded.decoder(adapter="alpha", capacity_tokens=capacity)
        decoder.append(engine.tokenize(PROMPT))
        tokens = [decoder.next() for _ in range(4)]
        assert decoder.tokens()[-4:] == tokens
        decoder.close()
        return tokens

    n_prompt = len(engine.tokenize(PROMPT))
    assert run(n_prompt + 2) == run(n_prompt + 40)


def test_a_result_is_frozen(engine: Engine) -> None:
    answer: Generation = engine.generate(PROMPT, max_new_tokens=1)
    with pytest.raises(AttributeError):
        answer.text = "x"  # type: ignore[misc]
