"""Whether the runtime's tokenizer and chat template say what the base's own say.

The runtime has onnxruntime-genai's implementations of both; training had Hugging Face's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from edgekit.bases import Base
from edgekit.tokenizing import encode
from edgekit_runtime.chat import messages_json
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.native import Tokenizer

# Where tokenizers are known to differ: spaces, line ends, digits, scripts, emoji, special tokens.
_HARD_TEXTS = (
    "  leading, trailing  ",
    "a\n\n\nb\r\nc\td \n \n ",
    "I'll, don't, WON'T; 1234567890 3.14",
    "été naïve — “quoted” … e\u0301",
    "日本語のテキスト مرحبا हिन्दी",
    "😀👍🏽 👨\u200d👩\u200d👧 a\u00a0b\u2028c",
    "def f(x):\n    return {x: [1, 2]}\n",
    "https://example.org/a?b=c&d=%20#e",
    " ",
)
_CONVERSATION: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a fruit. "},
    {"role": "assistant", "content": "Pear"},
    {"role": "user", "content": "One more?\nThanks!"},
)
_CONVERSATIONS = (_CONVERSATION[1:2], _CONVERSATION[1:], _CONVERSATION)


def compare_tokenizing(actual: Tokenizer, base: Base, prompts: Iterable[str]) -> list[str]:
    """Compare a target's tokenizer and chat template with those of the base.

    Args:
        actual: The target's tokenizer.
        base: The base that it was built from.
        prompts: Texts to compare beside the ones known to be hard.

    Returns:
        A line for each difference.
    """
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(base.path)
    found = []
    first = expected.bos_token or ""
    for text in (*_HARD_TEXTS, f"{first}after the first", *prompts):
        tokens = encode(expected, text)
        found += _difference(f"tokens of {text[:40]!r}", tokens, actual.encode(text))
    if expected.chat_template:
        for messages in _CONVERSATIONS:
            found += _compare_chat(expected, actual, messages)
    return found


def _compare_chat(
    expected: Any, actual: Tokenizer, messages: Sequence[dict[str, Any]]
) -> list[str]:
    from jinja2 import TemplateError

    try:
        text = expected.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    except TemplateError:
        return []  # a template without a system role, for one, refuses in both places
    what = f"chat template with {len(messages)} messages"
    try:
        got = actual.apply_chat_template(messages_json(messages), None)
    except GenerationError as err:
        return [f"{what}: {' '.join(str(err).split())}"]
    ids = expected(text, add_special_tokens=False).input_ids
    return _difference(what, text, got) or _difference(
        f"tokens of the {what}", ids, actual.encode_chat(got)
    )


def _difference(what: str, expected: Sequence[Any], actual: Sequence[Any]) -> list[str]:
    if list(expected) == list(actual):
        return []
    first = next(
        (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
        min(len(expected), len(actual)),
    )
    sides = [side[max(0, first - 2) : first + 12] for side in (expected, actual)]
    return [f"{what}: expected …{sides[0]!r} at {first}, got …{sides[1]!r}"]
