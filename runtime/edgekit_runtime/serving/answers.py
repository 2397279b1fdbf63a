"""Answers in OpenAI's shapes, whole and by pieces."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit_runtime.serving.jobs import TokenLogProb
from edgekit_runtime.serving.requests import Asked
from edgekit_runtime.serving.tools import ToolCall

# The worker's reasons in OpenAI's words; a time limit is answered by an error instead.
_REASONS = {"stop": "stop", "stop_string": "stop", "length": "length"}


@dataclass(kw_only=True, slots=True)
class Choice:
    """One choice of an answer, as it comes together.

    Attributes:
        index: Its number in the answer.
        log_probs: In a stream, those that are not sent yet.
        n_before: Characters that were sent before, for the offsets of completions.
    """

    index: int
    text: list[str] = field(default_factory=list)
    log_probs: list[TokenLogProb] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    reason: str = "stop"
    n_before: int = 0

    def end(self, reason: str) -> None:
        """Note why it ended."""
        self.reason = "tool_calls" if self.calls else _REASONS.get(reason, reason)


class Reply:
    """The shapes of one request's answer.

    Args:
        asked: The request.
        fingerprint: Of the bundle: the same seed gives the same answer while this is the same.
    """

    def __init__(self, asked: Asked, fingerprint: str) -> None:
        self._is_chat = asked.kind == "chat"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": fingerprint,
        }
        self._include_usage = asked.include_usage
        self._wants_log_probs = asked.jobs[0].log_probs is not None

    def name_model(self, model: str) -> None:
        """Say which model answers, where the request left it open."""
        self._head["model"] = model

    def whole(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer at once."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        listed = [self._whole_choice(choice) for choice in choices]
        return self._head | {"object": kind, "choices": listed} | usage

    def first(self, index: int) -> dict[str, Any]:
        """The chunk that opens a choice of a chat."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None, None)

    def piece(self, choice: Choice, text: str) -> dict[str, Any]:
        """A chunk with some text, and the log probabilities that were gathered."""
        told = self._take_log_probs(choice)
        if self._is_chat:
            return self._chunk(choice.index, {"content": text}, told, None)
        return self._text_chunk(choice.index, text, told, None)

    def last(self, choice: Choice) -> dict[str, Any]:
        """The chunk that says why a choice ended; its tool calls are in it too."""
        told = self._take_log_probs(choice) if choice.log_probs else None
        if not self._is_chat:
            return self._text_chunk(choice.index, "", told, choice.reason)
        calls = [{"index": i} | call.to_dict() for i, call in enumerate(choice.calls)]
        delta = {"tool_calls": calls} if calls else {}
        return self._chunk(choice.index, delta, told, choice.reason)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk that ends a stream which was asked for usage."""
        return self._head | {"object": self._chunk_kind(), "choices": []} | usage

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        told = self._log_probs(choice.log_probs, 0) if self._wants_log_probs else None
        ended = {"index": choice.index, "logprobs": told, "finish_reason": choice.reason}
        if not self._is_chat:
            return ended | {"text": text}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            calls = [call.to_dict() for call in choice.calls]
            message |= {"content": text or None, "tool_calls": calls}
        return ended | {"message": message}

    def _chunk(
        self, index: int, delta: Mapping[str, Any], told: Any, reason: str | None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return self._in_stream(choice)

    def _text_chunk(self, index: int, text: str, told: Any, reason: str | None) -> dict[str, Any]:
        return self._in_stream(
            {"index": index, "text": text, "logprobs": told, "finish_reason": reason}
        )

    def _in_stream(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        chunk = self._head | {"object": self._chunk_kind(), "choices": [choice]}
        return chunk | {"usage": None} if self._include_usage else chunk

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _take_log_probs(self, choice: Choice) -> dict[str, Any] | None:
        told = self._log_probs(choice.log_probs, choice.n_before)
        choice.n_before += sum(len(one.text) for one in choice.log_probs)
        choice.log_probs.clear()
        return told

    def _log_probs(self, found: Sequence[TokenLogProb], n_before: int) -> dict[str, Any] | None:
        if not self._wants_log_probs:
            return None
        return _of_chat(found) if self._is_chat else _of_completion(found, n_before)


def usage_of(done: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """Usage and timings of an answer, from how each of its choices ended.

    Args:
        done: The worker's last events, in the choices' order.
        n: Choices of each prompt, which is counted once.
    """
    usages = [one["usage"] for one in done]
    n_prompt = sum(usage["prompt_tokens"] for usage in usages[::n])
    n_completion = sum(usage["completion_tokens"] for usage in usages)
    n_cached = sum(usage["cached_tokens"] for usage in usages[::n])
    counted = {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
    return {"usage": counted, "timings": done[-1]["timings"]}


def _of_chat(found: Sequence[TokenLogProb]) -> dict[str, Any]:
    """Log probabilities as chats have them."""

    def entry(text: str, log_prob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}

    content = [
        entry(one.text, one.log_prob)
        | {"top_logprobs": [entry(text, log_prob) for _, text, log_prob in one.top]}
        for one in found
    ]
    return {"content": content, "refusal": None}


def _of_completion(found: Sequence[TokenLogProb], n_before: int) -> dict[str, Any]:
    """Log probabilities as completions have them: lists side by side."""
    offsets = []
    for one in found:
        offsets.append(n_before)
        n_before += len(one.text)
    return {
        "tokens": [one.text for one in found],
        "token_logprobs": [one.log_prob for one in found],
        "top_logprobs": [_top(one) for one in found],
        "text_offset": offsets,
    }


def _top(one: TokenLogProb) -> dict[str, float] | None:
    """The likeliest tokens and the one itself, by their text.

    Several tokens may have the same text or none: of those the likeliest keeps the name, and one
    without text is called by its number.
    """
    if one.log_prob is None:
        return None
    named: dict[str, float] = {}
    own = (one.token_id, one.text, one.log_prob)
    for token_id, text, log_prob in (*one.top, own):
        named.setdefault(text or f"token_id:{token_id}", log_prob)
    return named
