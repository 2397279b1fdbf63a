"""What a request asks: OpenAI's fields in, jobs for the worker out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edgekit_runtime.errors import nearest
from edgekit_runtime.serving.bodies import Kind
from edgekit_runtime.serving.errors import bad_request
from edgekit_runtime.serving.fields import MAX_CHOICES
from edgekit_runtime.serving.jobs import Job
from edgekit_runtime.serving.tools import ToolFormat, forced_schema

_SAME_NAME: Final = ("temperature", "top_p", "top_k", "repetition_penalty")
_COMPLETION_TOKENS: Final = 16  # as OpenAI's, where a completion says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """How a request's tools are read from the answer.

    Attributes:
        form: How the model writes a call.
        forced: Whether the answer is constrained to be one call.
        one: Whether at most one call is wanted.
    """

    form: ToolFormat
    forced: bool
    one: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that was found sound.

    Attributes:
        model: The full name of the model.
        jobs: One for each choice: those of the first prompt, then those of the second, ...
        n: Choices of each prompt.
        user: Whose turn it is, where the request says so.
    """

    kind: Kind
    model: str
    jobs: tuple[Job, ...]
    n: int
    stream: bool
    include_usage: bool
    tools: ToolUse | None
    user: str | None


def read_chat(
    body: Mapping[str, Any],
    *,
    model: str,
    adapter: str | None,
    form: ToolFormat | None,
    is_routed: bool = False,
) -> Asked:
    """Read the body of ``/v1/chat/completions``.

    Args:
        body: Its fields, as `check_fields` returns them.
        model: Full name of the model.
        adapter: Its adapter.
        form: How the base's model writes tool calls; None where it cannot.
        is_routed: Whether the adapter is to be picked.

    Raises:
        ApiError: If the fields contradict each other.
    """
    tools, use = _tools(body, form)
    options = _options(body)
    if use is not None and use.forced:
        if "schema" in options or "regex" in options or "choices" in options:
            raise bad_request("tool_choice forces a call", ["response_format: leave it out"])
        choice = body["tool_choice"]
        name = choice["function"]["name"] if isinstance(choice, dict) else None
        options["schema"] = forced_schema(body["tools"], name)
    log_probs = body.get("top_logprobs", 0) if body.get("logprobs") else None
    if log_probs is None and "top_logprobs" in body:
        raise bad_request("top_logprobs asks for logprobs", ["logprobs: expected true"])
    job = Job(
        adapter=adapter,
        is_routed=is_routed,
        messages=[_message(message) for message in body["messages"]],
        tools=tools,
        options=options,
        log_probs=log_probs,
    )
    return _asked("chat", body, model, [job], use)


def read_completion(body: Mapping[str, Any], *, model: str, adapter: str | None) -> Asked:
    """Read the body of ``/v1/completions``; as `read_chat`."""
    options = _options(body)
    answers = body.get("max_tokens") != 0
    if not answers:
        del options["max_new_tokens"]
        if not body.get("echo"):
            raise bad_request("nothing is asked for", ["max_tokens: expected at least 1, got 0"])
    jobs = [
        Job(
            adapter=adapter,
            text=prompt if isinstance(prompt, str) else None,
            tokens=None if isinstance(prompt, str) else prompt,
            options=options,
            default_max_tokens=_COMPLETION_TOKENS,
            log_probs=body.get("logprobs"),
            echo=body.get("echo", False),
            answers=answers,
        )
        for prompt in _prompts(body["prompt"])
    ]
    return _asked("completion", body, model, jobs, None)


def _asked(
    kind: Kind, body: Mapping[str, Any], model: str, jobs: list[Job], tools: ToolUse | None
) -> Asked:
    n = body.get("n", 1)
    if n * len(jobs) > MAX_CHOICES:
        raise bad_request(
            "too many choices", [f"n: expected n times prompts of at most {MAX_CHOICES}, got {n}"]
        )
    return Asked(
        kind=kind,
        model=model,
        jobs=tuple(_with_seed(job, index) for job in jobs for index in range(n)),
        n=n,
        stream=body.get("stream", False),
        include_usage=body.get("stream_options", {}).get("include_usage") is True,
        tools=tools,
        user=body.get("user"),
    )


def _with_seed(job: Job, index: int) -> Job:
    """The job of the choice of this number: the same seed would give the same answer n times."""
    if index == 0 or "seed" not in job.options:
        return job
    return replace(job, options={**job.options, "seed": job.options["seed"] + index})


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options, by their names there."""
    options = {name: body[name] for name in _SAME_NAME if name in body}
    longest = body.get("max_completion_tokens", body.get("max_tokens"))
    if longest is not None:
        options["max_new_tokens"] = longest
    if "seed" in body:
        options["seed"] = body["seed"] % 2**63  # some clients send numbers below 0
    if "stop" in body:
        options["stop"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    return options | _constraint(body)


def _constraint(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = body.get("response_format", {"type": "text"})
    structured = {k: v for k, v in body.get("structured_outputs", {}).items() if v is not None}
    names = {"json": "schema", "regex": "regex", "choice": "choices"}
    found = {names[name]: value for name, value in structured.items()}
    if "value" in wanted and wanted["type"] != "json_object":
        problem = f"response_format.value: expected with json_object, got {wanted['type']}"
        raise bad_request("the request is malformed", [problem])
    if wanted["type"] == "json_object":
        found["schema"] = wanted.get("value") or {"type": "object"}
    elif wanted["type"] == "json_schema":
        if not wanted.get("json_schema"):
            raise bad_request("the request is malformed", ["response_format.json_schema: missing"])
        found["schema"] = wanted["json_schema"]["schema"]
    if len(found) > 1 or (structured and wanted["type"] != "text"):
        raise bad_request(
            "one constraint at a time",
            ["structured_outputs: give response_format, json, regex or choice"],
        )
    return found


def _tools(
    body: Mapping[str, Any], form: ToolFormat | None
) -> tuple[list[dict[str, Any]] | None, ToolUse | None]:
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    forced = choice not in ("none", "auto")
    if not tools:
        if forced:
            raise bad_request("tool_choice asks for a tool", ["tools: missing"])
        return None, None
    if form is None:
        raise bad_request(
            "this model cannot call tools",
            ["tools: the chat template has none, or writes calls in a form not known here"],
            hint="Ask for JSON by response_format instead.",
            code="tools_not_supported",
        )
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        wrong = choice["function"]["name"]
        raise bad_request(
            "tool_choice names no tool",
            [f"tool_choice.function.name: no {wrong!r}; {nearest(wrong, names)}"],
        )
    if choice == "none":
        return None, None
    one = forced or body.get("parallel_tool_calls") is False
    return tools, ToolUse(form=form, forced=forced, one=one)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as chat templates take it."""
    role, content = message["role"], message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    plain = {"role": "system" if role == "developer" else role, "content": content or ""}
    if message.get("tool_calls"):
        plain["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return plain | {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as chat templates take it: with its arguments as an object."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = function["arguments"]
    return {
        "id": call.get("id", ""),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a completion: texts, or lists of tokens."""
    is_many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return prompt if is_many else [prompt]
