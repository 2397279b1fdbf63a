"""One prompt and how to answer it, as it goes to the worker."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

Reuse = Literal["exact", "fast"]
# What stands for an adapter's name where the worker is to pick one.
AUTO: Final = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One prompt to answer; exactly one of messages, text and tokens is given.

    Attributes:
        adapter: Name of the adapter, None for the base.
        is_routed: Whether the worker picks the adapter, by what the user said last.
        messages: A conversation for the chat template, or for the adapter's own template.
        text: A raw prompt.
        tokens: A prompt as token ids.
        tools: Functions that the chat template describes to the model.
        options: See `edgekit_runtime.sampling.GenerateOptions`.
        default_max_tokens: Longest answer where neither options nor adapter say; None: as long
            as the context.
        log_probs: How many likely tokens to tell beside each one; None: tell nothing.
        echo: Whether the prompt stands before the answer.
        answers: False where only the prompt is run.
    """

    adapter: str | None
    is_routed: bool = False
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    tokens: list[int] | None = None
    tools: list[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    default_max_tokens: int | None = None
    log_probs: int | None = None
    echo: bool = False
    answers: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read the JSON form."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogProb:
    """A token of a prompt or an answer, and how likely it was.

    Attributes:
        token_id: The token.
        text: What it adds to the text; empty where a character is not complete, and for
            special tokens.
        log_prob: Natural logarithm; None for the first token of a prompt.
        top: Likely tokens in its place, the likeliest first: id, text, log probability.
    """

    token_id: int
    text: str
    log_prob: float | None
    top: tuple[tuple[int, str, float], ...]

    def to_list(self) -> list[Any]:
        """The JSON form."""
        return [self.token_id, self.text, self.log_prob, [list(one) for one in self.top]]

    @classmethod
    def from_list(cls, value: list[Any]) -> Self:
        """Read the JSON form."""
        token_id, text, log_prob, top = value
        tops = tuple((one[0], one[1], one[2]) for one in top)
        return cls(token_id=token_id, text=text, log_prob=log_prob, top=tops)
