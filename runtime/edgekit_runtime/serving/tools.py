"""Tools: how the families' models write a call, and how it is read.

Sources: the chat templates of Qwen2.5, Hermes, SmolLM3 (``<tool_call>``), Llama 3.1 and 3.2
(a bare object with ``parameters``), and Mistral (``[TOOL_CALLS]``, a special token, which decoding
leaves out).
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit_runtime.stopping import overlap

ToolFormat = Literal["tool_call", "bare_object", "bare_list"]
_OPENER = "<tool_call>"
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def tool_format(template: str) -> ToolFormat | None:
    """How a model whose chat template this is writes a call; None where that is not known."""
    if "tools" not in template:
        return None
    if _OPENER in template:
        return "tool_call"
    if "[TOOL_CALLS]" in template:
        return "bare_list"
    return "bare_object" if '"parameters"' in template and "ipython" in template else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call that an answer asks for."""

    name: str
    arguments: str

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's form, with an id of its own."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def forced_schema(tools: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """What an answer must be that has to call one of the tools, or the one of this name."""
    functions = [tool["function"] for tool in tools]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
        if name in (None, function["name"])
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def read_calls(text: str) -> list[ToolCall] | None:
    """The calls that JSON text holds: an object or a list of them; None if it is no such thing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    calls = [_read_call(one) for one in (value if isinstance(value, list) else [value])]
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None


def _read_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return ToolCall(name=value["name"], arguments=json.dumps(arguments, ensure_ascii=False))


class ToolScanner:
    """Tells calls from text in an answer that comes by pieces; what may be a call is held back.

    Args:
        form: How the model writes a call.
        forced: Whether the answer was constrained to be one call, as JSON alone.
    """

    def __init__(self, form: ToolFormat, *, forced: bool) -> None:
        self._is_bare = forced or form != "tool_call"
        self._text = ""
        self._n_shown = 0

    def push(self, piece: str) -> str:
        """Take the next piece; return what can be shown by now."""
        self._text += piece
        start, self._n_shown = self._n_shown, max(self._n_shown, self._end_of_text())
        return self._text[start : self._n_shown]

    def finish(self) -> tuple[str, list[ToolCall]]:
        """What was held back: text that is no call after all, or the calls."""
        held, self._n_shown = self._text[self._n_shown :], len(self._text)
        calls = read_calls(held) if self._is_bare else _read_blocks(held)
        return ("", calls) if calls else (held, [])

    def _end_of_text(self) -> int:
        """Where a call begins, or may begin."""
        if self._is_bare:
            return 0 if self._text.lstrip()[:1] in ("", "{", "[") else len(self._text)
        at = self._text.find(_OPENER)
        return at if at >= 0 else len(self._text) - overlap(self._text, _OPENER)


def _read_blocks(text: str) -> list[ToolCall] | None:
    """The calls between tags; the last one may lack its end, where the answer was stopped."""
    blocks = [read_calls(block) for block in _BLOCK.findall(text)]
    found = [call for calls in blocks for call in calls or ()]
    return found if blocks and all(blocks) else None
