"""Who is answered next: fair between users, in groups by adapter, and bounded."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

# Overtakings that one who waits bears, so that groups by adapter starve nobody.
MAX_PASSES: Final = 4
_MEMORY: Final = 0.8  # share of the old average that a new duration leaves


class QueueFullError(Exception):
    """Nobody else may wait.

    Args:
        retry_after_s: When it is worth to ask again.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(kw_only=True, slots=True, eq=False)
class _Ticket:
    """Somebody who waits.

    Attributes:
        rank: Place in the fair order: virtual start time, then arrival.
        n_passed: How many came later and went first.
    """

    adapter: str | None
    rank: tuple[float, int]
    turn: "asyncio.Future[Turn]"
    n_passed: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Turn:
    """A place among those that are answered; to be released."""

    adapter: str | None
    turns: "Turns"
    started: float = field(default_factory=time.monotonic)
    is_over: bool = False

    def release(self) -> None:
        """Let the next one in; further calls do nothing."""
        if not self.is_over:
            self.is_over = True
            self.turns._left(time.monotonic() - self.started)


class Turns:
    """A bounded queue before a few places.

    The order is that of start-time fair queueing: each user's requests follow each other, and
    users alternate however many requests one of them has. Within it, a request for the adapter
    that was served last goes first, as long as it overtakes nobody for the fifth time.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996; every request costs the same.

    Args:
        n_places: Requests that are answered at the same time.
        max_waiting: Requests that may wait.
    """

    def __init__(self, *, n_places: int, max_waiting: int) -> None:
        self._n_places = n_places
        self._max_waiting = max_waiting
        self._waiting: list[_Ticket] = []
        self._n_running = 0
        self._is_open = True
        self._clock = 0.0
        self._next_start: dict[str, float] = {}
        self._n_arrived = 0
        self._last: str | None = None
        self._average_s = 1.0

    @property
    def n_running(self) -> int:
        """Requests that are answered now."""
        return self._n_running

    @property
    def n_waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def open(self) -> None:
        """Let the waiting in as far as there are places."""
        self._is_open = True
        self._fill()

    def shut(self) -> None:
        """Let nobody in until `open`; they may come and wait."""
        self._is_open = False

    async def take(self, user: str, adapter: str | None, *, is_admitted: bool = False) -> Turn:
        """Wait for a place.

        Args:
            user: Whose turn it is.
            adapter: What is to be run.
            is_admitted: Whether this belongs to a request that waited before; the queue is never
                full for it.

        Raises:
            QueueFullError: If too many wait.
        """
        ticket = self._ticket(user, adapter)
        self._waiting.append(ticket)
        self._fill()
        if not ticket.turn.done() and not is_admitted and self.n_waiting > self._max_waiting:
            self._waiting.remove(ticket)
            self._next_start[user] = ticket.rank[0]
            raise QueueFullError(self._retry_after_s())
        try:
            return await ticket.turn
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise

    def refuse_all(self, error: Exception) -> None:
        """Send everybody away who waits."""
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            if not ticket.turn.done():
                ticket.turn.set_exception(error)

    def _ticket(self, user: str, adapter: str | None) -> _Ticket:
        start = max(self._clock, self._next_start.get(user, 0.0))
        self._next_start[user] = start + 1
        self._n_arrived += 1
        turn = asyncio.get_running_loop().create_future()
        return _Ticket(adapter=adapter, rank=(start, self._n_arrived), turn=turn)

    def _fill(self) -> None:
        self._waiting = [ticket for ticket in self._waiting if not ticket.turn.done()]
        while self._is_open and self._waiting and self._n_running < self._n_places:
            ticket = self._pick()
            self._waiting.remove(ticket)
            self._clock = max(self._clock, ticket.rank[0])
            self._next_start = {u: s for u, s in self._next_start.items() if s > self._clock}
            self._last = ticket.adapter
            self._n_running += 1
            ticket.turn.set_result(Turn(adapter=ticket.adapter, turns=self))

    def _pick(self) -> _Ticket:
        order = sorted(self._waiting, key=lambda ticket: ticket.rank)
        for index, ticket in enumerate(order):
            if ticket.adapter == self._last:
                for overtaken in order[:index]:
                    overtaken.n_passed += 1
                return ticket
            if ticket.n_passed >= MAX_PASSES:
                break
        return order[0]

    def _give_up(self, ticket: _Ticket) -> None:
        """The one who waited has gone, perhaps in the moment in which the turn came."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket.turn.done() and not ticket.turn.cancelled() and not ticket.turn.exception():
            ticket.turn.result().release()

    def _left(self, seconds: float) -> None:
        self._average_s = _MEMORY * self._average_s + (1 - _MEMORY) * seconds
        self._n_running -= 1
        self._fill()

    def _retry_after_s(self) -> int:
        expected_s = self._average_s * (self.n_waiting + 1) / self._n_places
        return max(1, min(60, round(expected_s)))
