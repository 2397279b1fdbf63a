"""A target in memory: its graphs, tokenizer and adapter pools, each loaded when first needed."""

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit_runtime.adapter_choice import blend_weights
from edgekit_runtime.adapters import AdapterPool, AdapterSource, AdapterStatus, BlendSource
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.constraints import Constraint
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.decoder import Decoder
from edgekit_runtime.errors import AdapterError, GenerationError, TargetError
from edgekit_runtime.graphs import DecoderGraph
from edgekit_runtime.guests import Guest
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Graph, Tokenizer, configured_threads, default_threads
from edgekit_runtime.static_graph import STATIC_INPUTS, StaticGraph

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle

GraphKind = Literal["base", "model", "score"]


class LoadedTarget:
    """What an engine and its sessions share.

    Args:
        bundle: The bundle.
        name: One of its targets, which works here.
        threads: Threads for one operator, or None for the default.
        adapter_budget_bytes: Budget of each graph's adapter pool.
        context_length: Shorter context than the target's, or None.
    """

    def __init__(
        self,
        bundle: "Bundle",
        name: str,
        *,
        threads: int | None,
        adapter_budget_bytes: int,
        context_length: int | None,
    ) -> None:
        self.bundle = bundle
        self.name = name
        self.record = bundle.manifest.targets[name]
        folder = bundle.path / self.record.path
        self.threads = threads if threads is not None else _default_threads(folder)
        longest = self.record.context_length
        self.context_length = longest if context_length is None else context_length
        _check_settings(self.threads, adapter_budget_bytes, self.context_length, longest)
        self.lock = TurnLock()
        self._budget_bytes = adapter_budget_bytes
        self._graphs: dict[GraphKind, DecoderGraph] = {}
        self._pools: dict[GraphKind, AdapterPool] = {}
        self._tokenizer: Tokenizer | None = None
        self._guests: dict[str, Guest] = {}
        self._decoders: weakref.WeakSet[Decoder] = weakref.WeakSet()
        self._is_closed = False

    def tokenizer(self, *, adapter: str | None = None) -> Tokenizer:
        """The tokenizer; loads the graph that a request for this adapter needs, if none is."""
        with self.lock:
            self._check_open()
            if self._tokenizer is None:
                kind: GraphKind = "base" if adapter is None else "model"
                graph = next(iter(self._graphs.values()), None) or self.graph(kind)
                self._tokenizer = graph.new_tokenizer()
            return self._tokenizer

    def graph(self, kind: GraphKind) -> DecoderGraph:
        """A graph of the target; static graphs are the same one for every kind."""
        with self.lock:
            self._check_open()
            if kind not in self._graphs:
                loaded = next(iter(self._graphs.values()), None)
                is_static = self.record.adapter_mechanism == STATIC_INPUTS
                self._graphs[kind] = loaded if loaded and is_static else self._load(kind)
            return self._graphs[kind]

    def pool(self, kind: GraphKind = "model") -> AdapterPool:
        """The adapters of a graph with sockets."""
        with self.lock:
            if kind not in self._pools:
                self._pools[kind] = AdapterPool(
                    self.graph(kind),
                    contract=self.contract(),
                    find=self.adapter_source,
                    budget_bytes=self._budget_bytes,
                    cache_dir=self.bundle.cache_dir,
                )
            return self._pools[kind]

    def decoder(
        self,
        *,
        adapter: str | None,
        capacity_tokens: int,
        constraint: Constraint | None = None,
        kind: GraphKind | None = None,
        ignore_eos: bool = False,
    ) -> Decoder:
        """A fresh decoder: the base graph without an adapter, the socketed graph with one."""
        with self.lock:
            kind = kind or ("base" if adapter is None else "model")
            graph = self.graph(kind)
            lease = None if adapter is None else self.pool(kind).acquire(adapter)
            try:
                decoder = Decoder(
                    graph,
                    limit_tokens=self.context_length,
                    capacity_tokens=capacity_tokens,
                    lease=lease,
                    constraint=constraint,
                    ignore_eos=ignore_eos,
                )
            except BaseException:
                if lease is not None:
                    lease.release()
                raise
            self._decoders.add(decoder)
            return decoder

    def adapter_names(self) -> list[str]:
        """Every adapter of the bundle that was built for this target."""
        adapters = self.bundle.manifest.adapters
        return [name for name in sorted(adapters) if self.name in adapters[name].files]

    def card(self, name: str) -> AdapterCard:
        """What an adapter is, the bundle's own or a guest.

        Raises:
            AdapterError: If it is unknown, or of another base.
        """
        guest = self._guests.get(name)
        return self.bundle.adapter_card(name) if guest is None else guest.card

    def add_guest(self, guest: Guest) -> None:
        """Take in an adapter from outside the bundle."""
        self._guests[guest.card.name] = guest

    def remove_guest(self, name: str) -> None:
        """Unload a guest and forget it.

        Raises:
            AdapterError: If it is in use.
        """
        with self.lock:
            for pool in self._pools.values():
                pool.unload(name)
            del self._guests[name]

    def adapter_source(self, name: str) -> AdapterSource | BlendSource:
        """Where the tensors of an adapter, or of every adapter of a blend, lie for this target.

        Raises:
            AdapterError: If one is unknown, of another base, or not built for this target.
        """
        weights = blend_weights(name)
        if weights is None:
            return self._file_source(name)
        parts = [(self._file_source(part), weight) for part, weight in weights.items()]
        return BlendSource(name=name, parts=tuple(parts))

    def _file_source(self, name: str) -> AdapterSource:
        if name in self._guests:
            return self._guests[name].source
        self.bundle.adapter_card(name)
        files = self.bundle.manifest.adapters[name].files
        if self.name not in files:
            raise AdapterError(
                f"adapter {name!r} has no file for target {self.name!r}",
                problems=[f"it has: {', '.join(sorted(files)) or 'none'}"],
                hint="Build the bundle again with both.",
            )
        record = self.bundle.record(files[self.name])
        return AdapterSource(
            name=name,
            path=self.bundle.path / record.path,
            digest=record.digest,
            size_bytes=record.size_bytes,
        )

    def adapter_status(self, name: str) -> AdapterStatus:
        """How an adapter stands; loads nothing."""
        with self.lock:
            if "model" in self._pools:
                return self._pools["model"].status(name)
            size_bytes = self.adapter_source(name).size_bytes
            return AdapterStatus(
                name=name, loaded=False, pinned=False, in_use=0, size_bytes=size_bytes
            )

    def close(self) -> None:
        """Free everything: generators first, then adapters, then graphs."""
        with self.lock:
            self._is_closed = True
            for decoder in list(self._decoders):
                decoder.close()
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()
            self._tokenizer = None
            self._graphs.clear()

    def _load(self, kind: GraphKind) -> DecoderGraph:
        folder = self.bundle.path / self.record.path
        if self.record.adapter_mechanism == STATIC_INPUTS:
            return StaticGraph(
                folder=folder,
                graphs=self.record.graphs,
                execution_provider=self.record.execution_provider,
                threads=self.threads,
                lock=self.lock,
            )
        return Graph(
            folder=folder,
            filename=self._filename(kind),
            threads=self.threads,
            lock=self.lock,
            provider=self.record.execution_provider,
        )

    def contract(self) -> SocketContract:
        """What fits the sockets of this target."""
        return SocketContract.from_bytes(
            self.bundle.read(self.record.sockets), where=self.record.sockets
        )

    def _filename(self, kind: GraphKind) -> str:
        if kind not in self.record.graphs:
            raise TargetError(
                f"target {self.name!r} has no {kind!r} graph",
                problems=[f"it has: {', '.join(sorted(self.record.graphs))}"],
                hint="Build the bundle again.",
            )
        return self.record.graphs[kind]

    def _check_open(self) -> None:
        if self._is_closed:
            raise GenerationError(
                "the engine is closed", hint="Use it inside its `with` block, or open another."
            )


def _default_threads(folder: Path) -> int:
    """As the target's own configuration says, else as suits this machine."""
    return configured_threads(folder) or default_threads()


def _check_settings(threads: int, budget_bytes: int, context_length: int, longest: int) -> None:
    problems = []
    if threads < 1:
        problems.append(f"threads: expected at least 1, got {threads}")
    if budget_bytes < 0:
        problems.append(f"adapter_budget_bytes: expected at least 0, got {budget_bytes}")
    if not 2 <= context_length <= longest:
        problems.append(f"context_length: expected 2 to {longest}, got {context_length}")
    if problems:
        raise TargetError("the engine's settings are wrong", problems=problems)
