"""A real server on loopback, in a thread of this process; its worker is a process of its own."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from openai import OpenAI

from edgekit_runtime.serving.server import Server, run
from edgekit_runtime.serving.service import Service
from edgekit_runtime.serving.settings import ServeSettings

PATIENCE_S = 240  # before a test gives up on something that must come


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: Without a path.
        errors: What ended it, if something did.
    """

    settings: ServeSettings
    url: str = ""
    server: Server | None = None
    errors: list[BaseException] = field(default_factory=list)

    @property
    def service(self) -> Service:
        assert self.server is not None
        return self.server.service

    def openai(self, **options: Any) -> OpenAI:
        """The official client."""
        key = self.settings.api_key or "none"
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def http(self, **options: Any) -> httpx2.Client:
        """A client that knows nothing of OpenAI."""
        return httpx2.Client(base_url=self.url, timeout=PATIENCE_S, **options)

    def metric(self, name: str) -> float:
        """One value of ``/metrics``, with its labels."""
        with self.http() as client:
            lines = client.get("/metrics").text.splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
        return float(values[0]) if values else 0.0

    @contextmanager
    def frozen_worker(self) -> Iterator[int]:
        """Hold the worker still, so that what it answers stays unfinished."""
        pid = self.service.supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):  # it may have been killed
                os.kill(pid, signal.SIGCONT)

    def kill_worker(self) -> None:
        """As the system does when memory is short."""
        pid = self.service.supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """What SIGTERM does."""
        assert self.server is not None
        self.server.should_exit = True


@contextmanager
def running(bundle: Path, **settings: Any) -> Iterator[Running]:
    """Serve a bundle on a free port until the end of the block."""
    found = Running(ServeSettings(**({"bundle": bundle, "port": 0, "threads": 1} | settings)))
    is_ready = threading.Event()

    def ready(url: str, server: Server) -> None:
        found.url, found.server = url, server
        is_ready.set()

    def serve() -> None:
        try:
            run(found.settings, on_ready=ready)
        except BaseException as err:
            found.errors.append(err)
        finally:
            is_ready.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        assert is_ready.wait(PATIENCE_S)
        if found.errors:
            raise found.errors[0]
        yield found
    finally:
        if found.server is not None:
            found.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not found.errors


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
