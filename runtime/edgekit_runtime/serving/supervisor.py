"""Keeps the worker process alive, and carries jobs and events between it and the server."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from edgekit_runtime.errors import ServeError
from edgekit_runtime.serving.errors import ApiError, from_worker

_log = logging.getLogger(__name__)
_COMMAND: Final = (sys.executable, "-m", "edgekit_runtime.serving.worker")
_MAX_LINE_BYTES: Final = 1 << 26
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
# A worker that does not even stop within this is stuck in native code.
STUCK_S: Final = 60.0

Event = dict[str, Any]


class _Open:
    """A job that the worker has."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.on_end = on_end


class Supervisor:
    """One worker process after the other.

    Args:
        settings: What the worker opens.
        on_ready: Called when a worker can take jobs.
        on_down: Called when it no longer can.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._on_down = on_down
        self._process: asyncio.subprocess.Process | None = None
        self._open: dict[int, _Open] = {}
        self._n_jobs = 0
        self._guests: dict[str, str] = {}
        self._info: asyncio.Future[Event] | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_ready = False
        self.n_starts = 0

    @property
    def pid(self) -> int | None:
        """Of the worker, None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self) -> Event:
        """Start the first worker; return what it says of the bundle.

        Raises:
            ServeError: If it cannot serve it.
        """
        self._info = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_alive())
        return await self._info

    async def close(self) -> None:
        """End the worker, which drops what it still does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def answer(
        self, job: Mapping[str, Any], *, on_end: Callable[[], None]
    ) -> AsyncGenerator[Event, None]:
        """Have a job answered; leaving the loop early cancels it.

        Args:
            job: See `edgekit_runtime.serving.jobs.Job`.
            on_end: Called once, when the worker has nothing to do with the job any more.

        Raises:
            ApiError: If the job is not sound, or the worker fails.
        """
        id_, opened = self._send({"op": "answer", "job": job}, on_end)
        try:
            while True:
                event = await opened.events.get()
                if event["event"] == "error":
                    raise from_worker(event["error"])
                yield event
                if event["event"] == "done":
                    return
        finally:
            if id_ in self._open:
                self._cancel(id_)

    async def load(self, name: str, path: str) -> Event:
        """Load an adapter from outside the bundle; a new worker will have it too.

        Returns:
            What the worker says of it.
        """
        told = await self._change({"op": "load", "name": name, "path": path})
        self._guests[name] = path
        return told

    async def unload(self, name: str) -> None:
        """Unload such an adapter."""
        await self._change({"op": "unload", "name": name})
        self._guests.pop(name, None)

    async def _change(self, message: Event) -> Event:
        _, opened = self._send(message, lambda: None)
        event = await opened.events.get()
        if event["event"] == "error":
            raise from_worker(event["error"])
        return event

    def _send(self, message: Event, on_end: Callable[[], None]) -> tuple[int, _Open]:
        if not self.is_ready:
            on_end()
            raise _lost()
        self._n_jobs += 1
        opened = self._open[self._n_jobs] = _Open(on_end)
        self._write(message | {"id": self._n_jobs})
        return self._n_jobs, opened

    def _write(self, message: Event) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _cancel(self, id_: int) -> None:
        self._write({"op": "cancel", "id": id_})
        asyncio.get_running_loop().call_later(STUCK_S, self._kill_if_open, id_, self._process)

    def _kill_if_open(self, id_: int, process: asyncio.subprocess.Process | None) -> None:
        if process is not None and process is self._process and id_ in self._open:
            _log.error("the worker did not stop an answer within %.0f s; it is killed", STUCK_S)
            process.kill()

    async def _keep_alive(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            was_ready = await self._run_one()
            if self._info is not None and not self._info.done():
                self._info.set_exception(ServeError("the worker ended before it was ready"))
            if self._info is not None and self._info.exception() is not None:
                return
            _log.warning("the worker ended; another one is started")
            delay_s = _FIRST_DELAY_S if was_ready else min(_LONGEST_DELAY_S, 2 * delay_s)
            await asyncio.sleep(delay_s)

    async def _run_one(self) -> bool:
        """Run a worker to its end; return whether it could take jobs."""
        self.n_starts += 1
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                limit=_MAX_LINE_BYTES,
                **_own_group(),
            )
        except OSError as err:
            _log.error("no worker can be started: %s", err)
            return False
        was_ready = False
        try:
            self._write(dict(self._settings))
            assert process.stdout is not None
            async for line in process.stdout:
                if line.endswith(b"\n"):  # a worker may be killed in the middle of one
                    self._take(json.loads(line))
                was_ready = was_ready or self.is_ready
        finally:
            self.is_ready = False
            self._on_down()
            self._fail_open()
            await _end(process)
        return was_ready

    def _take(self, event: Event) -> None:
        kind, id_ = event["event"], event["id"]
        if kind == "ready":
            self._welcome(event)
        elif kind == "failed":
            self._refuse(event["error"])
        elif id_ in self._open:
            self._open[id_].events.put_nowait(event)
            if kind in ("done", "error", "cancelled"):
                self._open.pop(id_).on_end()

    def _welcome(self, info: Event) -> None:
        self.is_ready = True
        for name, path in self._guests.items():
            self._write({"op": "load", "id": 0, "name": name, "path": path})
        if self._info is not None and not self._info.done():
            self._info.set_result(info)
        self._on_ready()

    def _refuse(self, told: Event) -> None:
        error = ServeError(told["what"], problems=told["problems"], hint=told["hint"])
        if self._info is not None and not self._info.done():
            self._info.set_exception(error)
        else:
            _log.error("the worker cannot start: %s", error)

    def _fail_open(self) -> None:
        opened, self._open = self._open, {}
        for one in opened.values():
            one.events.put_nowait({"event": "error", "error": _LOST})
            one.on_end()


_LOST: Final = {
    "status": 500,
    "code": "worker_died",
    "what": "the worker process died while it answered",
    "problems": [],
    "hint": "Another one is started; ask again.",
}


def _lost() -> ApiError:
    return from_worker(_LOST)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the worker's stdin, which ends it; kill it if that is not enough."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(2):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _own_group() -> dict[str, Any]:
    """Keep the terminal's Ctrl-C from the worker: the server ends it when it is done itself."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    return {"process_group": 0}
