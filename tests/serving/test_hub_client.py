"""Hugging Face's `InferenceClient` against the server: a client that does not wrap OpenAI's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from edgekit_runtime import Engine
from tests.serving.running import Running

ASKED = [{"role": "user", "content": "where is my card"}]
SCHEMA = {
    "type": "object",
    "properties": {"found": {"type": "boolean"}, "n": {"type": "integer", "maximum": 9}},
    "required": ["found", "n"],
    "additionalProperties": False,
}


@pytest.fixture
def client(server: Running) -> Iterator[InferenceClient]:
    with InferenceClient(base_url=f"{server.url}/v1", api_key="none") as found:
        yield found


def chat(client: InferenceClient, model: str = "tiny", **options: Any) -> Any:
    options = {"messages": ASKED, "max_tokens": 12} | options
    return client.chat.completions.create(model=model, **options)


@pytest.mark.parametrize("adapter", [None, "beta"])
def test_a_chat_is_answered_as_the_engine_does(
    adapter: str | None, client: InferenceClient, engine: Engine
) -> None:
    model = "tiny" if adapter is None else f"tiny:{adapter}"
    answer = chat(client, model, temperature=0.8, seed=7)
    expected = engine.generate(
        messages=ASKED, adapter=adapter, max_new_tokens=12, temperature=0.8, seed=7
    )
    assert answer.choices[0].message.content == expected.text
    assert answer.model == model
    assert answer.usage.completion_tokens == len(expected.token_ids)


def test_a_stream_brings_the_same_text(client: InferenceClient) -> None:
    whole = chat(client).choices[0]
    *pieces, usage = chat(client, stream=True, stream_options={"include_usage": True})
    told = [piece.choices[0].delta.content or "" for piece in pieces]
    assert "".join(told) == whole.message.content
    assert pieces[-1].choices[0].finish_reason == whole.finish_reason
    assert usage.usage.completion_tokens > 0


def test_an_answer_follows_a_schema(client: InferenceClient) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
    answer = chat(client, "tiny:beta", response_format=shape, max_tokens=60)
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"found", "n"}
    assert isinstance(found["found"], bool)


def test_an_unknown_model_is_refused_with_the_near_one(client: InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match="did you mean 'tiny:beta'") as caught:
        chat(client, "tiny:bet")
    assert caught.value.response.status_code == 404
