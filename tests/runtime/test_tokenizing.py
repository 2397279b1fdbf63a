"""The tokens of a prompt, where the tokenizer puts a beginning-of-text token before it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_runtime import Bundle, Engine
from tests.runtime.bundle_edits import replace_file
from tests.tiny_models import ADDS_BOS

BOS, BOS_ID = "<|im_start|>", 1


@pytest.fixture
def engine_with_bos(bundle_copy: Path) -> Iterator[Engine]:
    """The tiny bundle, its tokenizer changed as those of Llama 3 and Gemma are."""
    file = "targets/cpu/tokenizer.json"
    tokenizer = json.loads((bundle_copy / file).read_text(encoding="utf-8"))
    tokenizer["post_processor"] = ADDS_BOS
    replace_file(bundle_copy, file, json.dumps(tokenizer).encode())
    with Bundle.open(bundle_copy, cache_dir=None).engine(threads=1) as engine:
        yield engine


def test_a_prompt_begins_with_one_beginning_of_text(engine_with_bos: Engine) -> None:
    tokens = engine_with_bos.tokenize("one day")
    assert tokens[0] == BOS_ID
    assert BOS_ID not in tokens[1:]
    assert engine_with_bos.tokenize(f"{BOS}one day") == tokens


def test_a_rendered_conversation_says_the_same_as_the_messages(engine_with_bos: Engine) -> None:
    messages = [{"role": "user", "content": "one day"}]
    rendered = engine_with_bos.apply_chat_template(messages)
    assert rendered.startswith(BOS)
    answers = [
        engine_with_bos.generate(messages=messages, max_new_tokens=4),
        engine_with_bos.generate(rendered, max_new_tokens=4),
    ]
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens
    assert answers[0].token_ids == answers[1].token_ids


def test_a_tokenizer_that_puts_nothing_before_leaves_doubled_text(engine: Engine) -> None:
    assert engine.tokenize(f"{BOS}{BOS}one")[:2] == [BOS_ID, BOS_ID]


@pytest.mark.parametrize("nested", [False, True])
def test_a_tokenizer_that_composes_characters_does_so(bundle_copy: Path, nested: bool) -> None:
    file = "targets/cpu/tokenizer.json"
    tokenizer = json.loads((bundle_copy / file).read_text(encoding="utf-8"))
    nfc = {"type": "NFC"}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [nfc]} if nested else nfc
    replace_file(bundle_copy, file, json.dumps(tokenizer).encode())
    with Bundle.open(bundle_copy, cache_dir=None).engine(threads=1) as composing:
        assert composing.tokenize("cafe\u0301") == composing.tokenize("caf\u00e9")


def test_another_tokenizer_leaves_characters_as_they_are(engine: Engine) -> None:
    assert engine.tokenize("cafe\u0301") != engine.tokenize("caf\u00e9")
