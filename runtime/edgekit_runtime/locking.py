"""A fair lock: threads that share one engine take turns, token by token."""

import threading
from collections import deque
from types import TracebackType


class TurnLock:
    """A reentrant lock that goes to whoever waited longest.

    A plain lock lets the thread that has just released it take it again at once, so that one
    long answer would starve all others. Reentrant, since the garbage collector may close a
    forgotten stream in the very thread that is inside a step of another.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return
        entry = (me, threading.Lock())
        entry[1].acquire()
        with self._mutex:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return
            self._waiting.append(entry)
        try:
            entry[1].acquire()
        except BaseException:  # Ctrl-C while waiting: nobody may hand the turn to us any more
            self._give_up(entry)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            with self._mutex:
                self._pass_on()

    def _pass_on(self) -> None:
        if not self._waiting:
            self._owner = None
            return
        self._owner, turn = self._waiting.popleft()
        self._depth = 1
        turn.release()

    def _give_up(self, entry: tuple[int, threading.Lock]) -> None:
        with self._mutex:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif self._owner == entry[0]:
                self._pass_on()
