"""The static graphs of a target as the gate runs them: exact, as exported, as compiled."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.adapters.convert import Parameters, write_onnx_adapter
from edgekit.building.qnn.export import BARE, EXACT
from edgekit.building.target_dir import STATIC_GRAPHS
from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Tokenizer
from edgekit_runtime.static_graph import QNN, StaticAdapters, StaticGraph

# Tokens of a row that go one by one through the decode graph.
DECODED_TOKENS = 2
_CPU = "CPUExecutionProvider"

Logits = npt.NDArray[np.float32]


class Runner:
    """Graphs and adapters, run on rows of tokens by the runtime's own host code.

    Args:
        graph: The graphs.
        adapters: Name to ``.onnx_adapter``.
    """

    def __init__(self, graph: StaticGraph, adapters: Mapping[str, Path]) -> None:
        self._graph = graph
        self._adapters = StaticAdapters()
        for name, path in adapters.items():
            self._adapters.load(str(path), name)

    def logits(self, adapter: str, row: Sequence[int], n_decoded: int = DECODED_TOKENS) -> Logits:
        """Logits (positions, vocabulary), the last ``n_decoded`` from the decode graph."""
        generator = self._graph.new_generator(max_length=len(row))
        if adapter:
            generator.set_active_adapter(self._adapters, adapter)
        split = max(1, len(row) - n_decoded)
        parts = []
        for piece in (row[:split], *([token] for token in row[split:])):
            generator.append_tokens(piece)
            parts.append(generator.get_output("logits")[0])
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runners:
    """One model three times.

    Attributes:
        exact: With float32 compute.
        shipping: In float16, on the CPU provider.
        compiled: What ships, if that is compiled for QNN.
        placement: Execution provider to the number of its nodes, as in `ParityFigures`.
    """

    exact: Runner
    shipping: Runner
    compiled: Runner | None
    tokenizer: Tokenizer
    placement: Mapping[str, int]


@contextmanager
def open_runners(
    target: Path,
    source: Path,
    execution_provider: str,
    adapters: Mapping[str, Path],
    contract: SocketContract,
    threads: int,
) -> Iterator[Runners]:
    """Load all graphs.

    Args:
        target: The directory that ships.
        source: The export that it was made from.
        execution_provider: Where the target runs.
        adapters: Name to the ``.onnx_adapter`` that ships.
        contract: The target's sockets.
        threads: Intra-op threads of every session.
    """

    def load(folder: Path, graphs: Mapping[str, str], provider: str) -> StaticGraph:
        return StaticGraph(
            folder=folder,
            graphs=graphs,
            execution_provider=provider,
            threads=threads,
            lock=TurnLock(),
        )

    with tempfile.TemporaryDirectory() as temporary:
        wide = {
            name: _in_float32(path, Path(temporary) / f"{index}.onnx_adapter", contract)
            for index, (name, path) in enumerate(adapters.items())
        }
        shipped = load(target, STATIC_GRAPHS, execution_provider)
        is_compiled = execution_provider == QNN
        plain = load(source, STATIC_GRAPHS, _CPU) if is_compiled else shipped
        yield Runners(
            exact=Runner(load(source, EXACT, _CPU), wide),
            shipping=Runner(plain, adapters),
            compiled=Runner(shipped, adapters) if is_compiled else None,
            tokenizer=shipped.new_tokenizer(),
            # Nothing else takes a node: what QNN leaves was refused, and the CPU takes all.
            placement={execution_provider: _n_nodes(target)},
        )


def _n_nodes(target: Path) -> int:
    return sum(len(ir.load(target / STATIC_GRAPHS[name]).graph) for name in BARE)


def _in_float32(path: Path, to: Path, contract: SocketContract) -> Path:
    """The shipped adapter's own numbers for graphs with float32 compute."""
    file = AdapterFile.from_bytes(path.read_bytes(), where=path.name)
    wide: Parameters = {name: file.tensor(name).astype(np.float32) for name in file.infos}
    write_onnx_adapter(wide, replace(contract, dtype="float32"), to)
    return to
