"""Answers as data: whatever a model would rather say, what comes back follows the schema."""

import json
from typing import Any

import pytest

from edgekit_runtime import AdapterError, Engine, GenerationError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["card", "light"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["kind", "count", "urgent", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("adapter", [None, "alpha", "beta", {"alpha": 0.5, "beta": 0.5}])
def test_what_comes_back_follows_the_schema(engine: Engine, adapter: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")  # a device has none
    for seed in range(3):
        found = engine.extract(
            "my card", SCHEMA, adapter=adapter, temperature=2.0, seed=seed, max_new_tokens=150
        )
        jsonschema.validate(found, SCHEMA)


def test_a_text_is_asked_as_in_training_and_a_prompt_as_it_is(engine: Engine) -> None:
    options: dict[str, Any] = {"schema": SCHEMA, "max_new_tokens": 150}
    asked = "Q: my card\nA:"  # what the template of alpha makes of it
    expected = json.loads(engine.generate(asked, adapter="alpha", **options).text)
    assert engine.extract("my card", adapter="alpha", **options) == expected
    assert engine.extract(prompt=asked, adapter="alpha", **options) == expected
    assert engine.extract(inputs={"text": "my card"}, adapter="alpha", **options) == expected


def test_a_schema_may_be_text_and_of_any_kind(engine: Engine) -> None:
    assert engine.extract("a", '{"type": "boolean"}') in (True, False)
    messages = [{"role": "user", "content": "hi"}]
    assert engine.extract(messages=messages, schema={"enum": [1, None]}) in (1, None)


def test_half_an_object_is_never_returned(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="ended after 5 tokens") as caught:
        engine.extract("a", SCHEMA, max_new_tokens=5)
    assert "maxLength" in str(caught.value)


def test_what_is_wrong_with_a_request_is_told(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="expected a schema"):
        engine.extract("a")
    with pytest.raises(GenerationError, match="exactly one of text, prompt, messages and inputs"):
        engine.extract("a", SCHEMA, prompt="b")
    with pytest.raises(GenerationError, match="schema: no JSON"):
        engine.extract("a", "{")
    with pytest.raises(AdapterError, match="did you mean 'alpha'"):
        engine.extract("a", SCHEMA, adapter="alhpa")
