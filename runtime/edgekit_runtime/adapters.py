"""The adapter pool of one graph: loads on demand, keeps within a byte budget, swaps in O(1)."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.blending import as_file, blend
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import AdapterError
from edgekit_runtime.graphs import DecoderGraph

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSource:
    """Where an adapter's tensors lie and what the manifest says of them."""

    name: str
    path: Path
    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendSource:
    """Adapters that are added up, each with its weight."""

    name: str
    parts: tuple[tuple[AdapterSource, float], ...]

    @property
    def size_bytes(self) -> int:
        """What the sum of them takes: as much as all of them."""
        return sum(source.size_bytes for source, _ in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterStatus:
    """An adapter as the engine sees it.

    Attributes:
        in_use: How many sessions and running requests hold it.
        size_bytes: Size of its tensors' file, which counts against the budget.
    """

    name: str
    loaded: bool
    pinned: bool
    in_use: int
    size_bytes: int


class _Resident:
    """A loaded adapter."""

    def __init__(self, source: AdapterSource | BlendSource) -> None:
        self.source = source
        self.in_use = 0
        self.pinned = False


class AdapterLease:
    """Keeps an adapter loaded while a generator uses it."""

    def __init__(self, resident: _Resident, container: Any, graph: DecoderGraph) -> None:
        self._resident: _Resident | None = resident
        self._container = container
        self._graph = graph
        self.name = resident.source.name
        resident.in_use += 1

    def activate(self, generator: Any) -> None:
        """Plug the adapter into a new generator."""
        generator.set_active_adapter(self._container, self.name)

    def release(self) -> None:
        """Let the adapter go; further calls do nothing."""
        with self._graph.lock:
            if self._resident is not None:
                self._resident.in_use -= 1
                self._resident = None


class AdapterPool:
    """Adapters of one graph.

    Args:
        graph: The graph with sockets.
        contract: What fits the sockets.
        find: Gives the source of an adapter or blend by name; raises AdapterError.
        budget_bytes: Adapters that nobody uses are unloaded, the least recently used first,
            to stay below this.
        cache_dir: For systems where a blend has to be a file; None: nowhere.
    """

    def __init__(
        self,
        graph: DecoderGraph,
        *,
        contract: SocketContract,
        find: Callable[[str], AdapterSource | BlendSource],
        budget_bytes: int,
        cache_dir: Path | None,
    ) -> None:
        self._graph = graph
        self._contract = contract
        self._find = find
        self._budget_bytes = budget_bytes
        self._cache_dir = cache_dir
        self._container = graph.new_adapters()
        self._resident: OrderedDict[str, _Resident] = OrderedDict()

    def acquire(self, name: str) -> AdapterLease:
        """Load an adapter unless it is there, and hold it.

        Raises:
            AdapterError: If it is unknown, changed, does not fit, or finds no room.
        """
        with self._graph.lock:
            return AdapterLease(self._load(name), self._container, self._graph)

    def check(self, name: str) -> None:
        """Refuse an adapter that could not be loaded, room aside."""
        with self._graph.lock:
            if name not in self._resident:
                self._checked(self._find(name))

    def load(self, name: str, *, pin: bool = False) -> None:
        """Load an adapter ahead of its use; a pinned one stays."""
        with self._graph.lock:
            resident = self._load(name)
            resident.pinned = resident.pinned or pin

    def unpin(self, name: str) -> None:
        """Let a pinned adapter be unloaded again."""
        with self._graph.lock:
            self._find(name)
            if name in self._resident:
                self._resident[name].pinned = False

    def unload(self, name: str) -> None:
        """Unload an adapter, pinned or not; one that is not loaded stays so.

        Raises:
            AdapterError: If it is unknown or in use.
        """
        with self._graph.lock:
            self._find(name)
            resident = self._resident.get(name)
            if resident is None:
                return
            if resident.in_use:
                raise AdapterError(
                    f"adapter {name!r} is in use",
                    problems=[f"held by {resident.in_use} session(s) or running request(s)"],
                    hint="Swap or close those sessions first.",
                )
            self._drop(name)

    def status(self, name: str) -> AdapterStatus:
        """How an adapter stands."""
        with self._graph.lock:
            source, resident = self._find(name), self._resident.get(name)
            return AdapterStatus(
                name=name,
                loaded=resident is not None,
                pinned=resident is not None and resident.pinned,
                in_use=resident.in_use if resident else 0,
                size_bytes=source.size_bytes,
            )

    def close(self) -> None:
        """Unload everything; every generator must be gone by then."""
        self._resident.clear()
        self._container = None

    def _load(self, name: str) -> _Resident:
        if name in self._resident:
            self._resident.move_to_end(name)
            return self._resident[name]
        source = self._find(name)
        checked = self._checked(source)
        self._make_room(source)
        try:
            with self._path_of(source, checked) as path:
                self._container.load(path, name)
        except RuntimeError as err:
            raise AdapterError(
                f"adapter {name!r} cannot be loaded", problems=[str(err).strip()]
            ) from err
        self._resident[name] = _Resident(source)
        return self._resident[name]

    @contextmanager
    def _path_of(self, source: AdapterSource | BlendSource, checked: AdapterFile) -> Iterator[str]:
        if isinstance(source, AdapterSource):
            yield str(source.path)
        else:
            with as_file(checked.data, self._cache_dir) as path:
                yield path

    def _checked(self, source: AdapterSource | BlendSource) -> AdapterFile:
        """Refuse what was changed or does not fit, before the native code sees it."""
        if isinstance(source, AdapterSource):
            return self._fitting(source.name, self._unchanged(source))
        parts = [(self._checked(part), weight) for part, weight in source.parts]
        return self._fitting(source.name, blend(parts, self._contract))

    def _unchanged(self, source: AdapterSource) -> bytes:
        """An adapter's bytes, if they are those of the manifest."""
        try:
            data = source.path.read_bytes()
        except OSError as err:
            raise AdapterError(
                f"adapter {source.name!r} cannot be read", problems=[str(err)]
            ) from err
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest != source.digest:
            raise AdapterError(
                f"adapter {source.name!r} was changed after the bundle was built",
                problems=[f"{source.path.name}: expected {source.digest}, got {digest}"],
                hint="Fetch the bundle again, or add the adapter again: edgekit bundle add.",
            )
        return data

    def _fitting(self, name: str, data: bytes) -> AdapterFile:
        file = AdapterFile.from_bytes(data, where=f"adapter {name!r}")
        problems = self._contract.problems(file.infos) + file.value_problems()
        if problems:
            raise AdapterError(
                f"adapter {name!r} does not fit this target",
                problems=problems,
                hint="Build the bundle again with this adapter, or train it on this base.",
            )
        return file

    def _make_room(self, source: AdapterSource | BlendSource) -> None:
        used = sum(resident.source.size_bytes for resident in self._resident.values())
        idle = [n for n, r in self._resident.items() if not r.in_use and not r.pinned]
        while used + source.size_bytes > self._budget_bytes and idle:
            used -= self._resident[idle[0]].source.size_bytes
            self._drop(idle.pop(0))
        if used + source.size_bytes > self._budget_bytes:
            raise AdapterError(
                f"no room for adapter {source.name!r}",
                problems=[
                    f"needs {source.size_bytes} bytes; {used} of the budget's "
                    f"{self._budget_bytes} bytes are pinned or in use"
                ],
                hint="Raise adapter_budget_bytes, unpin adapters, or close sessions.",
            )

    def _drop(self, name: str) -> None:
        self._container.unload(name)
        del self._resident[name]
        _log.debug("unloaded adapter %s", name)
