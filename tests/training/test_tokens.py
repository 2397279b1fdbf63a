"""Tokens: the prompt is what inference sees, the completion is learnt to its end."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError
from edgekit.training.examples import Example
from edgekit.training.tokens import IGNORED, TokenizedSplit, tokenize_examples
from tests.tiny_models import CHAT_TEMPLATE, EOS_TOKEN_ID

# Renders a turn's thoughts only while it is the last one, as Qwen3's does.
FORGETFUL_TEMPLATE = CHAT_TEMPLATE.replace(
    "message['content']",
    "(message['content'] if loop.last else message['content'].split('</think>')[-1])",
)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def tokenize(tokenizer: Any, *examples: Example, max_length: int = 512) -> TokenizedSplit:
    ends = frozenset([EOS_TOKEN_ID])
    return tokenize_examples(examples, tokenizer, max_length=max_length, end_ids=ends)


def completion(prompt: str, text: str) -> Example:
    return Example(place="x:1", prompt=prompt, completion=text)


def chat(*contents: str) -> Example:
    roles = ["user", "assistant"] * len(contents)
    turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return Example(place="x:1", messages=tuple(turns))


def learnt(sequence: Any, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in sequence.labels if label != IGNORED]))


PAIRS = [
    ("Query: turn on the light\nIntent:", " light_on"),
    ("Query: x\nIntent: ", "light"),
    ("in the ki", "tchen"),
    ("ends in a space ", " begins with one"),
    ("line\n", "\n\nmore"),
    ("Grüße ", "日本語"),
]


@pytest.mark.parametrize(("prompt", "text"), PAIRS)
def test_the_prompt_tokenized_alone_is_an_exact_prefix(
    tokenizer: Any, prompt: str, text: str
) -> None:
    split = tokenize(tokenizer, completion(prompt, text))
    alone = tokenizer(prompt).input_ids
    assert list(split.sequences[0].input_ids[: len(alone)]) == alone
    assert split.questions[0].prompt_ids == tuple(alone)


@pytest.mark.parametrize(("prompt", "text"), PAIRS)
def test_only_the_completion_is_learnt_and_its_end(tokenizer: Any, prompt: str, text: str) -> None:
    (sequence,) = tokenize(tokenizer, completion(prompt, text)).sequences
    n_prompt = len(tokenizer(prompt).input_ids)
    assert set(sequence.labels[:n_prompt]) == {IGNORED}
    assert sequence.labels[n_prompt:] == sequence.input_ids[n_prompt:]
    assert learnt(sequence, tokenizer) == text + "<|im_end|>"


def test_the_end_is_learnt_though_it_is_also_the_padding(tokenizer: Any) -> None:
    from edgekit.training.trainer import PaddingCollator

    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    split = tokenize(tokenizer, completion("a", "b"), completion("a longer prompt", "b"))
    batch = PaddingCollator(EOS_TOKEN_ID)(split.sequences)
    assert (batch["labels"] == EOS_TOKEN_ID).sum() == 2
    assert batch["attention_mask"].sum() == sum(len(s.input_ids) for s in split.sequences)


def test_rows_that_would_be_cut_are_left_out_and_counted(tokenizer: Any) -> None:
    rows = [completion("Query:", " label" * n) for n in (1, 2, 60)]
    split = tokenize(tokenizer, *rows, max_length=40)
    assert split.n_too_long == 1
    assert [learnt(s, tokenizer) for s in split.sequences] == [
        " label<|im_end|>",
        " label label<|im_end|>",
    ]
    assert len(split.questions) == 2


def test_a_row_of_exactly_the_limit_is_kept(tokenizer: Any) -> None:
    row = completion("Query:", " label")
    length = len(tokenize(tokenizer, row).sequences[0].input_ids)
    assert tokenize(tokenizer, row, max_length=length).n_too_long == 0
    assert tokenize(tokenizer, row, max_length=length - 1).n_too_long == 1


def test_a_text_is_learnt_as_a_whole(tokenizer: Any) -> None:
    split = tokenize(tokenizer, Example(place="x:1", text="turn on the light"))
    assert learnt(split.sequences[0], tokenizer) == "turn on the light<|im_end|>"
    assert split.questions == ()


def test_every_assistant_turn_is_learnt_and_nothing_else(tokenizer: Any) -> None:
    (sequence,) = tokenize(tokenizer, chat("hi", "hello", "bye", "so long")).sequences
    assert learnt(sequence, tokenizer) == "hello<|im_end|>so long<|im_end|>"


def test_each_turn_stands_behind_the_prompt_of_inference(tokenizer: Any) -> None:
    example = chat("hi", "hello", "bye", "so long")
    (sequence,) = tokenize(tokenizer, example).sequences
    assert example.messages is not None
    for turn in (1, 3):
        prompt = tokenizer.apply_chat_template(
            list(example.messages[:turn]), add_generation_prompt=True, return_dict=False
        )
        assert list(sequence.input_ids[: len(prompt)]) == prompt
        assert sequence.labels[len(prompt)] != IGNORED
        assert sequence.labels[len(prompt) - 1] == IGNORED


def test_a_template_that_changes_earlier_turns_gives_each_turn_its_own_sequence(
    tokenizer: Any,
) -> None:
    tokenizer.chat_template = FORGETFUL_TEMPLATE
    split = tokenize(tokenizer, chat("hi", "<think>hm</think>hello", "bye", "so long"))
    assert [learnt(s, tokenizer) for s in split.sequences] == [
        "<think>hm</think>hello<|im_end|>",
        "so long<|im_end|>",
    ]
    assert "hm" not in tokenizer.decode(split.sequences[1].input_ids)


def test_a_template_without_an_end_gets_one(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"  # noqa: E501
    (sequence,) = tokenize(tokenizer, chat("hi", "hello")).sequences
    assert learnt(sequence, tokenizer) == "hello\n<|im_end|>"


def test_a_conversation_is_asked_for_its_last_answer(tokenizer: Any) -> None:
    (question,) = tokenize(tokenizer, chat("hi", "hello", "bye", "so long")).questions
    assert question.reference == "so long"
    assert question.prompt.endswith("bye<|im_end|>\n<|im_start|>assistant\n")


def test_a_base_without_a_chat_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"no chat template, which data\.messages needs"):
        tokenize(tokenizer, chat("hi", "hello"))


def test_a_template_that_refuses_a_role_says_which_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(DataError, match="x:1: the chat template refuses the messages: no such"):
        tokenize(tokenizer, chat("hi", "hello"))


def test_a_tokenizer_without_eos_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no EOS token"):
        tokenize(tokenizer, completion("a", "b"))
