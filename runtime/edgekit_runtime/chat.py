"""Chat messages: checked before they reach the template, which takes anything in silence."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit_runtime.errors import GenerationError

Message = Mapping[str, Any]


def messages_json(messages: Sequence[Message]) -> str:
    """Serialize messages for the chat template.

    Raises:
        GenerationError: With every message that is not ``{"role": ..., "content": ...}``.
    """
    problems = [problem for i, m in enumerate(messages) for problem in _message_problems(i, m)]
    if not messages:
        problems.append("messages: expected at least one")
    if problems:
        raise GenerationError(
            "the chat messages are malformed",
            problems=problems,
            hint='A message is {"role": "system" | "user" | "assistant", "content": "text"}.',
        )
    return json.dumps([dict(message) for message in messages], ensure_ascii=False)


def _message_problems(index: int, message: object) -> list[str]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        return [f"{where}: expected object, got {type(message).__name__}"]
    problems = []
    if not isinstance(message.get("role"), str) or not message["role"]:
        problems.append(f"{where}.role: expected a role, got {message.get('role')!r}")
    # A message that calls tools may come without content.
    if not isinstance(message.get("content"), str) and "tool_calls" not in message:
        got = type(message.get("content")).__name__
        problems.append(f"{where}.content: expected str, got {got}")
    return problems
