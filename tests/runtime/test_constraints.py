"""Schema, regular expression and choices."""

import json
import re
from typing import Any

import pytest

from edgekit_runtime import Engine, GenerationError

PROMPT = "Q: turn on the light\nA:"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "device": {"enum": ["light", "door"]},
        "levels": {"type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 2},
        "note": {"type": "string", "maxLength": 4},
    },
    "required": ["device", "levels", "note"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("adapter", [None, "alpha", "beta"])
def test_a_choice_is_one_of_them(engine: Engine, adapter: str | None, temperature: float) -> None:
    choices = [" yes", "no", 'may"be\\', "line\nbreak", "müde"]
    for seed in range(4):
        answer = engine.generate(
            PROMPT, adapter=adapter, choices=choices, temperature=temperature, seed=seed
        )
        assert answer.text in choices


def test_a_regex_matches_the_whole_answer(engine: Engine) -> None:
    answer = engine.generate(PROMPT, regex=r"(on|off) \d{2}", temperature=1.0, seed=1)
    assert re.fullmatch(r"(on|off) \d{2}", answer.text)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_schema_gives_json_that_follows_it(engine: Engine, as_text: bool) -> None:
    schema = json.dumps(SCHEMA) if as_text else SCHEMA
    for seed in range(3):
        answer = engine.generate(PROMPT, schema=schema, temperature=1.0, seed=seed)
        value = json.loads(answer.text)
        assert list(value) == ["device", "levels", "note"]
        assert value["device"] in ("light", "door")
        assert len(value["levels"]) <= 2 and len(value["note"]) <= 4


def test_constrained_json_has_no_filling(engine: Engine) -> None:
    answer = engine.generate(
        PROMPT, schema={"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2}
    )
    assert answer.text == "[1, 1]"


def test_the_same_seed_gives_the_same_constrained_text(engine: Engine) -> None:
    texts = [
        engine.generate(PROMPT, regex="[a-z]{20}", temperature=1.0, seed=s).text for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": '{"type":'}, "schema: no JSON: Expecting value: line 1 column 9"),
        ({"schema": "[1]"}, "schema: expected a JSON object, got list"),
        ({"schema": {"type": {1}}}, "schema: no JSON: Object of type set"),
        ({"schema": {"type": "objekt"}}, "schema: Invalid type: objekt"),
        (
            {
                "schema": {
                    "properties": {
                        "a": {
                            "items": {
                                "anyOf": [{"type": "null"}, {"type": "string", "pattern": "(a"}]
                            }
                        }
                    }
                }
            },
            r"schema.properties.a.items.anyOf\[1\]: unclosed group",
        ),
        ({"schema": {"properties": {"a": {"$ref": "#/x"}}}}, "schema.properties.a: Pointer '/x'"),
        ({"regex": "(a"}, "regex: unclosed group"),
        ({"regex": "a(?=b)"}, "regex: look-around"),
        ({"regex": ""}, "regex: expected a regular expression, got ''"),
        ({"choices": []}, "choices: expected a list of strings"),
        ({"choices": "yes"}, "choices: expected a list of strings"),
        ({"choices": ["yes", ""]}, "choices: expected non-empty strings, got ''"),
    ],
)
def test_what_cannot_be_followed_names_the_place(
    engine: Engine, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        engine.generate(PROMPT, **options)
