"""One repository of a registry: its manifests and blobs, read and written."""

import http.client
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, NamedTuple

from edgekit_runtime.digests import sha256_of_bytes
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.registry.artifact import (
    IMAGE_INDEX_TYPE,
    IMAGE_MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    Layer,
)
from edgekit_runtime.registry.connection import Connection, Response
from edgekit_runtime.registry.reference import Reference

OnBytes = Callable[[int], None]
Access = Literal["pull", "pull,push"]

_READ_BYTES = 1 << 20
_TRIES_WITHOUT_PROGRESS = 4


class Span(NamedTuple):
    """Bytes of a blob: from ``start`` to before ``end``."""

    start: int
    end: int


class RangeError(RegistryError):
    """A registry that sends whole blobs only."""


class _InterruptedError(Exception):
    """A connection that broke while bytes came."""


class Repository:
    """What a reference names, over one connection. Safe to use from several threads.

    Args:
        reference: Where; its tag and digest are not looked at.
        access: What to log in for.
        plain_http: Speak HTTP without TLS.
    """

    def __init__(
        self, reference: Reference, *, access: Access = "pull", plain_http: bool = False
    ) -> None:
        self.reference = reference
        self.connection = Connection(reference.host, plain_http=plain_http)
        self.scope = f"repository:{reference.repository}:{access}"
        self.path = f"/v2/{reference.repository}"

    def manifest(self, name: str) -> bytes | None:
        """The manifest of a tag or digest, checked against the digest; None if there is none."""
        accept = f"{IMAGE_MANIFEST_TYPE}, {IMAGE_INDEX_TYPE}"
        response = self.connection.request(
            "GET",
            f"{self.path}/manifests/{name}",
            scope=self.scope,
            expected={200, 404},
            headers={"Accept": accept},
        )
        with response:
            if response.status == 404:
                return None
            data = self._whole(response, limit=MAX_MANIFEST_BYTES)
        if name.startswith("sha256:") and sha256_of_bytes(data) != name:
            raise RegistryError(
                f"registry '{self.reference.host}' sent another manifest than was asked for",
                problems=[f"digest: expected {name}, got {sha256_of_bytes(data)}"],
                hint="Ask whoever runs the registry; nothing was changed here.",
            )
        return data

    def referrers(self, digest: str) -> bytes | None:
        """What refers to a manifest, as an image index; None where the registry cannot tell."""
        response = self.connection.request(
            "GET",
            f"{self.path}/referrers/{digest}",
            scope=self.scope,
            expected={200, 400, 404, 405},
            headers={"Accept": IMAGE_INDEX_TYPE},
        )
        with response:
            is_index = response.headers.get_content_type() == IMAGE_INDEX_TYPE
            if response.status != 200 or not is_index:
                return None
            return self._whole(response, limit=MAX_MANIFEST_BYTES)

    def put_manifest(self, name: str, data: bytes, media_type: str) -> Response:
        """Write a manifest under a tag or its digest; returns the answer, closed."""
        response = self.connection.request(
            "PUT",
            f"{self.path}/manifests/{name}",
            scope=self.scope,
            expected={201},
            headers={"Content-type": media_type},
            data=data,
        )
        response.close()
        return response

    def small_blob(self, layer: Layer, *, limit: int) -> bytes:
        """A blob that fits into memory, checked.

        Raises:
            RegistryError: If it is larger than the limit, or is not what the digest says.
        """
        if layer.size_bytes > limit:
            problem = f"{layer.path or layer.media_type}: {layer.size_bytes} bytes, at most {limit}"
            raise RegistryError(f"{self.reference} names a blob that is too large: {problem}")
        sink = io.BytesIO()
        self.read(layer.digest, Span(0, layer.size_bytes), layer.size_bytes, sink)
        if sha256_of_bytes(sink.getvalue()) != layer.digest:
            raise self.other_bytes(layer.digest)
        return sink.getvalue()

    def read(
        self,
        digest: str,
        span: Span,
        size_bytes: int,
        sink: BinaryIO,
        on_bytes: OnBytes = lambda _: None,
        *,
        skips: bool = True,
    ) -> None:
        """Write some bytes of a blob; go on after interruptions.

        Args:
            digest: The blob.
            span: Which bytes of it.
            size_bytes: Size of the whole blob.
            sink: Where they go.
            on_bytes: Called with how many came.
            skips: Whether to read over what lies before, where a registry knows no ranges.

        Raises:
            RegistryError: If the registry stops again and again; a `RangeError` if it knows no
                ranges and nothing may be skipped.
        """
        at, tries = span.start, 0
        while at < span.end:
            before, problem = at, "it ended too early"
            try:
                for piece in self._pieces(digest, Span(at, span.end), size_bytes, skips):
                    sink.write(piece)
                    at += len(piece)
                    on_bytes(len(piece))
            except _InterruptedError as err:
                problem = str(err)
            tries = 0 if at > before else tries + 1
            if at < span.end and tries == _TRIES_WITHOUT_PROGRESS:
                raise RegistryError(
                    f"registry '{self.reference.host}' stopped sending {digest}",
                    problems=[problem],
                    hint="Try again; what was fetched is kept.",
                )

    def other_bytes(self, digest: str) -> RegistryError:
        """The error for a blob that is not what its digest says."""
        return RegistryError(
            f"registry '{self.reference.host}' sent other bytes than were asked for",
            problems=[f"{digest}: the content has another digest"],
            hint="Try again; if it stays, ask whoever runs the registry.",
        )

    def _whole(self, response: Response, *, limit: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while sum(map(len, pieces)) <= limit and (piece := _read(response, limit + 1)):
                pieces.append(piece)
        except _InterruptedError as err:
            raise RegistryError(f"registry '{self.reference.host}' broke off: {err}") from err
        data = b"".join(pieces)
        if len(data) > limit:
            raise RegistryError(f"a manifest at {self.reference} has more than {limit} bytes")
        return data

    def _pieces(self, digest: str, span: Span, size_bytes: int, skips: bool) -> Iterator[bytes]:
        """The bytes of one answer, no more than were asked for."""
        is_part = span != Span(0, size_bytes)
        response = self.connection.request(
            "GET",
            f"{self.path}/blobs/{digest}",
            scope=self.scope,
            expected={200, 206},
            headers={"Range": f"bytes={span.start}-{span.end - 1}"} if is_part else {},
        )
        skip = span.start if response.status == 200 else 0
        with response:
            if skip and not skips:
                raise RangeError(f"registry '{self.reference.host}' knows no ranges")
            while skip > 0:
                skip -= len(_read(response, skip)) or skip
            left = span.end - span.start
            while left and (piece := _read(response, left)):
                left -= len(piece)
                yield piece


def _read(response: Response, n: int) -> bytes:
    try:
        return response.read(min(n, _READ_BYTES))
    except (OSError, http.client.HTTPException) as err:
        raise _InterruptedError(f"{type(err).__name__}: {err}") from err
