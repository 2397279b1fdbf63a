"""An independent reference without PyTorch: the plain graph with float weights, LoRA merged in.

Every MatMulNBits node of a bundle's graph without sockets becomes an ordinary MatMul with the
dequantized weight, to which ``B @ A`` of the adapter is added: no socket, no packing, no adapter
file and no quantized kernel takes part.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.adapters.peft_dir import LoraPair
from edgekit.building.dequantize import matmul_weight
from edgekit.building.passes import keep_all_logits, widen_to_float32
from edgekit.building.sessions import feeds_of
from edgekit.building.weights import load_graph
from edgekit_runtime.contract import SocketContract

Array = npt.NDArray[np.float32]
Modules = Mapping[str, LoraPair]


class MergedReference:
    """A target's plain graph in float32, one session for each adapter, opened when asked for.

    Use it as a context manager: the merged weights lie in a temporary directory.

    Args:
        target: Directory with base.onnx and genai_config.json.
        contract: Says which modules each matmul holds.
        adapters: Name to its modules; the base is ``""``.
        threads: Intra-op threads of every session.
    """

    def __init__(
        self, target: Path, contract: SocketContract, adapters: Mapping[str, Modules], threads: int
    ) -> None:
        self._target = target
        self._contract = contract
        self._adapters = {"": {}, **adapters}
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
        self._decoder = config["model"]["decoder"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sessions.clear()

    def logits(self, adapter: str, row: Sequence[int]) -> Array:
        """Logits (positions, vocabulary) with an adapter, or without one for ``""``."""
        if adapter not in self._sessions:
            # The base is asked beside every adapter; more than two sets of weights need not be.
            for name in [name for name in self._sessions if name]:
                del self._sessions[name]
            self._sessions[adapter] = self._open(self._adapters[adapter])
        session = self._sessions[adapter]
        (logits,) = session.run(["logits"], feeds_of(session, row, self._decoder))
        return np.asarray(logits[0], np.float32)

    def _open(self, modules: Modules) -> Any:
        import onnxruntime as ort

        model = load_graph(self._target / "base.onnx")
        merge(model, self._contract, modules)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "merged.onnx"
            ir.save(model, path, external_data="merged.data")
            return ort.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )


def merge(model: ir.Model, contract: SocketContract, modules: Modules) -> None:
    """Make a plain float32 decoder of a bundle's ``base.onnx``, with an adapter merged, in place.

    Args:
        model: The graph, its weights in reach.
        contract: Its sockets: which modules each matmul holds.
        modules: The adapter's A and scaled B by module; empty for the base.
    """
    sockets = {socket.name: socket for socket in contract.sockets}
    for node in [node for node in model.graph if node.op_type == "MatMulNBits"]:
        weight = matmul_weight(node).values
        path = (node.name or "").strip("/").replace("/", ".").rpartition(".")[0]
        for part in sockets[path].parts if path in sockets else ():
            if pair := modules.get(part.module):
                a, b = (half.astype(contract.dtype).astype(np.float32) for half in (pair.a, pair.b))
                rows = b[part.start : part.start + part.n] @ a
                weight[part.offset : part.offset + part.n] += rows
        _replace(model.graph, node, np.ascontiguousarray(weight.T))
    keep_all_logits(model)
    widen_to_float32(model)


def _replace(graph: ir.Graph, node: ir.Node, weight: Array) -> None:
    """``MatMulNBits(x)`` becomes ``MatMul(x, weight)``, weight (in, out)."""
    name = f"{node.name}_merged"
    value = ir.Value(
        name=name,
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(weight, name=name),
    )
    graph.register_initializer(value)
    matmul = ir.Node("", "MatMul", [node.inputs[0], value], name=name)
    new = [matmul]
    if len(node.inputs) > 5 and node.inputs[5] is not None:
        new.append(ir.Node("", "Add", [matmul.outputs[0], node.inputs[5]], name=f"{name}_bias"))
    old, out = node.outputs[0], new[-1].outputs[0]
    out.name, old.name = old.name, f"{old.name}_quantized"
    out.type, out.shape = old.type, old.shape
    graph.insert_after(node, new)
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
