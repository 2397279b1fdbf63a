"""The server's state, and the way of a job: wait for a turn, then have the worker answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from edgekit_runtime.serving.errors import ApiError
from edgekit_runtime.serving.jobs import Job
from edgekit_runtime.serving.memory import resident_bytes
from edgekit_runtime.serving.metrics import Metrics
from edgekit_runtime.serving.models import Models
from edgekit_runtime.serving.settings import ServeSettings
from edgekit_runtime.serving.supervisor import Supervisor
from edgekit_runtime.serving.turns import QueueFullError, Turns

Event = dict[str, Any]


class Service:
    """Everything that requests share.

    Args:
        settings: Checked settings.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.turns = Turns(n_places=settings.parallel, max_waiting=settings.max_waiting)
        self.supervisor = Supervisor(
            settings.for_worker(), on_ready=self.turns.open, on_down=self.turns.shut
        )
        self._models: Models | None = None
        self._limits: set[asyncio.Timeout] = set()
        self._is_draining = False
        self._is_ending = False

    @property
    def models(self) -> Models:
        """What is served."""
        assert self._models is not None
        return self._models

    async def open(self) -> None:
        """Start the worker.

        Raises:
            ServeError: If it cannot serve the bundle.
        """
        self._models = Models(await self.supervisor.start())

    async def close(self) -> None:
        """End the worker."""
        await self.supervisor.close()

    def drain(self) -> None:
        """Take no more requests; those that run have some time left, then they are ended."""
        if not self._is_draining:
            self._is_draining = True
            loop = asyncio.get_running_loop()
            loop.call_later(self.settings.shutdown_timeout_s, self._end_answers)

    def limited(self, arrived: float) -> AbstractAsyncContextManager[None]:
        """Bound what is done inside by the longest time of a request.

        Args:
            arrived: The loop's time when the request came.

        Raises:
            ApiError: When the time is over, or the server shuts down.
        """
        if self._is_draining:
            raise _shutting_down()
        return self._limited(arrived)

    async def run(self, job: Job, user: str, *, is_admitted: bool) -> AsyncGenerator[Event, None]:
        """Have a job answered when its turn comes; see `Supervisor.answer`.

        Args:
            job: What to answer.
            user: Whose turn it is.
            is_admitted: Whether another job of the same request came before.

        Raises:
            ApiError: If the queue is full, the job is not sound, or the worker fails.
        """
        try:
            turn = await self.turns.take(user, job.adapter, is_admitted=is_admitted)
        except QueueFullError as err:
            headers = {"retry-after": str(err.retry_after_s)}
            raise ApiError(429, str(err), code="queue_full", headers=headers) from err
        answer = self.supervisor.answer(job.to_dict(), on_end=turn.release)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    def gauges(self) -> Mapping[str, tuple[str, float]]:
        """Values of this moment, for the metrics."""
        found: dict[str, tuple[str, float]] = {
            "edgekit_requests_running": ("Requests that are answered.", self.turns.n_running),
            "edgekit_requests_waiting": ("Requests in the queue.", self.turns.n_waiting),
            "edgekit_worker_up": ("Whether the worker takes jobs.", self.supervisor.is_ready),
            "edgekit_worker_starts_total": ("Workers started.", self.supervisor.n_starts),
        }
        pid = self.supervisor.pid
        n_bytes = None if pid is None else resident_bytes(pid)
        if n_bytes is not None:
            found["edgekit_worker_resident_bytes"] = ("Memory of the worker.", n_bytes)
        return found

    @asynccontextmanager
    async def _limited(self, arrived: float) -> AsyncIterator[None]:
        limit = asyncio.timeout_at(arrived + self.settings.request_timeout_s)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError as err:
            if self._is_ending:
                raise _shutting_down() from err
            message = f"no answer within {self.settings.request_timeout_s:g} s"
            raise ApiError(504, message, code="timeout") from err
        finally:
            self._limits.discard(limit)

    def _end_answers(self) -> None:
        self._is_ending = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")
