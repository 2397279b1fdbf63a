"""A real registry on loopback, and what stands between it and its clients in tests."""

import asyncio
import contextlib
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

HOW = "no registry here; `make registry` fetches Debian's docker-registry into .registry/"
USER, PASSWORD = "ana", "open sesame"
# htpasswd -nbB -C 4 ana "open sesame"
HTPASSWD = "ana:$2b$04$4hffltk3rnlfHFau1KtqoeGRLBlCqh.5TOxBuKALpMsbJB4.06mgC\n"


def registry_program() -> str:
    """The program ``docker-registry``; skips the test where there is none."""
    own = ROOT / ".registry" / "usr" / "bin" / "docker-registry"
    found = os.environ.get("EDGEKIT_TEST_REGISTRY") or shutil.which("docker-registry")
    found = found or (str(own) if own.is_file() else None)
    if found is None:
        pytest.skip(HOW)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_registry(folder: Path, more: str = "", http: str = "") -> Iterator[str]:
    """Start a registry; gives its host and port.

    Args:
        folder: Where it keeps everything.
        more: Further sections of its configuration.
        http: Further lines of the section ``http``, indented by two.
    """
    host = f"127.0.0.1:{free_port()}"
    config = (
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage:\n  filesystem: {{rootdirectory: '{folder / 'data'}'}}\n"
        f"http:\n  addr: {host}\n{http}{more}"
    )
    (folder / "config.yml").write_text(config)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [registry_program(), "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        _wait_for(host, process, folder / "log")
        yield host
    finally:
        process.kill()
        process.wait()


def _wait_for(host: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    name, port = host.split(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"no registry at {host}: {log.read_text()}")


class Wire:
    """A TCP proxy that counts every byte, and may cut connections.

    Attributes:
        up, down: Bytes to the registry and from it.
        cut_up_after, cut_down_after: A connection ends when so many bytes went that way on it.
    """

    def __init__(self, host: str) -> None:
        self._target = host.split(":")
        self.up = self.down = self.connections = 0
        self.cut_up_after: int | None = None
        self.cut_down_after: int | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        )
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def reset(self) -> None:
        self.up = self.down = self.connections = 0

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        name, port = self._target
        there, back = await asyncio.open_connection(name, int(port))
        try:
            await asyncio.gather(
                self._pump(reader, back, "up", self.cut_up_after),
                self._pump(there, writer, "down", self.cut_down_after),
            )
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, back):
                end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: str,
        limit: int | None,
    ) -> None:
        total = 0
        while data := await reader.read(16384):
            total += len(data)
            setattr(self, way, getattr(self, way) + len(data))
            if limit is not None and total > limit:
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class Front(http.server.ThreadingHTTPServer):
    """An HTTP front of a registry: passes everything on; a child changes what it wants."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        self.target = host
        self.log: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """What to answer; the registry's own words by default."""
        return self.ask(method, path, headers, body)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.target)
        kept = {name: value for name, value in headers.items() if name.lower() != "connection"}
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=kept)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Front

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = dict(self.headers.items())
        self.server.log.append((self.command, self.path, headers))
        status, told, data = self.server.answer(self.command, self.path, headers, body)
        self.send_response(status)
        for name, value in told.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date"}:
                self.send_header(name, value)
        length = told.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_one  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""
