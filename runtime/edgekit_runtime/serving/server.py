"""Runs the server until a signal ends it: what it answers may finish, within a stated time."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from edgekit_runtime.errors import ServeError
from edgekit_runtime.serving.app import make_app
from edgekit_runtime.serving.protocol import protocol_with
from edgekit_runtime.serving.service import Service
from edgekit_runtime.serving.settings import ServeSettings

# Beyond the time that answers are given: for the error that ends them to be sent.
_GRACE_S = 5
_MAX_CONNECTIONS = 1000


class Server(uvicorn.Server):
    """uvicorn, told what to do first when it ends.

    Args:
        config: uvicorn's.
        service: What it serves.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.was_interrupted = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and let the others finish."""
        self.service.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn does, but without raising the signals again when all is done."""
        with super().capture_signals():
            yield
            self.was_interrupted = signal.SIGINT in self._captured_signals
            self._captured_signals.clear()


def run(settings: ServeSettings, *, on_ready: Callable[[str, Server], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        settings: How.
        on_ready: Called with the URL when requests are taken.

    Raises:
        ServeError: If the settings do not work, the port is taken, or the bundle cannot be run.
        KeyboardInterrupt: After Ctrl-C.
    """
    settings.check()
    listener = listen(settings.host, settings.port)
    with contextlib.closing(listener):
        config = config_of(settings)
        factory = config.get_loop_factory()
        with asyncio.Runner(loop_factory=factory) as runner:
            was_interrupted = runner.run(_serve(settings, config, listener, on_ready))
    if was_interrupted:
        raise KeyboardInterrupt


async def _serve(
    settings: ServeSettings,
    config: uvicorn.Config,
    listener: socket.socket,
    on_ready: Callable[[str, Server], None],
) -> bool:
    """Serve; return whether Ctrl-C ended it."""
    service = Service(settings)
    try:
        await service.open()
        config.app = make_app(service)
        server = Server(config, service)
        on_ready(url_of(settings, listener), server)
        await server.serve(sockets=[listener])
        return server.was_interrupted
    finally:
        await service.close()


def config_of(settings: ServeSettings) -> uvicorn.Config:
    """The configuration for uvicorn; the application is still to be set."""
    if settings.has_access_log:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("uvicorn.access").addHandler(handler)
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    return uvicorn.Config(
        _no_app,
        http=protocol_with(settings.read_timeout_s),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=settings.has_access_log,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(settings.keep_alive_s),
        timeout_graceful_shutdown=round(settings.shutdown_timeout_s + _GRACE_S),
        limit_concurrency=_MAX_CONNECTIONS,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
    )


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


def listen(host: str, port: int) -> socket.socket:
    """Take the address before anything slow is done.

    Raises:
        ServeError: If it is taken, or is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as err:
        raise ServeError(
            f"cannot listen on {host}, port {port}",
            problems=[getattr(err, "strerror", None) or str(err)],
            hint="Choose another by --host and --port; --port 0 takes a free one.",
        ) from err


def url_of(settings: ServeSettings, listener: socket.socket) -> str:
    """Where the server is reached."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.has_tls else "http"
    return f"{scheme}://{host}:{listener.getsockname()[1]}"
