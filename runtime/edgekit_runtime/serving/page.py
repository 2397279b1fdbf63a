"""The web page at ``/``: files that are read once and served as they are.

The page is a client like any other: it talks to the same endpoints, and nothing of it is made for
a request. Its policy lets the browser run and load only what this server sent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

# By hand: what `mimetypes` says of .js depends on the machine, and browsers refuse a wrong one.
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, but asked for again: a newer server has other files
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read() -> dict[str, _File]:
    found = {}
    for entry in files("edgekit_runtime.serving").joinpath("web").iterdir():
        media_type = _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is None:
            continue
        content = entry.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        path = "/" if entry.name == "index.html" else f"/web/{entry.name}"
        found[path] = _File(content=content, media_type=media_type, etag=etag)
    return found


_FILES: Final = _read()
# They are the same for everybody and name nothing that is served, so no key is asked for.
PATHS: Final = frozenset(_FILES)


def page(request: Request) -> Response:
    """The file of a path in `PATHS`, or 304 where the client has it."""
    file = _FILES[request.url.path]
    headers = {**_HEADERS, "etag": file.etag}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _has(known: str, etag: str) -> bool:
    """Whether a client's ``If-None-Match`` names a file; a proxy may have made it weak."""
    return etag in [one.strip().removeprefix("W/") for one in known.split(",")]
