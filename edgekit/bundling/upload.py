"""Send a blob to a registry: skipped where it is there, gone on with where it broke off."""

import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from edgekit_runtime.errors import RegistryError
from edgekit_runtime.registry.artifact import Layer
from edgekit_runtime.registry.connection import Response
from edgekit_runtime.registry.repository import OnBytes, Repository

_TRIES_WITHOUT_PROGRESS = 4
_RECEIVED = re.compile(r"(?:bytes=)?0-(\d+)")


def has_blob(repository: Repository, digest: str) -> bool:
    """Whether the registry has a blob already."""
    return _ask(repository, "HEAD", f"{repository.path}/blobs/{digest}", {200, 404}).status == 200


def upload_missing(repository: Repository, layer: Layer, content: bytes) -> int:
    """Send a blob unless it is there; returns how many bytes were sent."""
    if has_blob(repository, layer.digest):
        return 0
    upload_blob(repository, layer, content)
    return layer.size_bytes


def upload_blob(
    repository: Repository, layer: Layer, content: Path | bytes, on_bytes: OnBytes = lambda _: None
) -> None:
    """Send one blob.

    It goes the way of Docker's own client, which every registry knows: a session, the bytes in one
    stream, the digest at the end. Where the stream breaks, the registry is asked how far it came;
    one that kept nothing (Docker's own does not) gets it from the start.

    Args:
        repository: Where to.
        layer: Digest and size of the blob.
        content: Its bytes, or the file that holds them.
        on_bytes: Called with how many were sent; negative where some have to be sent again.

    Raises:
        RegistryError: If it breaks again and again, or the registry finds another digest.
    """
    session, at = _begin(repository), 0
    tries = 0
    while at < layer.size_bytes:
        body = _Body(content, at, on_bytes)
        try:
            session, at = _send(repository, session, body, layer.size_bytes), layer.size_bytes
        except RegistryError:
            tries += 1
            if tries == _TRIES_WITHOUT_PROGRESS:
                raise
            session, received = _find(repository, session)
            tries = 0 if received > at else tries
            at = received
            on_bytes(at - body.at)
        finally:
            body.close()
    mark = "&" if "?" in session else "?"
    _ask(repository, "PUT", f"{session}{mark}digest={layer.digest}", {201}, data=b"")


class _Body(io.RawIOBase):
    """A blob from some byte on, that tells how far it was read."""

    def __init__(self, content: Path | bytes, start: int, on_bytes: OnBytes) -> None:
        self._start = start
        self._on_bytes = on_bytes
        self._file: BinaryIO = (
            io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        )
        self.at = self._file.seek(start)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.at += len(data)
        self._on_bytes(len(data))
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only to the beginning: a login came between, and the body is sent again."""
        assert (offset, whence) == (0, io.SEEK_SET)
        self._on_bytes(self._start - self.at)
        self.at = self._file.seek(self._start)
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _begin(repository: Repository) -> str:
    response = _ask(repository, "POST", f"{repository.path}/blobs/uploads/", {202}, data=b"")
    return _session(repository, response)


def _send(repository: Repository, session: str, body: _Body, size_bytes: int) -> str:
    """Send what is missing; the registry answers with the session's next address."""
    headers = {"Content-Length": str(size_bytes - body.at)}
    if body.at:
        headers["Content-Range"] = f"{body.at}-{size_bytes - 1}"
    response = _ask(repository, "PATCH", session, {202}, headers=headers, data=body, attempts=1)
    return _session(repository, response)


def _find(repository: Repository, session: str) -> tuple[str, int]:
    """Where an upload that broke off stands; a new one where the registry dropped it."""
    response = _ask(repository, "GET", session, {204, 400, 404})
    received = _RECEIVED.fullmatch(response.headers.get("Range", ""))
    if response.status != 204 or received is None:
        return _begin(repository), 0
    # The specification has no way to say "nothing"; Docker's registry says 0-0 for it.
    last = int(received[1])
    return _session(repository, response), last + 1 if last else 0


def _session(repository: Repository, response: Response) -> str:
    location = response.headers.get("Location")
    if location is None:
        raise RegistryError(f"registry '{repository.reference.host}' did not say where to upload")
    return repository.connection.url(location)


def _ask(
    repository: Repository,
    method: str,
    url: str,
    expected: Collection[int],
    *,
    headers: Mapping[str, str] | None = None,
    data: bytes | _Body | None = None,
    attempts: int = 4,
) -> Response:
    """Send a request whose answer has no body that matters."""
    response = repository.connection.request(
        method,
        url,
        scope=repository.scope,
        expected=expected,
        headers=headers,
        data=data,
        attempts=attempts,
    )
    response.close()
    return response
