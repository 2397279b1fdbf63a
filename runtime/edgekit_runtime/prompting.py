"""What a request asks, as text and as tokens, and what room it leaves for an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.chat import Message, messages_json
from edgekit_runtime.errors import AdapterError, ContextLengthError, GenerationError
from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.sampling import Options
from edgekit_runtime.templates import fill_template


def prompt_text(
    loaded: LoadedTarget,
    raw: Mapping[str, str | None],
    messages: Sequence[Message] | None,
    inputs: Mapping[str, str] | None,
    card: AdapterCard | None,
) -> tuple[str, Callable[[str], list[int]]]:
    """The text of a request, and what makes tokens of it.

    Args:
        loaded: Whose tokenizer it is.
        raw: Texts that are taken as they are, by the name of their parameter.
        messages: A conversation for the chat template.
        inputs: Values for the fields of the recorded template.
        card: Of the adapter, where there is one.

    Raises:
        GenerationError: Unless exactly one of them is given, and is text.
        AdapterError: If inputs are given to an adapter without a template.
    """
    given = {**raw, "messages": messages, "inputs": inputs}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        known = ", ".join(list(given)[:-1])
        raise GenerationError(
            f"expected exactly one of {known} and inputs, got {' and '.join(names) or 'none'}"
        )
    tokenizer = loaded.tokenizer(adapter=card.name if card else None)
    if messages is not None:
        rendered = tokenizer.apply_chat_template(messages_json(messages), None)
        return rendered, tokenizer.encode_chat
    text = _filled(card, inputs) if inputs is not None else raw[names[0]]
    if not isinstance(text, str):
        raise GenerationError(f"{names[0]}: expected str, got {type(text).__name__}")
    return text, tokenizer.encode


def fit_answer(options: Options, *, n_prompt: int, context_length: int) -> Options:
    """Shorten the longest answer to what the context leaves.

    Raises:
        GenerationError: If the prompt is empty.
        ContextLengthError: If it leaves no room for a single token.
    """
    if n_prompt == 0:
        raise GenerationError("the prompt is empty", hint="Give at least one character.")
    if n_prompt >= context_length:
        raise ContextLengthError(
            "the prompt is too long for the context",
            problems=[f"expected at most {context_length - 1} tokens, got {n_prompt}"],
            hint="Shorten it, or build the target with a longer context_length.",
        )
    return replace(options, max_new_tokens=min(options.max_new_tokens, context_length - n_prompt))


def _filled(card: AdapterCard | None, inputs: Mapping[str, str]) -> str:
    if card is None:
        raise GenerationError(
            "inputs fill an adapter's prompt template, and no adapter is active",
            hint="Name an adapter, or use prompt= or messages=.",
        )
    if card.prompt_template is None:
        raise AdapterError(
            f"adapter {card.name!r} records no prompt template",
            hint="Use prompt= with the text that it was trained on, or messages=.",
        )
    return fill_template(card.prompt_template, inputs, where=f"the prompt of {card.name!r}")
