"""What stands before every request: who may ask, and how much they may send."""

import asyncio
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekit_runtime.serving.errors import ApiError
from edgekit_runtime.serving.page import PATHS
from edgekit_runtime.serving.responding import error_response
from edgekit_runtime.serving.settings import ServeSettings

_OPEN_PATHS: Final = PATHS | {"/health"}
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# A body that is too long is read so far before it is refused: a client that still writes would
# see a broken connection instead of the answer.
_PATIENCE_BYTES: Final = 16 * 1024 * 1024
_CLOSE: Final[Mapping[str, str]] = {"connection": "close"}


class Guard:
    """Lets requests through that show the key, or, without one, that come from this machine.

    Without a key, a web page that somebody has open must not use the server either: its requests
    name another origin, or another host where it plays tricks with names (DNS rebinding).

    Args:
        app: What is guarded.
        settings: Key and host.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._key = None if settings.api_key is None else settings.api_key.encode()
        is_checked = settings.is_local and settings.api_key is None
        self._hosts = _LOCAL_HOSTS | {settings.host} if is_checked else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        error = None
        if scope["type"] == "http":
            error = self._refusal(scope["path"], Headers(scope=scope))
        app = self._app if error is None else error_response(error)
        await app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self._key is not None:
            is_known = path in _OPEN_PATHS or self._shows_key(headers)
            return None if is_known else _wrong_key(headers)
        if self._hosts is None:
            return None
        host, origin = headers.get("host", ""), headers.get("origin")
        if host and _host_name(host) not in self._hosts:
            return _forbidden(f"the host {host!r} is not this machine")
        if origin is not None and origin.partition("://")[2] != host:
            return _forbidden(f"a page of {origin!r} may not use this server")
        return None

    def _shows_key(self, headers: Headers) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(shown.strip().encode(), self._key or b"")
        return same and kind.lower() == "bearer"


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a body that is neither too long nor too slow.

    Raises:
        ApiError: If it is.
        ClientDisconnect: If the client goes away.
    """
    parts: list[bytes] = []
    n_bytes = _declared(request)
    try:
        async with asyncio.timeout(timeout_s):
            if n_bytes <= max_bytes + _PATIENCE_BYTES:
                n_bytes = 0
                async for part in request.stream():
                    n_bytes += len(part)
                    if n_bytes <= max_bytes:
                        parts.append(part)
                    elif n_bytes > max_bytes + _PATIENCE_BYTES:
                        break
    except TimeoutError as err:
        message = f"the body did not come within {timeout_s:g} s"
        raise ApiError(408, message, code="timeout", headers=_CLOSE) from err
    if n_bytes > max_bytes:
        message = f"the body is too long: expected at most {max_bytes} bytes"
        raise ApiError(413, message, code="body_too_long", headers=_CLOSE)
    return b"".join(parts)


def _declared(request: Request) -> int:
    """Length of the body as its header says; 0 where it does not."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _host_name(host: str) -> str:
    """The host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that do not match
        return ""


def _wrong_key(headers: Headers) -> ApiError:
    is_shown = "authorization" in headers
    message = "wrong API key" if is_shown else "no API key: expected 'Authorization: Bearer KEY'"
    more = {"www-authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=more)


def _forbidden(message: str) -> ApiError:
    hint = "Start the server with an API key to allow this."
    return ApiError(403, f"{message}. {hint}", code="forbidden")
