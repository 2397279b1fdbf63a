"""The server's description, from the very fields that requests are checked by."""

from collections.abc import Mapping
from typing import Any

from edgekit_runtime import __version__
from edgekit_runtime.serving.fields import CHAT, COMPLETION, REQUIRED
from edgekit_runtime.serving.shapes import Schema

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ADAPTER = {"lora_name": {"type": "string"}, "lora_path": {"type": "string"}}
_REFUSALS = ("400", "401", "403", "404", "408", "413", "429", "500", "503", "504")


def description(*, has_key: bool) -> dict[str, Any]:
    """An OpenAPI document.

    Args:
        has_key: Whether clients have to show a key.
    """
    paths = {
        "/health": {"get": _get("Whether the server can answer.", "application/json")},
        "/metrics": {"get": _get("Counters, for Prometheus.", "text/plain")},
        "/v1/models": {"get": _get("The base and every adapter.", "application/json")},
        "/v1/chat/completions": {"post": _post("Answer a conversation.", CHAT, REQUIRED["chat"])},
        "/v1/completions": {
            "post": _post("Go on with a text.", COMPLETION, REQUIRED["completion"])
        },
        "/v1/load_lora_adapter": {
            "post": _post("Load an adapter.", _ADAPTER, ("lora_name", "lora_path"), "text/plain")
        },
        "/v1/unload_lora_adapter": {
            "post": _post("Unload such an adapter.", _ADAPTER, ("lora_name",), "text/plain")
        },
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "edgekit", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }
    if has_key:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _get(summary: str, media_type: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(media_type)}


def _post(
    summary: str,
    fields: Mapping[str, Schema],
    required: tuple[str, ...],
    media_type: str = "application/json",
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {
            name: field if name in required else _or_null(field) for name, field in fields.items()
        },
        "additionalProperties": True,
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "requestBody": body, "responses": _responses(media_type)}


def _responses(media_type: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {"200": {"description": "The answer.", "content": {media_type: {}}}}
    for status in _REFUSALS:
        found[status] = {"description": "Refused or failed.", "content": error}
    return found


def _or_null(schema: Schema) -> Schema:
    """A field that may be null, which is as if it were not there."""
    return {"anyOf": [schema, {"type": "null"}]}
