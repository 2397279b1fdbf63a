"""Examples become tokens. Two promises, both tested.

What inference tokenizes alone, the prompt, is an exact prefix of what was trained on; and every
completion is learnt to its end, the EOS token included. Nothing is cut and nothing is glued.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import DataError
from edgekit.tokenizing import encode
from edgekit.training.examples import Example

IGNORED = -100
"""The label of a token that has no part in the loss; PyTorch's own default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedExample:
    """One sequence to train on.

    Attributes:
        input_ids: Prompt and completion.
        labels: The same ids where they are learnt, ``IGNORED`` elsewhere.
        lengths: Of the sequences that are packed into this row; none if it is a single one.
        weight: How much the row counts in the training loss; None where all count the same.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    lengths: tuple[int, ...] = ()
    weight: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What generation is scored on: a prompt, and what should follow.

    Attributes:
        messages: The conversation that the prompt was rendered from, where it was.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    reference: str
    messages: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedSplit:
    """A tokenized split.

    Attributes:
        sequences: To train on or to take the loss of.
        questions: To generate for; none for ``text_template``.
        n_too_long: Examples left out, since they would have had to be cut.
        longest_completion: In tokens, EOS included; 0 for ``text_template``.
    """

    sequences: tuple[TokenizedExample, ...]
    questions: tuple[Question, ...]
    n_too_long: int
    longest_completion: int


def tokenize_examples(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int, end_ids: frozenset[int]
) -> TokenizedSplit:
    """Tokenize examples of any shape.

    Args:
        examples: All of one shape.
        tokenizer: A Hugging Face tokenizer with an EOS token.
        max_length: Longer sequences are left out and counted.
        end_ids: Every token that ends an assistant turn, EOS among them.

    Raises:
        DataError: If the tokenizer has no EOS, or its chat template cannot be used.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("the base's tokenizer has no EOS token, so no completion could ever end")
    if any(example.messages for example in examples) and not tokenizer.chat_template:
        raise DataError(
            "the base's tokenizer has no chat template, which data.messages needs",
            hint="Use prompt and completion, or a base that was tuned for chat.",
        )
    sequences: list[TokenizedExample] = []
    questions: list[Question] = []
    n_too_long = longest = 0
    for example in examples:
        made, question = _tokenize(example, tokenizer, end_ids)
        fitting = [sequence for sequence in made if len(sequence.input_ids) <= max_length]
        n_too_long += len(fitting) < len(made)
        sequences += fitting
        if question is not None and len(fitting) == len(made):
            questions.append(question)
            longest = max(longest, len(made[-1].input_ids) - len(question.prompt_ids))
    return TokenizedSplit(
        sequences=tuple(sequences),
        questions=tuple(questions),
        n_too_long=n_too_long,
        longest_completion=longest,
    )


def _tokenize(
    example: Example, tokenizer: Any, end_ids: frozenset[int]
) -> tuple[list[TokenizedExample], Question | None]:
    if example.prompt is not None and example.completion is not None:
        return _tokenize_completion(example.prompt, example.completion, tokenizer)
    if example.messages is not None:
        return _tokenize_messages(example.messages, tokenizer, end_ids, example.place)
    ids = [*encode(tokenizer, example.text or "")]
    if ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    return [TokenizedExample(input_ids=tuple(ids), labels=tuple(ids))], None


def _tokenize_completion(
    prompt: str, completion: str, tokenizer: Any
) -> tuple[list[TokenizedExample], Question]:
    prompt_ids = encode(tokenizer, prompt)
    whole = encode(tokenizer, prompt + completion)
    # As one text where that leaves the prompt's own tokens alone; otherwise the border would
    # fall inside a token that inference never sees, so the completion is tokenized by itself.
    if whole[: len(prompt_ids)] == prompt_ids and len(whole) > len(prompt_ids):
        completion_ids = whole[len(prompt_ids) :]
    else:
        completion_ids = tokenizer(completion, add_special_tokens=False).input_ids
    if completion_ids[-1:] != [tokenizer.eos_token_id]:
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
    question = Question(prompt=prompt, prompt_ids=tuple(prompt_ids), reference=completion.strip())
    return [_sequence([(prompt_ids, False), (completion_ids, True)])], question


def _tokenize_messages(
    messages: Sequence[dict[str, Any]], tokenizer: Any, end_ids: frozenset[int], place: str
) -> tuple[list[TokenizedExample], Question]:
    """Render up to each assistant turn, as inference does, and learn what the turn adds.

    A template may render earlier turns otherwise once there are later ones (Qwen3 drops their
    thoughts). Then the later turn becomes a sequence of its own, so that every learnt turn is
    seen behind exactly the prompt that inference would give it.
    """
    render = _renderer(tokenizer, place)
    pieces: list[tuple[Sequence[int], bool]] = []
    finished: list[TokenizedExample] = []
    question: Question | None = None
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:index], True)
        turn = render(messages[: index + 1], False)
        if not turn.startswith(prompt):
            raise DataError(
                f"{place}: the chat template does not continue its own generation prompt",
                hint="Use prompt and completion with the format written out.",
            )
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        so_far = [token for ids, _ in pieces for token in ids]
        if prompt_ids[: len(so_far)] != so_far:
            finished.append(_sequence(pieces))
            pieces, so_far = [], []
        learnt, rest = _turn_ids(turn[len(prompt) :], tokenizer, end_ids)
        pieces += [(prompt_ids[len(so_far) :], False), (learnt, True), (rest, False)]
        question = Question(
            prompt=prompt,
            prompt_ids=tuple(prompt_ids),
            reference=message["content"].strip(),
            messages=tuple(messages[:index]),
        )
    assert question is not None  # examples_of refuses conversations without an assistant turn
    last = pieces[:-1]  # behind the last end of turn nothing is left to read
    return [*finished, _sequence(last)], question


def _renderer(tokenizer: Any, place: str) -> Callable[[Sequence[dict[str, Any]], bool], str]:
    from jinja2 import TemplateError

    def render(messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except TemplateError as err:
            raise DataError(f"{place}: the chat template refuses the messages: {err}") from err

    return render


def _turn_ids(text: str, tokenizer: Any, end_ids: frozenset[int]) -> tuple[list[int], list[int]]:
    """Tokens of a turn up to its end token, and those behind it; an end is added if none is."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    ends = [index for index, token in enumerate(ids) if token in end_ids]
    if not ends:
        return [*ids, tokenizer.eos_token_id], []
    return ids[: ends[-1] + 1], ids[ends[-1] + 1 :]


def _sequence(pieces: Sequence[tuple[Sequence[int], bool]]) -> TokenizedExample:
    return TokenizedExample(
        input_ids=tuple(token for ids, _ in pieces for token in ids),
        labels=tuple(token if learnt else IGNORED for ids, learnt in pieces for token in ids),
    )
