"""The official client against the server: what it gets is what the engine gives."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from edgekit_runtime import Engine
from tests.serving.running import Running

ASKED = [{"role": "user", "content": "where is my card"}]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 7}
SCHEMA = {
    "type": "object",
    "properties": {"found": {"type": "boolean"}, "n": {"type": "integer", "maximum": 9}},
    "required": ["found", "n"],
    "additionalProperties": False,
}


def chat(client: OpenAI, model: str = "tiny", **options: Any) -> Any:
    options = {"messages": ASKED, "max_tokens": 12} | options
    return client.chat.completions.create(model=model, **options)


def complete(client: OpenAI, prompt: Any, model: str = "tiny", **options: Any) -> Any:
    return client.completions.create(model=model, prompt=prompt, **({"max_tokens": 12} | options))


def test_the_base_and_every_adapter_are_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:alpha", "tiny:beta"]
    found = client.models.retrieve("tiny:beta")
    assert (found.id, found.owned_by) == ("tiny:beta", "edgekit")


@pytest.mark.parametrize("adapter", [None, "beta"])
def test_a_chat_is_answered_as_the_engine_does(
    adapter: str | None, client: OpenAI, engine: Engine
) -> None:
    model = "tiny" if adapter is None else f"tiny:{adapter}"
    for options in ({}, SAMPLED):
        answer = chat(client, model, **options)
        expected = engine.generate(messages=ASKED, adapter=adapter, max_new_tokens=12, **options)
        assert answer.choices[0].message.content == expected.text
        assert answer.model == model
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
        assert answer.usage.completion_tokens == len(expected.token_ids)


def test_an_adapter_with_a_template_of_its_own_fills_it(client: OpenAI, engine: Engine) -> None:
    history = [{"role": "system", "content": "Be short."}, *ASKED]
    answer = chat(client, "tiny:alpha", messages=history)
    expected = engine.generate(
        inputs={"text": ASKED[0]["content"]}, adapter="alpha", max_new_tokens=12
    )
    assert answer.choices[0].message.content == expected.text


def test_an_adapters_own_name_will_do(client: OpenAI) -> None:
    answer = chat(client, "beta")
    assert answer.model == "tiny:beta"
    assert answer.choices[0].message.content == chat(client, "tiny:beta").choices[0].message.content


def test_a_stream_brings_the_same_text_by_pieces_and_usage_last(client: OpenAI) -> None:
    whole = chat(client, **SAMPLED)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}, **SAMPLED))
    *told, usage = chunks
    assert [chunk.choices[0].delta.role for chunk in told if chunk.choices[0].delta.role] == [
        "assistant"
    ]
    pieces = [chunk.choices[0].delta.content or "" for chunk in told]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (usage.choices, usage.usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].system_fingerprint == whole.system_fingerprint


def test_a_completion_goes_on_with_text_or_tokens(client: OpenAI, engine: Engine) -> None:
    text = "turn on the light"
    expected = engine.generate(text, max_new_tokens=12)
    assert complete(client, text).choices[0].text == expected.text
    assert complete(client, engine.tokenize(text)).choices[0].text == expected.text
    assert complete(client, text, echo=True).choices[0].text == text + expected.text
    alone = complete(client, text, echo=True, max_tokens=0)
    assert (alone.choices[0].text, alone.usage.completion_tokens) == (text, 0)
    pieces = complete(client, text, stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == text + expected.text


def test_several_prompts_and_several_choices(client: OpenAI, engine: Engine) -> None:
    prompts = ["the card is lost", "turn on the light"]
    found = complete(client, prompts, n=2, **SAMPLED)
    expected = [
        engine.generate(prompt, max_new_tokens=12, temperature=0.8, seed=seed).text
        for prompt in prompts
        for seed in (7, 8)
    ]
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage.prompt_tokens == sum(len(engine.tokenize(prompt)) for prompt in prompts)
    texts = ["", "", "", ""]
    for chunk in complete(client, prompts, n=2, stream=True, **SAMPLED):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected


def test_an_answer_stops_before_a_stop_text(client: OpenAI, engine: Engine) -> None:
    text = engine.generate("the card", max_new_tokens=60).text
    stop = text[len(text) // 2 :][:3]
    answer = complete(client, "the card", max_tokens=60, stop=stop).choices[0]
    assert (answer.text, answer.finish_reason) == (text[: text.index(stop)], "stop")
    chunks = complete(client, "the card", max_tokens=60, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.text


def test_an_answer_follows_a_json_schema(client: OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "card", "schema": SCHEMA}}
    answer = chat(client, "tiny:beta", response_format=wanted, max_tokens=60)
    assert answer.choices[0].finish_reason == "stop"
    assert set(json.loads(answer.choices[0].message.content)) == {"found", "n"}
    pieces = chat(client, "tiny:beta", response_format=wanted, max_tokens=60, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == answer.choices[0].message.content
    open_ended = chat(client, response_format={"type": "json_object"}, max_tokens=20, seed=1)
    assert open_ended.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [({"choice": ["lost", "found"]}, ("lost", "found")), ({"regex": "(7|8)"}, ("7", "8"))],
)
def test_an_answer_is_a_choice_or_matches(
    constraint: dict[str, Any], expected: tuple[str, ...], client: OpenAI
) -> None:
    answer = chat(client, extra_body={"structured_outputs": constraint})
    assert answer.choices[0].message.content in expected


def test_log_probs_are_the_models_own(client: OpenAI, engine: Engine) -> None:
    text = "turn on the light"
    tokens = engine.tokenize(text)
    told = complete(client, text, echo=True, logprobs=2, max_tokens=1).choices[0]
    found = told.logprobs
    expected = engine.token_log_probs(tokens)
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert found.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-9)
    assert len(found.tokens) == len(tokens) + 1
    assert "".join(found.tokens) == told.text
    placed = zip(found.text_offset, found.tokens, strict=True)
    assert all(told.text[at:].startswith(token) for at, token in placed)
    # Greedy, so the last token is the likeliest.
    assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())
    assert all(len(top) in (2, 3) for top in found.top_logprobs[1:])


def test_a_chats_log_probs_are_those_of_its_answer(client: OpenAI, engine: Engine) -> None:
    rendered = engine.apply_chat_template(ASKED)
    expected = engine.generate(messages=ASKED, max_new_tokens=4)
    prompt = complete(client, rendered, echo=True, max_tokens=0, logprobs=0)
    n_prompt = prompt.usage.prompt_tokens
    tokens = [*engine.tokenize(rendered), *expected.token_ids]
    scored = engine.token_log_probs(tokens)[n_prompt - 1 :]
    answer = chat(client, max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [one.logprob for one in answer] == pytest.approx(scored, abs=1e-4)
    assert all(len(one.top_logprobs) == 3 for one in answer)
    assert all(one.top_logprobs[0].logprob == one.logprob for one in answer)
    chunks = chat(client, max_tokens=4, logprobs=True, top_logprobs=3, stream=True)
    streamed = [
        one.logprob
        for chunk in chunks
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert streamed == [one.logprob for one in answer]


def test_a_message_may_come_in_parts_and_from_a_developer(client: OpenAI, engine: Engine) -> None:
    parts = [{"type": "text", "text": "where is "}, {"type": "text", "text": "my card"}]
    said = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    same = [{"role": "system", "content": "Be short."}, ASKED[0]]
    expected = engine.generate(messages=same, max_new_tokens=12)
    assert chat(client, messages=said).choices[0].message.content == expected.text


def test_an_unknown_model_is_not_found_and_near_ones_are_named(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'tiny:alpha'") as caught:
        chat(client, "tiny:alfa")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_refused_with_both_lengths(
    stream: bool, client: OpenAI
) -> None:
    long = [{"role": "user", "content": "where is my card " * 200}]
    with pytest.raises(openai.BadRequestError, match=r"at most 511 tokens, got \d{3,}") as caught:
        chat(client, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_schema_that_cannot_be_followed_is_refused_with_its_place(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "text"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=r"schema\.properties\.a: ") as caught:
        chat(client, response_format=wanted)
    assert caught.value.code == "invalid_request"


def test_tools_are_refused_where_the_template_has_none(client: OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with pytest.raises(openai.BadRequestError, match="this model cannot call tools") as caught:
        chat(client, tools=tools)
    assert caught.value.code == "tools_not_supported"


def test_many_at_once_get_what_each_gets_alone(server: Running, client: OpenAI) -> None:
    asked = [
        (model, {"role": "user", "content": f"where is card {n}"})
        for n in range(4)
        for model in ("tiny", "tiny:alpha", "tiny:beta")
    ]

    def ask(model: str, message: dict[str, str], seed: int) -> str:
        with server.openai() as own:
            answer = chat(own, model, messages=[message], temperature=1.0, seed=seed)
        return str(answer.choices[0].message.content)

    alone = [ask(model, message, seed) for seed, (model, message) in enumerate(asked)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = [
            pool.submit(ask, model, message, seed) for seed, (model, message) in enumerate(asked)
        ]
        assert [one.result() for one in together] == alone
