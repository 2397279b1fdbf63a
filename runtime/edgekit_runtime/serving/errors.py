"""Errors in OpenAI's shape."""

from collections.abc import Mapping
from typing import Any

from edgekit_runtime.errors import (
    AdapterError,
    ContextLengthError,
    EdgekitRuntimeError,
    GenerationError,
    GraphError,
)


class ApiError(Exception):
    """A request that is answered by an error.

    Args:
        status: Of HTTP.
        message: For a person.
        code: For a program.
        param: The field that is wrong.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "error": {
                "message": self.message,
                "type": _type_of(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status == 401:
        return "authentication_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def bad_request(
    what: str, problems: list[str], *, hint: str = "", code: str = "invalid_request"
) -> ApiError:
    """An error 400 that names every problem; its ``param`` is the field of the first."""
    error = EdgekitRuntimeError(what, problems=problems, hint=hint)
    return ApiError(400, str(error), code=code, param=_field(problems))


def _field(problems: list[str]) -> str | None:
    place, colon, _ = problems[0].partition(": ") if problems else ("", "", "")
    return place if colon and " " not in place else None


def worker_error(error: EdgekitRuntimeError, *, is_running: bool) -> dict[str, Any]:
    """What the worker says of an error; `from_worker` reads it.

    Args:
        error: What went wrong.
        is_running: Whether the request had been found sound.
    """
    status, code = 400, "invalid_request"
    if isinstance(error, ContextLengthError):
        code = "context_length_exceeded"
    is_asked = isinstance(error, GenerationError | AdapterError)
    if is_running or isinstance(error, GraphError) or not is_asked:
        status, code = 500, "generation_failed"
    return {
        "status": status,
        "code": code,
        "what": error.what,
        "problems": list(error.problems),
        "hint": error.hint,
    }


def from_worker(told: Mapping[str, Any]) -> ApiError:
    """The error that the worker told of."""
    error = EdgekitRuntimeError(told["what"], problems=told["problems"], hint=told["hint"])
    return ApiError(told["status"], str(error), code=told["code"])
