"""The bodies of requests: fields that are taken, fields that change nothing, fields refused."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from edgekit_runtime.serving.shapes import Schema

MAX_CHOICES: Final = 128
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_FUNCTION_NAME: Schema = {"type": "string", "pattern": r"^[\w.-]{1,64}$"}

_PART: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["text"]}, "text": _TEXT},
}
_TOOL_CALL: Schema = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": _TEXT,
        "type": {"enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": _TEXT, "arguments": _TEXT},
        },
    },
}
# What else a message holds is what clients send back of our own answers: not read.
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _PART}]},
        "name": _TEXT,
        "tool_call_id": _TEXT,
        "tool_calls": {"type": "array", "items": _TOOL_CALL},
    },
}
_TOOL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": _FUNCTION_NAME,
                "description": _TEXT,
                "parameters": _OBJECT,
                "strict": _FLAG,
            },
        },
    },
}
_TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"enum": ["function"]},
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": _TEXT},
                },
            },
        },
    ]
}
_RESPONSE_FORMAT: Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        # As Text Generation Inference has it, and `huggingface_hub.InferenceClient` sends it.
        "value": _OBJECT,
        "json_schema": {
            "type": "object",
            "required": ["schema"],
            "properties": {
                "name": _TEXT,
                "description": _TEXT,
                "schema": _OBJECT,
                "strict": _FLAG,
            },
        },
    },
    "additionalProperties": False,
}
_STRUCTURED: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "json": {"anyOf": [_OBJECT, _TEXT]},
        "regex": _TEXT,
        "choice": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    },
}
_STREAM_OPTIONS: Schema = {
    "type": "object",
    "properties": {"include_usage": _FLAG, "include_obfuscation": _FLAG},
}
_SHARED: dict[str, Schema] = {
    "model": _TEXT,
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0},
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
    "seed": {"type": "integer"},
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 64},
        ]
    },
    "n": {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES},
    "stream": _FLAG,
    "stream_options": _STREAM_OPTIONS,
    "response_format": _RESPONSE_FORMAT,
    "structured_outputs": _STRUCTURED,
    "user": _TEXT,
}
CHAT: Final[Mapping[str, Schema]] = _SHARED | {
    "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "max_completion_tokens": {"type": "integer", "minimum": 1},
    "logprobs": _FLAG,
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "tools": {"type": "array", "items": _TOOL, "maxItems": 128},
    "tool_choice": _TOOL_CHOICE,
    "parallel_tool_calls": _FLAG,
}
COMPLETION: Final[Mapping[str, Schema]] = _SHARED | {
    "prompt": {
        "anyOf": [
            _TEXT,
            {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_CHOICES},
            _TOKENS,
            {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_CHOICES},
        ]
    },
    "max_tokens": {"type": "integer", "minimum": 0},
    "echo": _FLAG,
    "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
}
REQUIRED: Final = {"chat": ("model", "messages"), "completion": ("model", "prompt")}

# Fields of OpenAI's that change no answer here.
IGNORED: Final = frozenset(
    {
        "metadata",
        "store",
        "service_tier",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
    }
)


def _is_one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == neutral for neutral in values)


# Fields that would change the answer, and that nothing here does: the values that ask for nothing,
# and what to say of others.
REFUSED: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "frequency_penalty": (_is_one_of(0), "only 0 here; repetition_penalty is what there is"),
    "presence_penalty": (_is_one_of(0), "only 0 here; repetition_penalty is what there is"),
    "logit_bias": (_is_one_of({}), "not supported; structured_outputs may do what you want"),
    "min_p": (_is_one_of(0), "not supported; use top_p"),
    "best_of": (_is_one_of(1), "not supported; ask for n and choose"),
    "suffix": (_is_one_of(""), "not supported: a causal model reads no text behind the answer"),
    "modalities": (_is_one_of(["text"]), "only text here"),
    "audio": (_is_one_of({}), "only text here"),
    "functions": (_is_one_of([]), "superseded by tools"),
    "function_call": (_is_one_of("none"), "superseded by tool_choice"),
    "reasoning_effort": (_is_one_of("none"), "no such setting here"),
    "verbosity": (_is_one_of("medium"), "no such setting here"),
    "web_search_options": (_is_one_of({}), "nothing here leaves the machine"),
}
