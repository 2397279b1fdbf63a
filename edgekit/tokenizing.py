"""What a raw text is in tokens: the same in training, in the gate, and in the runtime."""

from typing import Any


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a raw text, as the runtime makes them: with special tokens, one at the start.

    A Hugging Face tokenizer would put a second beginning-of-text token before one that is there.
    """
    ids: list[int] = tokenizer(text).input_ids
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = tokenizer(text, add_special_tokens=False).input_ids
    return ids
