"""HTTP for the server: uvicorn's h11 protocol, and patience that ends."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """Closes connections that do not send a request's headers in time.

    uvicorn itself only bounds how long a connection may idle between requests, so that a client
    which sends a byte now and then, or none at all, would hold its connection for ever.
    """

    read_timeout_s: ClassVar[float] = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; stop waiting when the headers are there."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._rest()
        super().connection_lost(exc)
        # uvicorn leaves it where the client broke off, and it holds all that was the connection's.
        self._unset_keepalive_if_required()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._rest()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.read_timeout_s, self._give_up)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()


def protocol_with(read_timeout_s: float) -> Any:
    """The protocol with its limit, as a class for uvicorn."""
    return type("Protocol", (PatientProtocol,), {"read_timeout_s": read_timeout_s})
