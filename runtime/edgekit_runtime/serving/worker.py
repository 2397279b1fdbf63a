"""The process that runs the model: jobs come as JSON lines on stdin, events leave on stdout.

It ends when stdin does, so it never outlives its server.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekit_runtime.bundle import Bundle
from edgekit_runtime.errors import EdgekitRuntimeError, ServeError
from edgekit_runtime.guests import read_guest
from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.serving.answering import Event, answer
from edgekit_runtime.serving.errors import worker_error
from edgekit_runtime.serving.jobs import AUTO, Job
from edgekit_runtime.serving.kept import KeptCaches
from edgekit_runtime.serving.tools import tool_format
from edgekit_runtime.strict_json import loads
from edgekit_runtime.targets import choose_target

if TYPE_CHECKING:
    from edgekit_runtime.routing import Router

Message = dict[str, Any]


class Worker:
    """Takes jobs, runs them in turns of one step, and tells of them.

    Args:
        loaded: What to run.
        kept: Caches for prompts that begin alike.
        send: Takes an event for the server.
        router: Picks the adapter of jobs that leave it open.
    """

    def __init__(
        self,
        loaded: LoadedTarget,
        kept: KeptCaches,
        send: Callable[[Event], None],
        router: "Router | None" = None,
    ) -> None:
        self._loaded = loaded
        self._kept = kept
        self._send = send
        self._router = router
        self._running: dict[int, Generator[Event | None, None, None]] = {}
        self._sound: set[int] = set()

    def run(self, inbox: "queue.SimpleQueue[Message | None]") -> None:
        """Work until the inbox holds None."""
        while True:
            while not self._running or not inbox.empty():
                message = inbox.get()
                if message is None:
                    return
                self._handle(message)
            for id_ in list(self._running):
                self._step(id_)

    def _handle(self, message: Message) -> None:
        id_, op = message["id"], message["op"]
        if op == "answer":
            job = Job.from_dict(message["job"])
            self._running[id_] = answer(self._loaded, self._kept, job, self._router)
        elif op == "cancel":
            self._cancel(id_)
        else:
            change = self._load if op == "load" else self._unload
            self._told(id_, lambda: change(message))

    def _step(self, id_: int) -> None:
        def step() -> Event | None:
            return next(self._running[id_])

        event = self._told(id_, step)
        if event is None:
            return
        if event["event"] == "started":
            self._sound.add(id_)
        elif event["event"] == "done":
            self._forget(id_)

    def _told(self, id_: int, act: Callable[[], Event | None]) -> Event | None:
        """Do something, and tell the server of what came of it, errors too."""
        try:
            event = act()
        except Exception as err:
            if not isinstance(err, EdgekitRuntimeError):
                # Without its text, which may hold some of the prompt.
                traceback.print_tb(err.__traceback__)
                print(f"{type(err).__name__} in the worker", file=sys.stderr)
                err = EdgekitRuntimeError(f"the worker failed: {type(err).__name__}")
            told = worker_error(err, is_running=id_ in self._sound)
            self._forget(id_)
            event = {"event": "error", "error": told}
        if event is not None:
            self._send(event | {"id": id_})
        return event

    def _cancel(self, id_: int) -> None:
        if id_ in self._running:
            self._running[id_].close()
            self._forget(id_)
            self._send({"event": "cancelled", "id": id_})

    def _forget(self, id_: int) -> None:
        if id_ in self._running:
            self._running.pop(id_).close()
        self._sound.discard(id_)

    def _load(self, message: Message) -> Event:
        name = message["name"]
        guest = read_guest(
            name,
            Path(message["path"]),
            base_fingerprint=self._loaded.bundle.manifest.base.fingerprint,
            contract=self._loaded.contract(),
        )
        self._loaded.add_guest(guest)
        return {"event": "done", "is_single_turn": guest.card.prompt_template is not None}

    def _unload(self, message: Message) -> Event:
        self._kept.drop_adapter(message["name"])
        self._loaded.remove_guest(message["name"])
        return {"event": "done"}


def open_target(settings: Mapping[str, Any]) -> LoadedTarget:
    """Open the bundle and load what every request needs.

    Raises:
        EdgekitRuntimeError: If it cannot be served.
    """
    bundle = Bundle.open(settings["bundle"])
    loaded = LoadedTarget(
        bundle,
        choose_target(bundle.manifest, settings["target"]).name,
        threads=settings["threads"],
        adapter_budget_bytes=settings["adapter_budget_bytes"],
        context_length=settings["context_length"],
    )
    # A bundle that cannot be run is refused now. Where there are adapters, most requests name one.
    first = min(bundle.manifest.adapters, default=None)
    loaded.tokenizer(adapter=first)
    return loaded


def open_router(loaded: LoadedTarget, settings: Mapping[str, Any] | None) -> "Router | None":
    """What picks adapters, where the server is set up to; it runs every example once.

    Args:
        loaded: What is served.
        settings: The arguments ``examples`` and ``threshold`` of `Engine.router`, or None.

    Raises:
        EdgekitRuntimeError: If the examples do not do.
    """
    if settings is None:
        return None
    if AUTO in loaded.adapter_names():
        raise ServeError(
            f"an adapter is called {AUTO!r}, as the model that picks one would be",
            hint="Serve without routing, or build the bundle with another name.",
        )
    from edgekit_runtime.routing import Router

    return Router(loaded, settings["examples"], settings["threshold"])


def describe(loaded: LoadedTarget, router: "Router | None" = None) -> Event:
    """What the server tells of the bundle."""
    manifest = loaded.bundle.manifest
    adapters = loaded.adapter_names()
    template = _chat_template(loaded.bundle.path / manifest.tokenizer)
    return {
        "event": "ready",
        "id": 0,
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "base": manifest.base.name,
        "target": loaded.name,
        "context_length": loaded.context_length,
        "adapters": {name: _is_single_turn(loaded, name) for name in adapters},
        "routed": None if router is None else router.adapters,
        "tool_format": tool_format(template),
    }


def _is_single_turn(loaded: LoadedTarget, adapter: str) -> bool:
    """Whether it fills a prompt template of its own, so that no conversation reaches it."""
    with suppress(EdgekitRuntimeError):  # a card that is broken is told to whoever asks for it
        return loaded.card(adapter).prompt_template is not None
    return False


def _chat_template(folder: Path) -> str:
    """The base's chat template, empty where there is none."""
    with suppress(OSError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    with suppress(OSError, ValueError, KeyError, TypeError):
        config = loads((folder / "tokenizer_config.json").read_bytes())
        return str(config["chat_template"])
    return ""


def main() -> int:
    """Serve the process's own stdin and stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to hear
    logging.basicConfig(level=logging.WARNING)
    out = _private_stdout()

    def send(event: Event) -> None:
        out.write(json.dumps(event).encode() + b"\n")
        out.flush()

    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    settings = json.loads(line)
    try:
        loaded = open_target(settings)
        kept = KeptCaches(loaded, max_kept=settings["max_kept"], reuse=settings["reuse"])
        router = open_router(loaded, settings["route"])
        send(describe(loaded, router))
    except EdgekitRuntimeError as err:
        send({"event": "failed", "id": 0, "error": worker_error(err, is_running=True)})
        return 1
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, inbox), daemon=True).start()
    with suppress(BrokenPipeError):  # the server is gone
        Worker(loaded, kept, send, router).run(inbox)
    kept.clear()
    loaded.close()
    return 0


def _private_stdout() -> BinaryIO:
    """The real stdout; whatever else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


def _read(lines: BinaryIO, inbox: "queue.SimpleQueue[Message | None]") -> None:
    try:
        for line in lines:
            inbox.put(json.loads(line))
    finally:  # also where the server died in the middle of a line
        inbox.put(None)


if __name__ == "__main__":
    sys.exit(main())
